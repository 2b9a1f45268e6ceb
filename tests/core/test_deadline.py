"""Deadlines measure with the clock that never jumps."""

import pytest

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline, ManualClock
from flowrunner_provider.core.errors import TimedOut


def test_counts_down_and_stops_at_zero() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    clock.advance(4)
    assert (deadline.remaining(), deadline.limit(30), deadline.limit(2)) == (6, 6, 2)
    clock.advance(100)
    assert deadline.remaining() == 0
    assert deadline.expired


def test_says_what_took_too_long() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    deadline.check("the upload")
    clock.advance(10)
    with pytest.raises(TimedOut, match=r"the upload took longer than its 10 s -> raise `timeout`"):
        deadline.check("the upload")


def test_a_part_never_outlives_the_whole() -> None:
    clock = ManualClock()
    whole = Deadline(10, clock)
    assert whole.sub(3).remaining() == 3
    assert whole.sub(30).remaining() == 10
    clock.advance(10)
    assert whole.sub(3).remaining() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_must_be_finite_and_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        Deadline(seconds)


def test_a_wall_clock_that_is_set_back_does_not_matter() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    clock.wall = clock.wall.replace(year=1970)
    assert deadline.remaining() == 10


def test_the_system_clock_is_aware_and_monotonic() -> None:
    assert SYSTEM_CLOCK.now().tzinfo is not None
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()
