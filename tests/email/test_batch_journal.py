"""The journal of a batch on a full disk, and an attempt that wakes up after another one has taken over."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import Fenced, PermanentError
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.batch.journal import Journal
from flowrunner_provider.email.batch.states import REFUSED, SENT
from flowrunner_provider.email.operators import EmailBatchOperator
from flowrunner_provider.email.smtp import SmtpEnvelope, SmtpTransport
from tests.email.support import connect, people
from tests.support.smtp_sink import SmtpSink


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel write no file beyond ``size`` bytes: as on a full disk, a write may be cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def new_journal(path: Path) -> Journal:
    journal = Journal(path)
    journal.create("attempt-1")
    return journal


def reloaded(path: Path) -> Journal:
    journal = Journal(path)
    journal.load()
    return journal


@pytest.mark.parametrize("room", range(1, 9))
def test_a_line_that_does_not_fit_is_an_error_before_the_mail_is_sent(tmp_path: Path, room: int) -> None:
    path = tmp_path / "journal"
    journal = new_journal(path)
    journal.start(1)
    with largest_file(path.stat().st_size + room), pytest.raises(PermanentError):
        journal.start(12345678)
    assert reloaded(path).in_flight == {1}


@pytest.mark.parametrize("room", range(9))
@pytest.mark.parametrize("kind", ["started", "sent", "refused"])
def test_nothing_behind_a_torn_line_is_believed(tmp_path: Path, kind: str, room: int) -> None:
    """Otherwise a row that was announced behind it would count as never begun, and be sent twice."""
    path = tmp_path / "journal"
    journal = new_journal(path)
    journal.settle(1, SENT)
    append = {
        "started": lambda: journal.start(12345678),
        "sent": lambda: journal.settle(12345678, SENT),
        "refused": lambda: journal.settle(12345678, REFUSED, "the reason"),
    }
    with largest_file(path.stat().st_size + room), pytest.raises(PermanentError):
        append[kind]()
    journal.start(13)
    loaded = reloaded(path)
    assert loaded.settled == {1: SENT}
    assert 13 in loaded.in_flight if room == 0 else loaded.writer == ""


def test_an_undamaged_journal_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = new_journal(path)
    journal.start(1)
    journal.settle(1, SENT)
    journal.settle(2, REFUSED, 'no "such" user')
    journal.start(3)
    journal.withdraw(3)
    loaded = reloaded(path)
    assert (loaded.writer, loaded.in_flight, loaded.settled) == ("attempt-1", set(), {1: SENT, 2: REFUSED})
    assert loaded.reasons[2] == 'no "such" user'


class Batch:
    """One batch, and attempts of it that share a state store and a clock."""

    def __init__(self, count: int) -> None:
        self.clock, self.store = ManualClock(), MemoryStore()
        self.operator = EmailBatchOperator(
            task_id="task", recipients=people(count), subject="Hello {{ name }}", text="Hello", concurrency=1
        )

    async def attempt(self) -> dict[str, Any]:
        run = Run.open(self.store, ("dag", "run", "task", "-1"), clock=self.clock, timeout=100_000)
        return asdict(await self.operator.perform(run))


@pytest.mark.parametrize("where", ["login", "announce"])
def test_an_attempt_that_slept_sends_nothing_once_another_has_taken_over(
    smtp_sink: SmtpSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Its machine was suspended, so only the wall clock went on; the newer attempt has sent all rows meanwhile."""
    connect(smtp_sink)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    batch, kind = Batch(3), SmtpTransport if where == "login" else SmtpEnvelope
    original, results = getattr(kind, where), []

    async def slow(self: Any, *args: Any, **more: Any) -> Any:
        result = await original(self, *args, **more)
        if not results:
            results.append({})
            batch.clock.wall += timedelta(hours=2)
            results.append(await batch.attempt())
        return result

    monkeypatch.setattr(kind, where, slow)
    with pytest.raises(Fenced):
        asyncio.run(batch.attempt())
    assert results[1]["sent"] == 3
    assert sorted(mail.recipients for mail in smtp_sink.mails()) == [(f"u{n}@example.com",) for n in range(3)]
