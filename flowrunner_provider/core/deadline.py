"""Time: the one place that reads the clock, and deadlines that every call carries.

``Clock`` has two faces because they answer different questions: ``monotonic`` measures waits and
never jumps, ``now`` is the wall clock that other machines share (tokens, leases, Retry-After dates).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flowrunner_provider.core.errors import TimedOut

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the rest of the package knows of time."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()


@dataclass
class ManualClock:
    """A clock for tests: it stands still until :meth:`advance` moves it."""

    wall: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed: float = 0.0

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return self.wall + timedelta(seconds=self.elapsed)

    def advance(self, seconds: float) -> None:
        """Move both faces forward; waits are never negative."""
        self.elapsed += max(0.0, seconds)


class Deadline:
    """A point in time by which the work must be done.

    :param seconds: how long from now; must be finite and positive.
    :param clock: where the time comes from.
    """

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"a deadline is a positive, finite number of seconds, not {seconds!r}")
        self.clock = clock
        self.seconds = seconds
        self._end = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        return self.remaining() == 0.0

    def check(self, what: str) -> None:
        """Raise :class:`TimedOut` if the deadline has passed.

        :param what: what was being done, for the message.
        """
        if self.expired:
            raise self.exceeded(what)

    def exceeded(self, what: str) -> TimedOut:
        """The error that says that this deadline has passed."""
        return TimedOut(
            f"{what} took longer than its {self.seconds:g} s",
            remedy="raise `timeout`, or look at why it is slow",
        )

    def limit(self, seconds: float) -> float:
        """``seconds``, or what is left if that is less: the time-out for one step of the work."""
        return min(seconds, self.remaining())

    def sub(self, seconds: float) -> Deadline:
        """A deadline for a part of the work, never later than this one."""
        return Deadline(max(1e-9, self.limit(seconds)), self.clock)
