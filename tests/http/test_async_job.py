"""http.async_job: one job at the server, whatever happens to the task; both modes end the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.operators import HttpAsyncJobOperator
from flowrunner_provider.http.operators import async_job as module
from flowrunner_provider.http.triggers import HttpJobTrigger
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import HttpServer, Reply, Request, drop, in_turn, json_reply, throttled
from tests.support.kill import Attempt, double_kill, random_kills, sweep, zombies

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "2"))


@dataclass
class Jobs:
    """A server of jobs: each look moves a job on by one of ``states``, the last one stays."""

    server: HttpServer
    path: str = "/jobs"
    states: tuple[str, ...] = ("done",)
    started: list[Request] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    lose: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.server.route("POST", self.path, self.start)
        self.server.route("GET", self.path, lambda _: json_reply({"id": "job 1" if self.started else None}))
        for number in range(1, 6):
            self.server.route("GET", f"{self.path}/job%20{number}", self.look)
            self.server.route("DELETE", f"{self.path}/job%20{number}", self.cancel)
            self.server.route("GET", f"{self.path}/job%20{number}/result", json_reply({"rows": number}))

    def start(self, request: Request) -> Reply:
        with self.lock:
            self.started.append(request)
            lost, self.lose = self.lose > 0, max(0, self.lose - 1)
            return drop() if lost else json_reply({"id": f"job {len(self.started)}"}, 202)

    def look(self, request: Request) -> Reply:
        name = request.path.removeprefix(self.path)
        with self.lock:
            number = self.looks[name] = self.looks.get(name, 0) + 1
        state = "cancelled" if name in self.cancelled else self.states[min(number, len(self.states)) - 1]
        return json_reply({"status": state, "error": {"message": f"it says {state}"}})

    def cancel(self, request: Request) -> Reply:
        self.cancelled.append(request.path.removeprefix(self.path))
        return Reply(204)


def job(path: str = "/jobs", **how: Any) -> HttpAsyncJobOperator:
    poll = {
        "endpoint": f"{path}/{{job_id}}",
        "success": "done",
        "failed": ["failed", "cancelled"],
        "interval": 1,
        **how.pop("poll", {}),
    }
    submit = {"endpoint": path, "json": {"day": 1}, **how.pop("submit", {})}
    result = {"endpoint": f"{path}/{{job_id}}/result", "select": "rows"}
    cancel = {"endpoint": f"{path}/{{job_id}}", "method": "DELETE"}
    return HttpAsyncJobOperator(
        task_id="t", **{"submit": submit, "poll": poll, "result": result, "cancel": cancel, **how}
    )


def connection(url: str, **options: Any) -> str:
    return json.dumps({"conn_type": "http", "host": url, "extra": {"flowrunner": options}})


@pytest.fixture
def jobs(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", connection(http_server.url))
    return Jobs(http_server)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []

    async def apause(seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr(module, "apause", apause)
    return seen


def perform(operator: HttpAsyncJobOperator, state: Path, **context: Any) -> Any:
    """The task to its end, through the triggerer where it defers."""
    method, arguments = "execute", {}
    while True:
        try:
            ready = make_context(operator, state=FileStateStore(state), **context)
            return execute(operator, ready, method, **arguments)
        except TaskDeferred as deferred:
            path, values = deferred.trigger.serialize()
            assert path == "flowrunner_provider.http.triggers.HttpJobTrigger"
            trigger = HttpJobTrigger(**json.loads(json.dumps(values)))
            assert trigger.first_look >= 6
            trigger.poll_interval = trigger.first_look = 0.01
            method = deferred.method_name
            event = asyncio.run(_first(trigger))
            arguments = json.loads(json.dumps({"event": event, **(deferred.kwargs or {})}))
            operator = type(operator)(task_id="t", **_again(operator))


def _again(operator: HttpAsyncJobOperator) -> dict[str, Any]:
    names = ("submit", "poll", "result", "cancel", "job_id_path", "deferrable", "http_conn_id", "timeout", "resume")
    return {name: getattr(operator, name) for name in names}


async def _first(trigger: HttpJobTrigger) -> Any:
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


BOTH = pytest.mark.parametrize("deferrable", [False, True])


@BOTH
def test_a_job_is_started_once_waited_for_and_its_result_fetched(jobs, tmp_path, waits, deferrable):
    jobs.states = ("queued", "running", "done")
    result = perform(job(deferrable=deferrable), tmp_path)
    assert (result["job_id"], result["status"], result["result"]["body"]) == ("job 1", "done", 1)
    assert len(jobs.started) == 1
    assert jobs.started[0].json() == {"day": 1}
    assert perform(job(deferrable=deferrable), tmp_path)["job_id"] == "job 1"
    assert len(jobs.started) == 1, "a retry after a success that Airflow did not hear of"
    assert perform(job(deferrable=deferrable), tmp_path, max_tries=7)["job_id"] == "job 2"
    assert len(jobs.started) == 2, "cleared after a success: a wish to do it again"


@BOTH
def test_a_failed_job_tells_its_own_message(jobs, tmp_path, waits, deferrable):
    jobs.states = ("running", "failed")
    for _ in range(2):
        with pytest.raises(e.Rejected, match=r"job 1 ended as failed: it says failed") as caught:
            perform(job(deferrable=deferrable), tmp_path)
        assert caught.value.code == "failed"
    assert len(jobs.started) == 1, "a retry is no wish for another job"
    jobs.states = ("done",)
    jobs.looks.clear()
    jobs.server.route("GET", "/jobs/job%201", json_reply({"status": "failed"}))
    changed = job(deferrable=deferrable, submit={"json": {"day": 2}})
    assert perform(changed, tmp_path, max_tries=7)["job_id"] == "job 2"
    assert len(jobs.started) == 2


@BOTH
@pytest.mark.parametrize("resume", [True, False])
def test_cleared_while_it_ran_and_cancelled_by_that(jobs, tmp_path, waits, deferrable, resume):
    jobs.states = ("running",)
    with pytest.raises(e.TimedOut):
        perform(job(timeout=0.9), tmp_path)
    jobs.cancelled.append("/job%201")
    jobs.states = ("done",)
    assert perform(job(deferrable=deferrable, resume=resume), tmp_path, max_tries=7)["job_id"] == "job 2"
    assert len(jobs.started) == 2


def test_a_job_that_is_forgotten_is_an_error_until_the_task_is_cleared(jobs, tmp_path):
    jobs.server.route("GET", "/jobs/job%201", Reply(404))
    for _ in range(2):
        with pytest.raises(e.NotFound):
            perform(job(), tmp_path)
    assert len(jobs.started) == 1
    assert perform(job(), tmp_path, max_tries=7)["job_id"] == "job 2"


def test_a_running_job_is_found_again(jobs, tmp_path, waits):
    jobs.states = ("running",)
    with pytest.raises(e.TimedOut) as caught:
        perform(job(timeout=0.9), tmp_path)
    assert "keeps waiting" in caught.value.remedy
    jobs.states = ("done",)
    assert perform(job(), tmp_path)["job_id"] == "job 1"
    assert perform(job(resume=False), tmp_path)["job_id"] == "job 1"
    assert len(jobs.started) == 1


def test_the_wait_is_as_long_as_the_server_asks(jobs, tmp_path, waits, monkeypatch):
    route = in_turn(
        json_reply({"status": "running"}, 200, **{"Retry-After": "33"}), throttled("1.5"), Reply(500), jobs.look
    )
    jobs.server.route("GET", "/jobs/job%201", route)
    monkeypatch.setenv("AIRFLOW_CONN_SLOW_JOBS", os.environ["AIRFLOW_CONN_HTTP_DEFAULT"])
    perform(job(http_conn_id="slow_jobs"), tmp_path)
    assert waits[:2] == [33.0, 1.5]
    assert len(waits) == 3


def test_a_lost_start_is_looked_for(jobs, tmp_path):
    jobs.lose = 1
    how = {"submit": {"reconcile": {"endpoint": "/jobs", "exists_when": "id"}}}
    with pytest.raises(e.OutcomeUnknown):
        perform(job(**how), tmp_path)
    assert perform(job(**how), tmp_path)["job_id"] == "job 1"
    assert len(jobs.started) == 1


def test_a_put_is_started_once_too(jobs, tmp_path):
    jobs.server.route("PUT", "/jobs", jobs.start)
    for _ in range(2):
        assert perform(job(submit={"method": "PUT"}), tmp_path)["job_id"] == "job 1"
    assert len(jobs.started) == 1


def test_the_id_cannot_lead_elsewhere(jobs, tmp_path):
    jobs.server.route("POST", "/jobs", json_reply({"id": "../admin?x=1#"}))
    jobs.server.route("*", "*", json_reply({"status": "done"}))
    perform(job(result=None), tmp_path)
    assert jobs.server.requests[-1].path == "/jobs/..%2Fadmin%3Fx%3D1%23"


@pytest.mark.parametrize("answer", [{"id": True}, {"id": {}}, {"id": ""}, {"id": ".."}, {}])
def test_an_answer_without_an_id_is_not_asked_for_again(jobs, tmp_path, answer):
    jobs.server.route("POST", "/jobs", json_reply(answer))
    for _ in range(2):
        with pytest.raises(e.IntegrityError):
            perform(job(), tmp_path)
    assert sum(request.method == "POST" for request in jobs.server.requests) == 1


def test_a_wrong_status_path_ends_the_wait_and_can_be_mended(jobs, tmp_path):
    with pytest.raises(e.ConfigError) as caught:
        perform(job(poll={"status_path": "state"}), tmp_path)
    assert caught.value.field == "poll.status_path"
    assert perform(job(), tmp_path, max_tries=7)["job_id"] == "job 1"
    assert len(jobs.started) == 1


def test_a_result_goes_to_a_file(jobs, tmp_path):
    path = tmp_path / "out.json"
    perform(job(result={"endpoint": "/jobs/{job_id}/result", "save_to": str(path)}), tmp_path / "s")
    assert json.loads(path.read_text()) == {"rows": 1}


# The end by a user


class Ti:
    dag_id, run_id, task_id, map_index = "d", "r", "t", -1

    def __init__(self, state: Any) -> None:
        self.state = state

    def get_task_states(self, **_: Any) -> Any:
        return {"r": {"t": self.state}}


@pytest.mark.parametrize(
    ("state", "cancelled"), [("failed", True), ("restarting", True), (None, True), ("running", False)]
)
def test_a_users_kill_cancels_the_job_and_a_shutdown_does_not(jobs, tmp_path, monkeypatch, state, cancelled):
    jobs.states = ("running",)
    operator = job()

    async def killed(_: float) -> None:
        operator._ti = Ti(state)
        operator.on_kill()
        raise e.Unavailable("the process ends here")

    monkeypatch.setattr(module, "apause", killed)
    with pytest.raises(e.Unavailable):
        perform(operator, tmp_path)
    assert jobs.cancelled == (["/job%201"] if cancelled else [])


def until_sigterm(scene: Scene) -> Any:
    """As Airflow's task runner does it: the handler calls ``on_kill``."""
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = connection(scene.url)
    operator = job(scene.path)
    module.stopped_by_user = lambda _: True
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    return perform(operator, scene.directory)


@pytest.mark.faults
def test_a_signal_in_the_middle_of_a_wait_cancels_the_job(stage, tmp_path):
    scene = stage.scene(("running",))
    jobs = stage.jobs[scene.path]
    running = Attempt(until_sigterm, scene)
    deadline = time.monotonic() + 20
    while not jobs.looks and time.monotonic() < deadline:
        time.sleep(0.02)
    running.kill(signal.SIGTERM)
    outcome = running.wait(20)
    assert jobs.cancelled == ["/job%201"]
    assert outcome.error_type == "TransientError", outcome.error


def test_without_a_job_nothing_is_cancelled(jobs, tmp_path):
    operator = job()
    operator.on_kill()
    perform(operator, tmp_path)
    operator._ti = Ti("failed")
    operator.on_kill()
    assert jobs.cancelled == []


def test_a_users_kill_of_a_deferred_task_cancels_the_job(jobs, tmp_path):
    jobs.states = ("running",)
    operator = job(deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        execute(operator, make_context(operator, state=FileStateStore(tmp_path)))
    assert caught.value.timeout.total_seconds() <= 3600
    trigger = caught.value.trigger
    asyncio.run(trigger.cleanup())
    assert jobs.cancelled == [], "the triggerer goes down: nothing of the user's wish"
    asyncio.run(trigger.on_kill())
    assert jobs.cancelled == ["/job%201"]
    jobs.server.route("DELETE", "/jobs/job%201", Reply(403))
    asyncio.run(trigger.on_kill())


def test_an_event_of_an_error_is_the_error(jobs, tmp_path):
    jobs.states = ("running",)
    operator = job(deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        execute(operator, make_context(operator, state=FileStateStore(tmp_path)))
    jobs.server.route("GET", "/jobs/job%201", Reply(403))
    trigger = caught.value.trigger
    trigger.poll_interval = trigger.first_look = 0.01
    event = asyncio.run(_first(trigger))
    with pytest.raises(e.AccessDenied):
        execute(
            operator, make_context(operator, state=tmp_path), "execute_complete", event=event, **caught.value.kwargs
        )


def test_a_wait_in_the_triggerer_that_takes_too_long_is_the_same_error(jobs, tmp_path):
    operator = job(deferrable=True)
    with pytest.raises(e.TimedOut):
        operator.resume_execution("__fail__", {"error": "Trigger timeout"}, make_context(operator, state=tmp_path))


@pytest.mark.parametrize(
    "how",
    [
        {"submit": {"endpoint": ""}, "http_conn_id": "nowhere"},
        {"submit": {"method": "GET"}},
        {"submit": {"data": "x"}},
        {"submit": {"jsn": {}}},
        {"submit": {"reconcile": {"endpoint": "/x"}}},
        {"poll": {"endpoint": "/jobs"}},
        {"poll": {"success": "failed"}},
        {"poll": {"success": []}},
        {"poll": {"interval": "0s"}},
        {"poll": {"interval": "soon"}},
        {"poll": {"status_path": "]["}},
        {"poll": {"headers": {"Authorization": "x"}}},
        {"cancel": {"endpoint": "/jobs"}},
        {"result": {"endpoint": "/jobs"}},
        {"result": {"endpoint": "/{job_id}", "select": "]["}},
        {"result": {"endpoint": "/{job_id}", "save_to": "relative"}},
        {"job_id_path": "]["},
        {"job_id_path": ""},
        {"timeout": "soon"},
    ],
)
def test_bad_input_is_named_before_anything_is_sent(jobs, tmp_path, how):
    with pytest.raises(e.ConfigError) as caught:
        perform(job(**how), tmp_path)
    assert caught.value.field
    assert caught.value.remedy
    assert jobs.server.requests == []


# Killed


@dataclass(frozen=True)
class Scene:
    directory: Path
    url: str
    path: str


class Stage:
    def __init__(self, server: HttpServer, root: Path) -> None:
        self.server, self.root, self.jobs = server, root, dict[str, Jobs]()

    def scene(self, states: tuple[str, ...]) -> Scene:
        path = f"/{len(self.jobs)}/jobs"
        self.jobs[path] = Jobs(self.server, path, states)
        return Scene(self.root / f"scene-{len(self.jobs)}", self.server.url, path)

    def one_job(self, scene: Scene) -> None:
        assert len(self.jobs[scene.path].started) == 1
        assert self.jobs[scene.path].cancelled == []


@pytest.fixture
def stage(http_server: HttpServer, tmp_path: Path) -> Stage:
    return Stage(http_server, tmp_path)


def at_once(scene: Scene, **how: Any) -> Any:
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = connection(scene.url)
    submit = {"reconcile": {"endpoint": scene.path, "exists_when": "id"}}
    return perform(job(scene.path, submit=submit, **how), scene.directory)


def through_the_triggerer(scene: Scene) -> Any:
    return at_once(scene, deferrable=True)


def of_a_failure(scene: Scene) -> Any:
    with pytest.raises(e.Rejected):
        at_once(scene)
    return "failed"


def stops(point: str) -> bool:
    """Where attempts stop by default; FLOWRUNNER_KILLS=3: everywhere."""
    return KILLS > 2 or point.startswith(("effect.", "http.async_job.before"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("target", "states"),
    [
        (at_once, ("done",)),
        (through_the_triggerer, ("running", "running", "running", "running", "done")),
        (of_a_failure, ("failed",)),
    ],
)
def test_one_job_whatever_is_killed(stage, target, states):
    sweep(lambda: stage.scene(states), target, stage.one_job)
    zombies(lambda: stage.scene(states), target, stage.one_job, at=stops)
    if target is not through_the_triggerer:
        return
    double_kill(lambda: stage.scene(states), target, stage.one_job, limit=KILLS)
    random_kills(lambda: stage.scene(states), target, stage.one_job, count=KILLS)
