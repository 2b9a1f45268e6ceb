"""Killed anywhere and run again: the receiver takes the message once, under one id."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.webhooks.notifier import WebhookNotifier
from flowrunner_provider.webhooks.operators import WebhookSendOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import Outcome, attempt, double_kill, random_kills, sweep, trace, zombies
from tests.webhooks.receiver import SECRET, Receiver

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "2"))


@dataclass(frozen=True)
class Scene:
    directory: Path
    url: str
    number: int


class Stage:
    def __init__(self, server, root: Path) -> None:
        self.server, self.root = server, root
        self.receivers: list[Receiver] = []

    def scene(self, **receiver) -> Scene:
        number = len(self.receivers)
        self.receivers.append(Receiver(**receiver))
        self.server.route("POST", f"/{number}", self.receivers[-1])
        directory = self.root / str(number)
        directory.mkdir()
        return Scene(directory, self.server.url, number)

    def once(self, scene: Scene) -> None:
        receiver = self.receivers[scene.number]
        assert (len(receiver.accepted), receiver.failures) == (1, [])
        assert len({request.headers["webhook-id"] for request in receiver.seen}) == 1
        assert len({request.body for request in receiver.seen}) == 1

    def at_most_once(self, scene: Scene) -> None:
        receiver = self.receivers[scene.number]
        assert len(receiver.seen) <= 1
        assert receiver.failures == []


@pytest.fixture
def stage(http_server, tmp_path) -> Stage:
    return Stage(http_server, tmp_path)


def deliver(scene: Scene, **how) -> object:
    extra = {"flowrunner": {"webhook": {"secret": SECRET}}}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": scene.url, "extra": extra})
    operator = WebhookSendOperator(
        task_id="t", endpoint=f"/{scene.number}", payload={"n": 1}, event_type="orders.done", **how
    )
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def to_one_that_dedupes(scene: Scene) -> object:
    return deliver(scene, idempotent_receiver=True)


def to_one_that_does_not(scene: Scene) -> object:
    return deliver(scene)


def notify(scene: Scene) -> None:
    extra = {"flowrunner": {"webhook": {"secret": SECRET}}}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": scene.url, "extra": extra})
    context = make_context(exception=ValueError("late"))
    context["ti"].state = context["dag_run"].state = "failed"
    context["ti"].try_number = 1  # every attempt at this callback is about the same try of the task
    WebhookNotifier(endpoint=f"/{scene.number}")(context)


def settled(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"


@pytest.mark.parametrize("lose", [0, 1])
def test_a_receiver_that_dedupes_takes_it_once(stage, lose):
    def scene() -> Scene:
        return stage.scene(lose_replies=lose)

    sweep(scene, to_one_that_dedupes, stage.once)
    random_kills(scene, to_one_that_dedupes, stage.once, count=KILLS)
    zombies(scene, to_one_that_dedupes, stage.once)
    if not lose:
        double_kill(scene, to_one_that_dedupes, stage.once, limit=KILLS)


def test_one_that_does_not_is_never_told_twice(stage):
    def scene() -> Scene:
        return stage.scene(dedupes=False)

    sweep(scene, to_one_that_does_not, stage.at_most_once, done=settled)
    zombies(scene, to_one_that_does_not, stage.at_most_once, done=settled)
    lost = stage.scene(dedupes=False, lose_replies=1)
    for number in (1, 2):
        assert attempt(to_one_that_does_not, lost, try_number=number).error_type == "OutcomeUnknown"
    stage.at_most_once(lost)


@pytest.mark.parametrize("lose", [0, 1])
def test_a_notification_is_accepted_once_under_one_id(stage, lose):
    def once(scene: Scene) -> None:
        receiver = stage.receivers[scene.number]
        assert (len(receiver.accepted), receiver.failures) == (1, [])
        assert len({request.headers["webhook-id"] for request in receiver.seen}) == 1
        assert len({json.dumps(request.json()["data"]) for request in receiver.seen}) == 1

    def scene() -> Scene:
        return stage.scene(lose_replies=lose)

    sweep(scene, notify, once)
    zombies(scene, notify, once, defeats=())
    random_kills(scene, notify, once, count=KILLS)


def test_the_sweep_reaches_both_sides_of_the_wire(stage):
    points = trace(to_one_that_dedupes, stage.scene())
    assert {"webhook.send.before_send", "webhook.send.after_send", "effect.webhook.after_act"} <= set(points)
