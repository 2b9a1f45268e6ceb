"""webhook.notify, called as Airflow calls it, seen by a receiver that verifies."""

from __future__ import annotations

import asyncio
import time

import pytest
import structlog
from airflow.sdk import DAG, BaseOperator
from airflow.triggers.callback import CallbackTrigger

from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.webhooks.notifier import WebhookNotifier
from tests.support.context import make_context
from tests.support.http_server import Reply, drop, in_turn, throttled
from tests.webhooks.receiver import Receiver

CANARY = "canary-password-99"


@pytest.fixture
def receiver(connect, http_server) -> Receiver:
    http_server.route("POST", "/in", receiver := Receiver())
    return receiver


def context_of(state="failed", **more):
    context = make_context(**{"exception": ValueError(f"login {CANARY} failed"), "params": {"p": CANARY}, **more})
    context["ti"].state = context["dag_run"].state = state
    return context


def test_a_failure_is_told_without_the_context(receiver):
    WebhookNotifier(endpoint="/in")(context_of(map_index=3, try_number=2))
    (request,) = receiver.accepted
    body = request.json()
    assert body["type"] == "airflow.task.failed"
    assert body["data"] == {
        "dag_id": "dag",
        "run_id": "manual__2026-01-02T03:04:05+00:00",
        "logical_date": "2026-01-02T03:04:05+00:00",
        "state": "failed",
        "task_id": "task",
        "map_index": 3,
        "try_number": 2,
        "log_url": "http://airflow.test/dags/dag/runs/manual__2026-01-02T03:04:05+00:00/tasks/task",
        "exception": "ValueError",
    }
    assert CANARY.encode() not in request.body


def test_a_repeated_callback_is_recognised_and_another_try_is_not(receiver):
    for context in (
        context_of(),
        context_of(),
        context_of(try_number=2),
        context_of(state="up_for_retry"),
        context_of(map_index=1),
        context_of(task_id="other"),
    ):
        WebhookNotifier(endpoint="/in")(context)
    assert (len(receiver.seen), len(receiver.accepted)) == (6, 5)


def test_a_payload_and_a_type_of_ones_own(receiver):
    WebhookNotifier(endpoint="/in", payload={"text": "{{ ti.task_id }} {{ ds }}"}, event_type="pager.{{ ti.state }}")(
        context_of()
    )
    body = receiver.accepted[0].json()
    assert (body["type"], body["data"]) == ("pager.failed", {"text": "task 2026-01-02"})


def test_a_callback_of_the_dag_is_about_the_run(receiver):
    with_last_task = context_of(reason="task_failure")
    bare = {"dag": DAG("dag", schedule=None), "run_id": "r1", "reason": "timed_out"}
    for context in (with_last_task, bare):
        WebhookNotifier(endpoint="/in", payload=None)(context)
    first, second = (request.json() for request in receiver.accepted)
    assert (first["type"], second["type"]) == ("airflow.dag_run.failed", "airflow.dag_run.ended")
    assert "task_id" not in first["data"]
    assert second["data"] == {"dag_id": "dag", "run_id": "r1"}


def test_a_deadline_alert_awaits_it_in_the_triggerer(receiver):
    context = {
        "dag_run": {"dag_id": "d", "dag_run_id": "r", "state": "running", "conf": {"p": CANARY}},
        "deadline": {"id": "0198", "deadline_time": "2026-01-02T03:04:05Z"},
    }

    path = f"{WebhookNotifier.__module__}.{WebhookNotifier.__name__}"
    trigger = CallbackTrigger(path, {"endpoint": "/in", "context": context})

    async def states() -> list[str]:
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(states()) == ["running", "success"]
    body = receiver.accepted[0].json()
    assert body["type"] == "airflow.deadline.missed"
    wanted = {"dag_id": "d", "run_id": "r", "state": "running", "deadline": "2026-01-02T03:04:05Z"}
    assert body["data"] == wanted


def test_what_is_about_nothing_gets_an_id_of_its_own(receiver):
    for _ in range(2):
        WebhookNotifier(endpoint="/in")({})
    assert len(receiver.ids) == 2


def test_it_tries_three_times_under_one_id(receiver, http_server):
    http_server.route("POST", "/in", in_turn(Reply(500), drop(), receiver))
    WebhookNotifier(endpoint="/in")(context_of())
    assert len(receiver.accepted) == 1
    assert len({request.headers["webhook-id"] for request in http_server.requests}) == 1
    http_server.route("POST", "/in", Reply(500))
    with pytest.raises(e.Unavailable):
        WebhookNotifier(endpoint="/in")(context_of())
    assert len(http_server.requests) == 6


def test_it_waits_neither_for_a_throttling_nor_for_a_silent_receiver(receiver, http_server):
    http_server.route("POST", "/in", throttled("3600"))
    with pytest.raises(e.Throttled):
        WebhookNotifier(endpoint="/in")(context_of())
    http_server.route("POST", "/in", Reply(200, wait=30))
    pacer_for.cache_clear()
    began = time.monotonic()
    with pytest.raises(e.TransientError):
        WebhookNotifier(endpoint="/in", timeout=0.5)(context_of())
    assert time.monotonic() - began < 20


def test_its_failure_leaves_the_tasks_own_error_alone(receiver, http_server, caplog):
    http_server.route("POST", "/in", Reply(410))
    from airflow.sdk.execution_time.task_runner import _run_task_state_change_callbacks

    seen = []
    callbacks = [WebhookNotifier(endpoint="/in"), lambda context: seen.append(context["exception"])]
    task = BaseOperator(task_id="t", on_failure_callback=callbacks)
    context = context_of(task=task)
    _run_task_state_change_callbacks(task, "on_failure_callback", context, structlog.get_logger())
    assert seen == [context["exception"]]
    assert len(http_server.requests) == 1
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"sign": "md5"}, "sign"),
        ({"payload": {1, 2}}, "payload"),
        ({"headers": {"webhook-signature": "v1,x"}}, "headers"),
        ({"http_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(receiver, http_server, how, field):
    with pytest.raises(e.ConfigError) as caught:
        WebhookNotifier(endpoint="/in", **how)(context_of())
    assert caught.value.field == field
    assert http_server.requests == []
