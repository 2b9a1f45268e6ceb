"""A batch killed anywhere and run again: no item lost, none doubled at the server, each once in the file."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.http import batch
from flowrunner_provider.http.operators import HttpBatchOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Effects, HttpServer, Reply, json_reply
from tests.support.kill import Outcome, attempt, double_kill, kill_at, random_kills, sweep, zombies

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "2"))


@dataclass(frozen=True)
class Scene:
    directory: Path
    url: str
    number: int
    count: int

    @property
    def out(self) -> Path:
        return self.directory / "out"

    def path(self, name: str) -> str:
        return f"/{self.number}/{name}"


class Stage:
    """One server, and paths of its own for each scene."""

    def __init__(self, server: HttpServer, root: Path) -> None:
        self.server, self.root, self.number, self.key_header = server, root, 0, "Idempotency-Key"
        self.effects: dict[int, Effects] = {}
        self.gone: dict[int, Counter[str]] = {}
        server.route("*", "*", self.route)

    def scene(self, count: int = 3) -> Scene:
        self.number += 1
        directory = self.root / f"scene-{self.number}"
        directory.mkdir()
        self.effects[self.number] = Effects(key_header=self.key_header)
        self.gone[self.number] = Counter()
        return Scene(directory, self.server.url, self.number, count)

    def route(self, request) -> Reply:
        _, number, *rest = request.path.split("/")
        if request.method == "POST":
            return self.effects[int(number)](request)
        if request.method == "DELETE":
            gone = self.gone[int(number)]
            gone[rest[-1]] += 1
            return Reply(204 if gone[rest[-1]] == 1 else 404)
        return json_reply({"id": rest[-1]})

    def each_once(self, scene: Scene) -> None:
        """At the server, where it counts, and in the file."""
        if scene.number in self.effects and self.effects[scene.number].effects:
            times = Counter(effect.json()["id"] for effect in self.effects[scene.number].effects)
            assert times == dict.fromkeys(range(scene.count), 1)
        rows = [json.loads(line) for line in (scene.out / "out.jsonl").read_text().splitlines()]
        assert sorted(row["index"] for row in rows) == list(range(scene.count))
        assert {path.name for path in scene.out.iterdir()} == {"out.jsonl", "dead.jsonl"}


@pytest.fixture
def stage(http_server, tmp_path) -> Stage:
    return Stage(http_server, tmp_path)


def run(scene: Scene, request, *, keyed: bool = False, **how) -> object:
    options = {"honours_idempotency_key": keyed}
    value = {"conn_type": "http", "host": scene.url, "extra": {"flowrunner": options}}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(value)
    operator = HttpBatchOperator(
        task_id="t",
        items=list(range(scene.count)),
        request=request,
        save_to=str(scene.out / "out.jsonl"),
        dead_letter=str(scene.out / "dead.jsonl"),
        concurrency=how.pop("concurrency", 2),
        **how,
    )
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def get(scene: Scene) -> object:
    batch._LINES_PER_WRITE = 2
    return run(scene, {"endpoint": scene.path("{item}")}, concurrency=2)


def delete(scene: Scene) -> object:
    return run(scene, {"method": "DELETE", "endpoint": scene.path("{item}")})


def post(scene: Scene) -> dict[str, object]:
    return {"method": "POST", "endpoint": scene.path("pay"), "json": {"id": "{item}"}}


def pay_with_keys(scene: Scene) -> object:
    batch._WINDOW = 2
    return run(scene, post(scene), keyed=True, idempotency_key=True)


def pay_blindly(scene: Scene) -> object:
    return run(scene, post(scene))


def pay_much(scene: Scene) -> object:
    batch._WINDOW = 64
    return run(scene, post(scene), keyed=True, idempotency_key=True, concurrency=16)


def get_much(scene: Scene) -> object:
    return run(scene, {"endpoint": scene.path("{item}")}, concurrency=16)


@pytest.mark.parametrize("target", [get, delete, pay_with_keys])
def test_a_batch_survives_every_kill(stage, target):
    sweep(stage.scene, target, stage.each_once)
    double_kill(stage.scene, target, stage.each_once, limit=KILLS)


@pytest.mark.parametrize("target", [get_much, pay_much])
def test_300_items_survive_random_kills(stage, target):
    report = random_kills(lambda: stage.scene(300), target, stage.each_once, count=2 * KILLS)
    print(report)


def at_most_once(stage: Stage, scene: Scene) -> None:
    times = Counter(effect.json()["id"] for effect in stage.effects[scene.number].effects)
    assert set(times.values()) <= {1}


def settled(outcome: Outcome) -> bool:
    return outcome.ok or (outcome.error_type == "OutcomeUnknown" and "with index" in (outcome.error or ""))


def test_a_post_that_nobody_can_ask_about_is_never_doubled(stage):
    stage.key_header = None

    sweep(lambda: stage.scene(3), pay_blindly, lambda scene: at_most_once(stage, scene), done=settled)


def test_a_resumed_get_asks_only_for_the_rest(stage):
    scene = stage.scene(40)
    killed = attempt(get, scene, rules=[kill_at("http.batch.after_write", 21)])
    assert killed.killed
    before = len(stage.server.requests)
    assert attempt(get, scene, try_number=2).ok
    assert len(stage.server.requests) - before <= 40 - 20
    stage.each_once(scene)


def stops(point: str) -> bool:
    """Where attempts stop by default; FLOWRUNNER_KILLS=3: everywhere."""
    return KILLS > 2 or point in ("http.batch.after_announce", "http.batch.before_send", "http.batch.after_write")


@pytest.mark.parametrize("target", [get, delete, pay_with_keys])
def test_a_zombie_and_its_retry_send_each_item_once(stage, target):
    zombies(stage.scene, target, stage.each_once, at=stops)


def test_a_zombie_and_its_retry_send_no_item_twice_where_nobody_can_be_asked(stage):
    stage.key_header = None
    zombies(stage.scene, pay_blindly, lambda scene: at_most_once(stage, scene), at=stops, done=settled)
