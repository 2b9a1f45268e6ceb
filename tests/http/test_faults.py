"""Killed anywhere and run again: what the server saw and what lies on the disk are as if nothing had happened."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.core.run import Run
from flowrunner_provider.http import download, pagination
from flowrunner_provider.http.operators import HttpDownloadOperator, HttpPaginateOperator, HttpRequestOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Blob, Effects, HttpServer, Reply, drop, json_reply, throttled
from tests.support.kill import Attempt, Outcome, attempt, double_kill, kill_at, random_kills, sweep, zombies

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "2"))
DATA = bytes(range(256)) * 2400
ROWS = [{"id": number, "name": f"row {number}"} for number in range(13)]


@dataclass(frozen=True)
class Scene:
    directory: Path
    url: str
    number: int

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def path(self, name: str) -> str:
        return f"/{self.number}/{name}"


class Stage:
    """One server, and a path of its own for each scene."""

    def __init__(self, server: HttpServer, root: Path) -> None:
        self.server, self.root, self.number = server, root, 0
        self.effects: dict[int, Effects] = {}

    def scene(self, *, key_header: str | None = "Idempotency-Key", **effects) -> Scene:
        self.number += 1
        directory = self.root / f"scene-{self.number}"
        directory.mkdir()
        scene = Scene(directory, self.server.url, self.number)
        posted = self.effects[self.number] = Effects(key_header=key_header, **effects)
        self.server.route("POST", scene.path("pay"), posted)
        self.server.route("GET", scene.path("pay"), lambda _: json_reply({"items": len(posted.effects)}))
        self.server.route("GET", scene.path("blob"), Blob(DATA))
        self.server.route("GET", scene.path("rows"), page)
        gone: list[int] = []

        def delete(_) -> Reply:
            gone.append(1)
            return Reply(204 if len(gone) == 1 else 404)

        self.server.route("DELETE", scene.path("thing"), delete)
        return scene


def page(request) -> Reply:
    start = int(request.query.get("cursor", ["0"])[0])
    body = {"data": ROWS[start : start + 5], "total": len(ROWS)}
    if start + 5 < len(ROWS):
        body["next"] = start + 5
    return json_reply(body)


@pytest.fixture
def stage(http_server, tmp_path) -> Stage:
    return Stage(http_server, tmp_path)


def run(scene: Scene, operator, **options) -> object:
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(
        {"conn_type": "http", "host": scene.url, "extra": {"flowrunner": options}}
    )
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def fetch_file(scene: Scene) -> object:
    download.CHECKPOINT_SECONDS = 0.0
    return run(
        scene,
        HttpDownloadOperator(
            task_id="t", endpoint=scene.path("blob"), save_to=str(scene.out / "blob.bin"), if_exists="fail"
        ),
    )


def fetch_file_into_folder(scene: Scene) -> object:
    return run(scene, HttpDownloadOperator(task_id="t", endpoint=scene.path("blob"), save_to=f"{scene.out}/"))


def fetch_rows(scene: Scene) -> object:
    pagination.CHECKPOINT_SECONDS = 0.0
    return run(
        scene,
        HttpPaginateOperator(
            task_id="t",
            endpoint=scene.path("rows"),
            save_to=str(scene.out / "rows.jsonl"),
            strategy="cursor",
            records_path="data",
            cursor_path="next",
            total_path="total",
        ),
    )


def pay(scene: Scene, options=None, **how) -> object:
    operator = HttpRequestOperator(
        task_id="t", endpoint=scene.path("pay"), method="POST", json={"amount": 1}, select="id || items", **how
    )
    return run(scene, operator, **(options or {}))


def pay_with_key(scene: Scene) -> object:
    return pay(scene, {"honours_idempotency_key": True}, idempotency_key=True)


def pay_with_look_up(scene: Scene) -> object:
    return pay(scene, reconcile={"endpoint": scene.path("pay"), "exists_when": "items > `0`"})


def pay_blindly(scene: Scene) -> object:
    return pay(scene)


def save(scene: Scene) -> object:
    return run(
        scene, HttpRequestOperator(task_id="t", endpoint=scene.path("blob"), save_to=str(scene.out / "blob.bin"))
    )


def delete(scene: Scene) -> object:
    return run(scene, HttpRequestOperator(task_id="t", endpoint=scene.path("thing"), method="DELETE"))


def only(scene: Scene, name: str, content: bytes) -> None:
    assert {path.name for path in scene.out.iterdir()} == {name}
    assert (scene.out / name).read_bytes() == content


def the_file_is_whole(scene: Scene) -> None:
    only(scene, "blob.bin", DATA)


def the_named_file_is_whole(scene: Scene) -> None:
    only(scene, "blob", DATA)


def every_row_is_there_once(scene: Scene) -> None:
    rows = [json.loads(line) for line in (scene.out / "rows.jsonl").read_text().splitlines()]
    assert rows == ROWS
    assert {path.name for path in scene.out.iterdir()} == {"rows.jsonl"}


def nothing(scene: Scene) -> None:
    """Only the outcome counts."""


@pytest.mark.parametrize(
    ("target", "check"),
    [
        (fetch_file_into_folder, the_named_file_is_whole),
        (fetch_rows, every_row_is_there_once),
        (save, the_file_is_whole),
        (delete, nothing),
    ],
)
def test_reads_survive_every_kill(stage, target, check):
    sweep(stage.scene, target, check)
    random_kills(stage.scene, target, check, count=KILLS)


def test_a_download_survives_every_kill(stage):
    sweep(stage.scene, fetch_file, the_file_is_whole)
    double_kill(stage.scene, fetch_file, the_file_is_whole, limit=KILLS)
    random_kills(stage.scene, fetch_file, the_file_is_whole, count=KILLS)


@pytest.mark.parametrize("target", [pay_with_key, pay_with_look_up])
@pytest.mark.parametrize("lose", [0, 1])
def test_a_post_happens_once(stage, target, lose):
    key_header = "Idempotency-Key" if target is pay_with_key else None

    def scene() -> Scene:
        return stage.scene(key_header=key_header, lose_replies=lose)

    def once(scene: Scene) -> None:
        assert len(stage.effects[scene.number].effects) == 1

    if lose and target is pay_with_look_up:
        made = scene()
        assert attempt(target, made).error_type == "OutcomeUnknown"
        second = attempt(target, made, try_number=2)
        assert second.ok, second.error
        assert second.result["reconciled"] is True
        once(made)
        return
    sweep(scene, target, once)
    double_kill(scene, target, once, limit=KILLS)
    random_kills(scene, target, once, count=KILLS)


def test_a_post_that_nobody_can_ask_about_stops_instead_of_happening_twice(stage):
    def at_most_once(scene: Scene) -> None:
        assert len(stage.effects[scene.number].effects) <= 1

    def settled(outcome: Outcome) -> bool:
        return outcome.ok or outcome.error_type == "OutcomeUnknown"

    sweep(lambda: stage.scene(key_header=None), pay_blindly, at_most_once, done=settled)
    scene = stage.scene(key_header=None, lose_replies=1)
    for number in (1, 2):
        assert attempt(pay_blindly, scene, try_number=number).error_type == "OutcomeUnknown"
    at_most_once(scene)


@pytest.mark.parametrize("look_up", [Reply(500), Reply(200, b"?"), drop(), throttled("99")])
def test_a_failed_look_up_is_not_an_absence(stage, look_up):
    scene = stage.scene(key_header=None, lose_replies=1)
    stage.server.route("GET", scene.path("pay"), look_up)
    for number in (1, 2):
        assert attempt(pay_with_look_up, scene, try_number=number).error_type == "OutcomeUnknown"
    assert len(stage.effects[scene.number].effects) == 1


def at(point: str) -> bool:
    """Where attempts stop by default; FLOWRUNNER_KILLS=3: everywhere."""
    return KILLS > 2 or point.startswith(("effect.", "http.", "data.writer.before_open"))


@pytest.mark.parametrize("target", [pay_with_key, pay_with_look_up])
def test_a_zombie_and_its_retry_pay_once(stage, target):
    key_header = "Idempotency-Key" if target is pay_with_key else None

    def once(scene: Scene) -> None:
        assert len(stage.effects[scene.number].effects) == 1

    zombies(lambda: stage.scene(key_header=key_header), target, once, at=at)


def test_a_zombie_and_its_retry_pay_at_most_once_where_nobody_can_be_asked(stage):
    def at_most_once(scene: Scene) -> None:
        assert len(stage.effects[scene.number].effects) <= 1

    def settled(outcome: Outcome) -> bool:
        return outcome.ok or outcome.error_type == "OutcomeUnknown"

    zombies(lambda: stage.scene(key_header=None), pay_blindly, at_most_once, at=at, done=settled)


@pytest.mark.parametrize(
    ("target", "check"),
    [(fetch_rows, every_row_is_there_once), (save, the_file_is_whole), (delete, nothing)],
)
def test_a_zombie_does_no_harm(stage, target, check):
    zombies(stage.scene, target, check, at=at)


def pay_soon(scene: Scene) -> object:
    Run.open = functools.partial(Run.open, patience=0.0)
    reconcile = {"endpoint": scene.path("pay"), "exists_when": "items > `0`"}
    return pay(scene, {"timeout": 2, "connect_timeout": 2, "read_timeout": 2}, reconcile=reconcile)


def test_a_zombie_that_wakes_after_its_time_does_not_pay_too(stage):
    """The retry has waited for it as long as it may take, has asked the server, and has paid."""
    scene = stage.scene(key_header=None)
    zombie = Attempt(pay_soon, scene, rules=[kill_at("http.request.before_send") | {"action": "stop"}])
    assert zombie.stopped()
    outcome = attempt(pay_soon, scene, try_number=2)
    assert outcome.error_type == "Unavailable"
    while outcome.error_type == "Unavailable":
        outcome = attempt(pay_soon, scene, try_number=2)
    assert outcome.ok, outcome.error
    zombie.thaw()
    assert zombie.wait().error_type == "Fenced"
    assert len(stage.effects[scene.number].effects) == 1


def test_a_lost_answer_to_a_delete_is_no_failure(stage):
    scene = stage.scene()
    calls: list[int] = []

    def flaky(_) -> Reply:
        calls.append(1)
        return Reply(drop=True) if len(calls) == 1 else Reply(404)

    stage.server.route("DELETE", scene.path("thing"), flaky)
    outcome = attempt(delete, scene)
    assert outcome.ok, outcome.error
    assert outcome.result["reconciled"] is True
    other = stage.scene()
    stage.server.route("DELETE", other.path("thing"), Reply(404))
    assert attempt(delete, other).error_type == "NotFound"


def test_a_resumed_download_asks_for_the_rest_only(stage):
    scene = stage.scene()
    killed = attempt(fetch_file, scene, rules=[kill_at("http.download.after_checkpoint", 2)])
    assert killed.killed
    assert attempt(fetch_file, scene, try_number=2).ok
    start = int(stage.server.requests[-1].headers["range"].removeprefix("bytes=").rstrip("-"))
    assert start > 0
    the_file_is_whole(scene)


def test_a_resumed_extract_asks_for_no_page_twice(stage):
    scene = stage.scene()
    assert attempt(fetch_rows, scene, rules=[kill_at("http.paginate.after_checkpoint", 2)]).killed
    assert attempt(fetch_rows, scene, try_number=2).ok
    cursors = [request.query.get("cursor", ["0"])[0] for request in stage.server.requests]
    assert cursors == ["0", "5", "10"]
    every_row_is_there_once(scene)
