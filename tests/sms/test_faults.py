"""Killed anywhere and run again: everybody has one message, or at most one where nobody can tell."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.sms.operators import SmsSendOperator
from tests.sms.stage import connection
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import Outcome, attempt, double_kill, kill_at, random_kills, sweep, trace, zombies
from tests.support.sms_vendors import AzureFake, TwilioFake, VonageFake

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "1"))
CONCURRENCY = 4
EVERYWHERE = pytest.mark.skipif(KILLS < 3, reason="the same path as another vendor; FLOWRUNNER_KILLS=3 sweeps it, too")


@dataclass(frozen=True)
class Scene:
    directory: Path
    account: str
    connection: str
    people: int
    on_unknown: str = "stop"

    @property
    def numbers(self) -> list[str]:
        return [f"+4915550{number:04}" for number in range(self.people)]


class Stage:
    def __init__(self, server, root: Path) -> None:
        self.server, self.root, self.count = server, root, 0

    def serve(self, name: str, fake) -> None:
        self.name, self.fake = name, fake
        fake.install(self.server)

    def scene(self, people: int = 2, on_unknown: str = "stop") -> Scene:
        self.count += 1
        sender = f"+1800555{self.count:04}"
        account = {"twilio": f"AC{self.count:032x}", "vonage": f"key{self.count}", "azure_acs": sender}[self.name]
        options = {"sender": sender, "rate_limit": None}
        directory = self.root / str(self.count)
        text = connection(self.name, self.server.url, account, self.fake, **options)
        return Scene(directory, account, text, people, on_unknown)

    def times(self, scene: Scene) -> Counter[str]:
        return Counter(each.number for each in self.fake.taken(scene.account))

    def once(self, scene: Scene) -> None:
        assert self.times(scene) == Counter(scene.numbers)

    def at_most_once(self, scene: Scene) -> None:
        assert max(self.times(scene).values(), default=0) <= 1
        assert len(self.times(scene)) >= scene.people - CONCURRENCY

    def few_twice(self, scene: Scene) -> None:
        times = self.times(scene)
        assert set(times) == set(scene.numbers), "0 missing"
        assert sum(times.values()) - scene.people <= CONCURRENCY, "what was in flight, once more"


@pytest.fixture
def stage(http_server, tmp_path) -> Stage:
    return Stage(http_server, tmp_path)


def send(scene: Scene, **how) -> object:
    os.environ["AIRFLOW_CONN_SMS_DEFAULT"] = scene.connection
    operator = SmsSendOperator(
        task_id="t", to=scene.numbers, body="The load is late", concurrency=CONCURRENCY,
        on_unknown=scene.on_unknown, **how,
    )  # fmt: skip
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def settled(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"


@pytest.mark.parametrize(
    ("name", "fake"), [("twilio", TwilioFake), pytest.param("azure_acs", AzureFake, marks=EVERYWHERE)]
)
def test_who_can_be_asked_has_each_message_once(stage, name, fake):
    stage.serve(name, fake())
    sweep(lambda: stage.scene(2 if KILLS > 2 else 1), send, stage.once)
    zombies(lambda: stage.scene(2 if KILLS > 2 else 1), send, stage.once)
    random_kills(lambda: stage.scene(30), send, stage.once, count=KILLS)
    double_kill(lambda: stage.scene(3), send, stage.once, limit=KILLS)


def test_who_cannot_has_none_twice(stage):
    stage.serve("vonage", VonageFake())
    sweep(lambda: stage.scene(1), send, stage.at_most_once, done=settled)
    zombies(lambda: stage.scene(2 if KILLS > 2 else 1), send, stage.at_most_once, done=settled)
    random_kills(lambda: stage.scene(30, "skip"), send, stage.at_most_once, count=KILLS)


def test_resend_repeats_what_was_in_flight_and_no_more(stage):
    stage.serve("vonage", VonageFake())
    random_kills(lambda: stage.scene(30, "resend"), send, stage.few_twice, count=KILLS)
    scene = stage.scene(30, "resend")
    assert attempt(send, scene, rules=[kill_at("sms.send.after_send", 10)]).killed
    assert attempt(send, scene, try_number=2).ok
    stage.few_twice(scene)
    assert sum(stage.times(scene).values()) > scene.people


def test_the_sweep_reaches_both_sides_of_the_wire(stage):
    stage.serve("twilio", TwilioFake())
    points = trace(send, stage.scene())
    assert {"sms.send.before_send", "sms.send.after_send", "effect.sms.send.0.after_act"} <= set(points)
