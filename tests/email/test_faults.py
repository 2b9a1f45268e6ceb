"""Killed anywhere: every recipient has the mail once, or the task stops and says that nobody knows."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.email.support import Scene, connect, send
from tests.support.kill import Attempt, Outcome, attempt, kill_at, random_kills, trace, zombies
from tests.support.smtp_sink import SmtpSink

pytestmark = pytest.mark.faults

PASSED = [
    "email.send.before_build",
    "email.send.after_build",
    "email.send.before_connect",
    "email.send.after_connect",
    "effect.email.send.before_intent",
    "effect.email.send.after_intent",
    "email.send.before_data",
    "email.send.after_data",
    "effect.email.send.after_act",
    "effect.email.send.after_confirm",
    "run.before_finish",
    "run.after_finish",
]
IN_DOUBT = PASSED[5:9]
"""From the intent to the confirmation nobody can tell; everywhere else the ledger knows."""

ONLY_NOT_SENT = IN_DOUBT[:2]


@pytest.fixture
def scenes(tmp_path: Path, smtp_sink: SmtpSink) -> Callable[..., Scene]:
    connect(smtp_sink)
    numbers = itertools.count()

    def make(**arguments: Any) -> Scene:
        directory = tmp_path / f"scene-{next(numbers)}"
        directory.mkdir()
        return Scene(directory, smtp_sink.directory, arguments)

    return make


def test_the_failpoints(scenes: Callable[..., Scene]) -> None:
    assert trace(send, scenes()) == PASSED


def killed_then_retried(scene: Scene, point: str) -> Outcome:
    assert attempt(send, scene, rules=[kill_at(point)]).killed
    return attempt(send, scene, try_number=2)


@pytest.mark.parametrize("point", PASSED)
def test_killed_once(scenes: Callable[..., Scene], point: str) -> None:
    """Before the intent and after the confirmation: exactly one mail. Between them: stop."""
    scene = scenes()
    outcome = killed_then_retried(scene, point)
    if point not in IN_DOUBT:
        assert outcome.ok, outcome.error
        assert outcome.result["accepted"] == 2
        assert len(scene.mails()) == 1
        return
    assert outcome.error_type == "OutcomeUnknown"
    assert len(scene.mails()) == (0 if point in ONLY_NOT_SENT else 1)
    again = attempt(send, scene, try_number=3)
    assert again.error_type == "OutcomeUnknown"
    assert len(scene.mails()) == (0 if point in ONLY_NOT_SENT else 1)


@pytest.mark.parametrize("point", IN_DOUBT)
def test_killed_once_and_resent(scenes: Callable[..., Scene], point: str) -> None:
    """The second copy is the same mail, byte for byte, so that a mailbox can tell."""
    scene = scenes(on_unknown="resend")
    assert killed_then_retried(scene, point).ok
    copies = [path.read_bytes() for path in scene.mails()]
    assert len(copies) == (1 if point in ONLY_NOT_SENT else 2)
    assert len(set(copies)) == 1


@pytest.mark.parametrize("point", IN_DOUBT)
def test_killed_once_and_skipped(scenes: Callable[..., Scene], point: str) -> None:
    scene = scenes(on_unknown="skip")
    outcome = killed_then_retried(scene, point)
    assert outcome.ok, outcome.error
    assert (outcome.result["accepted"], outcome.result["unknown"]) == (0, 2)
    assert len(scene.mails()) == (0 if point in ONLY_NOT_SENT else 1)


@pytest.mark.parametrize("point", [p.replace("effect.email.send", "effect.email.send.2") for p in PASSED])
def test_killed_in_the_second_round(scenes: Callable[..., Scene], smtp_sink: SmtpSink, point: str) -> None:
    """Who has the mail from the first round never gets it again, wherever the second one dies."""
    scene = scenes()
    smtp_sink.refuse = {"b@example.com": "451 4.7.1 later"}
    assert attempt(send, scene).error_type == "PartialFailure"
    smtp_sink.refuse = {}
    outcome = killed_then_retried(scene, point)
    doubtful = point.replace(".2.", ".") in IN_DOUBT
    assert outcome.ok is not doubtful
    envelopes = [mail.recipients for mail in smtp_sink.mails()]
    assert envelopes[0] == ("a@example.com",)
    sent = not doubtful or point.replace(".2.", ".") not in ONLY_NOT_SENT
    assert envelopes[1:] == ([("b@example.com",)] if sent else [])
    assert len({path.read_bytes() for path in scene.mails()}) == 1


def test_random_kills(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    def at_most_once(scene: Scene) -> None:
        mails = scene.mails()
        assert len(mails) <= 1
        records = scene.state.items()
        assert len(mails) == 1 or "flowrunner" not in records, "finished without a mail"

    count = int(os.environ.get("FLOWRUNNER_KILLS", "10"))
    report = random_kills(
        scenes, send, at_most_once, count=count, done=lambda o: o.ok or o.error_type == "OutcomeUnknown"
    )
    assert report.scenarios == count


@pytest.mark.parametrize(("choice", "most"), [("stop", 1), ("resend", 2), ("skip", 1)])
def test_a_zombie_sends_no_mail_beside_its_retry(scenes: Callable[..., Scene], choice: str, most: int) -> None:
    """Nor with ``resend`` any that is not in doubt: only an attempt that stops with the mail on the wire leaves one."""

    def check(scene: Scene) -> None:
        copies = [path.read_bytes() for path in scene.mails()]
        assert len(copies) <= most
        assert len(set(copies)) <= 1
        records = scene.state.items()
        assert copies or choice == "skip" or "flowrunner" not in records, "finished without a mail"

    def at(point: str) -> bool:
        return choice == "stop" or point in IN_DOUBT

    zombies(lambda: scenes(on_unknown=choice), send, check, at=at, done=over)


def test_a_zombie_that_wakes_after_its_time_does_not_send(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    """Its connection still holds, and the retry has waited for it as long as a mail may take, and has resent it."""
    connect(smtp_sink, timeout=0.1, flowrunner={"reply_timeout": 1})
    scene = scenes(on_unknown="resend")
    zombie = Attempt(send, scene, rules=[kill_at("email.send.before_data") | {"action": "stop"}])
    assert zombie.stopped()
    outcome = attempt(send, scene, try_number=2)
    assert outcome.error_type == "Unavailable"
    while outcome.error_type == "Unavailable":
        outcome = attempt(send, scene, try_number=2)
    assert outcome.ok, outcome.error
    zombie.thaw()
    assert zombie.wait().error_type == "Fenced"
    assert len(scene.mails()) == 1


def over(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"
