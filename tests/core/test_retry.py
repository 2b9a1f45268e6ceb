"""Waits: never early, never longer than is worth a worker slot, never for what a retry cannot mend."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core import retry
from flowrunner_provider.core.deadline import Deadline, ManualClock
from flowrunner_provider.core.errors import FlowRunnerError, NotFound, OutcomeUnknown, Throttled, Unavailable
from flowrunner_provider.core.retry import MAX_RETRY_AFTER, Backoff, RetryPlan, parse_retry_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("86400", 86400.0),
        ("999999999999999", MAX_RETRY_AFTER),
        ("9" * 400, None),
        ("-1", None),
        ("+5", None),
        ("abc", None),
        ("", None),
        (None, None),
        ("1e3", None),
        ("٣", None),
        ("NaN", None),
        ("inf", None),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        ("Sun, 99 Mar 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


@given(st.text(max_size=60))
def test_any_header_gives_a_finite_wait_or_none(header: str) -> None:
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@given(st.integers(-100_000, 100_000))
def test_a_date_is_never_early(offset: int) -> None:
    moment = NOW + timedelta(seconds=offset)
    assert parse_retry_after(format_datetime(moment, usegmt=True), NOW) == max(0, offset)


@given(st.integers(-3, 10_000), st.integers(0, 2**32))
def test_back_off_stays_below_its_ceiling(attempt: int, seed: int) -> None:
    backoff = Backoff(base=0.5, factor=2, cap=60)
    assert 0 <= backoff.delay(attempt, random.Random(seed)) <= backoff.ceiling(attempt) <= 60


def test_the_ceiling_doubles() -> None:
    backoff = Backoff(base=1, factor=2, cap=10)
    assert [backoff.ceiling(attempt) for attempt in range(1, 6)] == [1, 2, 4, 8, 10]


class Step:
    """Fails with each of ``errors`` in turn, then succeeds."""

    def __init__(self, *errors: FlowRunnerError) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def later(self) -> str:
        return self()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of both faces, not waited."""
    seen: list[float] = []

    async def apause(seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr(retry, "pause", seen.append)
    monkeypatch.setattr(retry, "apause", apause)
    return seen


def run(plan: RetryPlan, step: Step, deadline: Deadline, face: str) -> str:
    return plan.call(step, deadline) if face == "sync" else asyncio.run(plan.acall(step.later, deadline))


@pytest.mark.parametrize("face", ["sync", "async"])
class TestRetryPlan:
    plan = RetryPlan(attempts=3, in_place=5.0, rng=random.Random(1))

    def test_waits_exactly_what_was_asked(self, waits: list[float], face: str) -> None:
        step = Step(Throttled("slow", retry_after=2.0), Throttled("slow", retry_after=0.0))
        assert run(self.plan, step, Deadline(60, ManualClock()), face) == "done"
        assert waits == [2.0, 0.0]

    def test_hands_a_long_wait_up(self, waits: list[float], face: str) -> None:
        step = Step(Throttled("slow", retry_after=5.01))
        with pytest.raises(Throttled) as caught:
            run(self.plan, step, Deadline(60, ManualClock()), face)
        assert (step.calls, waits, caught.value.retry_after) == (1, [], 5.01)

    def test_does_not_wait_beyond_the_deadline(self, waits: list[float], face: str) -> None:
        with pytest.raises(Throttled):
            run(self.plan, Step(Throttled("slow", retry_after=4.0)), Deadline(3, ManualClock()), face)
        assert waits == []

    def test_stops_after_its_attempts(self, waits: list[float], face: str) -> None:
        step = Step(*(Unavailable("down") for _ in range(9)))
        with pytest.raises(Unavailable):
            run(self.plan, step, Deadline(60, ManualClock()), face)
        assert (step.calls, len(waits)) == (3, 2)

    @pytest.mark.parametrize("error", [NotFound("no"), OutcomeUnknown("perhaps")], ids=["permanent", "unknown"])
    def test_never_repeats_what_is_not_transient(self, waits: list[float], face: str, error: FlowRunnerError) -> None:
        step = Step(error)
        with pytest.raises(type(error)):
            run(self.plan, step, Deadline(60, ManualClock()), face)
        assert (step.calls, waits) == (1, [])


def test_the_real_waits_wait() -> None:
    clock = retry.time.monotonic
    began = clock()
    retry.pause(0.02)
    asyncio.run(retry.apause(0.02))
    retry.pause(-1)
    asyncio.run(retry.apause(-1))
    assert clock() - began >= 0.04
