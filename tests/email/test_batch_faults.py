"""A batch is killed anywhere: nobody is left out, nobody has two mails unless ``resend`` was asked for."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.email.support import BatchScene, connect, people, report, send_batch
from tests.support.kill import Outcome, attempt, kill_at, random_kills, trace, zombies
from tests.support.smtp_sink import SmtpSink

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "6"))
ROWS = 1000 if KILLS > 20 else 60
CONCURRENCY, WINDOW = 4, 16


PLACES = ("after_take_over", "after_journal", "after_announce", "before_data", "after_note", "after_close")


@pytest.fixture
def scenes(tmp_path: Path, smtp_sink: SmtpSink) -> Callable[..., BatchScene]:
    connect(smtp_sink)
    numbers = itertools.count()

    def make(**arguments: Any) -> BatchScene:
        directory = tmp_path / f"scene-{next(numbers)}"
        directory.mkdir()
        return BatchScene(directory, smtp_sink.directory, people(ROWS), {"window": WINDOW, **arguments})

    return make


def over(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"


def reconciles(scene: BatchScene) -> None:
    """Every row is accounted for, and the mailbox agrees with the report."""
    mails = [mail.message for mail in scene.mails()]
    copies = Counter(message["Message-ID"] for message in mails)
    lines = report(scene)
    assert [line["row"] for line in lines] == list(range(ROWS))
    assert len({line["message_id"] for line in lines}) == ROWS
    sent = {line["message_id"] for line in lines if line["status"] == "sent"}
    unknown = {line["message_id"] for line in lines if line["status"] == "unknown"}
    skipped = {line["message_id"] for line in lines if line["status"] == "skipped"}
    assert len(sent) + len(unknown) + len(skipped) == ROWS
    assert sent <= set(copies), "reported and missing"
    assert not skipped & set(copies), "sent and not reported"
    assert set(copies) <= sent | unknown
    choice = scene.arguments.get("on_unknown", "stop")
    again = len(mails) - len(copies)
    allowed = scene.arguments.get("allowed", CONCURRENCY)
    assert again <= (allowed if choice == "resend" else 0), f"{again} duplicates"
    assert len(unknown) <= (0 if choice == "resend" else allowed)
    assert len({mail.data for mail in scene.mails()}) == len(copies), "a copy differs"
    leftovers = list(scene.directory.rglob("*.part*"))
    assert not leftovers
    if choice == "stop" and unknown:  # the user looks, and says skip: the rest is sent
        outcome = attempt(skip, scene)
        assert outcome.ok, outcome.error
        ids = [mail.message["Message-ID"] for mail in scene.mails()]
        assert len(set(ids)) == len(ids)
        assert outcome.result["sent"] + outcome.result["unknown"] == ROWS
        assert set(ids) >= {line["message_id"] for line in report(scene) if line["status"] == "sent"}


def skip(scene: BatchScene) -> Any:
    return send_batch(scene, on_unknown="skip")


def passages(scene: BatchScene) -> list[tuple[str, int]]:
    """Every failpoint at its first and its last hit, and in between as often as FLOWRUNNER_KILLS says."""
    counts = Counter(trace(send_batch, scene))
    between = {name: max(1, count // KILLS) if KILLS > 20 else count for name, count in counts.items()}
    return [(name, hit) for name, count in counts.items() for hit in sorted({*range(1, count, between[name]), count})]


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_killed_at_every_failpoint(scenes: Callable[..., BatchScene], choice: str) -> None:
    points = passages(scenes())
    names = {name for name, _ in points}
    assert {f"email.send_batch.{place}" for place in (
        "before_take_over", "after_take_over", "after_journal", "before_announce", "after_announce", "before_data",
        "after_data", "after_note", "after_close", "before_report", "after_report",
    )} <= names  # fmt: skip
    if choice != "stop":
        points = [point for point in points if point[0].endswith(("_data", "_note"))]
    for name, hit in points:
        scene = scenes(on_unknown=choice)
        assert attempt(send_batch, scene, rules=[kill_at(name, hit)]).killed, name
        outcome = attempt(send_batch, scene, try_number=2)
        assert over(outcome), (name, hit, outcome.error)
        assert outcome.ok or choice == "stop", (name, hit, outcome.error)
        reconciles(scene)
        for path in scene.mailbox.iterdir():  # the next scene reads its own
            path.unlink()


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_random_kills(scenes: Callable[..., BatchScene], choice: str) -> None:
    count = max(2, KILLS // 3)
    made = random_kills(
        lambda: scenes(on_unknown=choice), send_batch, reconciles, count=count, done=over, seed=len(choice)
    )
    assert made.scenarios == count


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_killed_and_retried_on_another_machine(scenes: Callable[..., BatchScene], choice: str) -> None:
    """Without the journal the open window is in doubt, and no more."""
    scene = scenes(on_unknown=choice, allowed=WINDOW + CONCURRENCY)
    elsewhere = BatchScene(scene.directory, scene.mailbox, scene.rows, {"window": WINDOW, "on_unknown": choice})
    assert attempt(send_batch, elsewhere, rules=[kill_at("email.send_batch.after_data", 37)]).killed
    shutil.rmtree(scene.journals)
    outcome = attempt(send_batch, elsewhere, try_number=2)
    assert over(outcome), outcome.error
    assert outcome.ok is (choice != "stop")
    if choice != "stop":
        reconciles(scene)
    else:
        unknown = [line for line in report(scene) if line["status"] == "unknown"]
        assert 0 < len(unknown) <= WINDOW + CONCURRENCY
        assert f"{len(unknown)} of {ROWS:,} mails" in str(outcome.error)


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_a_zombie_and_its_retry(scenes: Callable[..., BatchScene], choice: str) -> None:
    """The first goes on with what it has announced, and the retry waits: nobody has two mails, whatever ``choice``."""

    def check(scene: BatchScene) -> None:
        scene.arguments["allowed"] = 0
        reconciles(scene)
        assert len(scene.mails()) == ROWS

    most = 5 if KILLS > 20 else 1
    seen: Counter[str] = Counter()

    def at(point: str) -> bool:
        """Choose the first passages of a failpoint: by default of six places, with FLOWRUNNER_KILLS=7 of all."""
        seen[point] += 1
        return seen[point] <= most and (KILLS > 6 or point.rpartition(".")[2] in PLACES)

    zombies(lambda: scenes(on_unknown=choice), send_batch, check, at=at)


def test_three_kills_in_a_row_and_resend(scenes: Callable[..., BatchScene]) -> None:
    scene = scenes(on_unknown="resend")
    for number, hit in enumerate((9, 5, 7), 1):
        rules = [kill_at("email.send_batch.after_data", hit)]
        assert attempt(send_batch, scene, rules=rules, try_number=number).killed
    outcome = attempt(send_batch, scene, try_number=4)
    assert outcome.ok, outcome.error
    mails = [mail.data for mail in scene.mails()]
    assert len(set(mails)) == ROWS
    assert len(mails) - ROWS <= 3 * CONCURRENCY
