"""Deadlines, and the only module that reads the clock.

``Clock.monotonic`` measures waits and never jumps; ``Clock.now`` is the wall clock that other machines share (tokens,
leases, Retry-After dates).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flowrunner_provider.core.errors import TimedOut

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Source of the current time."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point; never goes back."""

    def now(self) -> datetime:
        """Return the current time in UTC."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()


@dataclass
class ManualClock:
    """A clock for tests: it only moves with :meth:`advance`."""

    wall: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed: float = 0.0

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return self.wall + timedelta(seconds=self.elapsed)

    def advance(self, seconds: float) -> None:
        """Move the clock forward; negative values are ignored."""
        self.elapsed += max(0.0, seconds)


class Deadline:
    """A point in time by which the work must be done.

    :param seconds: time from now; must be finite and positive.
    :param clock: source of the current time.
    """

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"a deadline is a positive, finite number of seconds, not {seconds!r}")
        self.clock = clock
        self.seconds = seconds
        self._end = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._end - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        return self.remaining() == 0.0

    def check(self, what: str) -> None:
        """Raise :class:`TimedOut` if the deadline has passed.

        :param what: the operation, for the message.
        """
        if self.expired:
            raise self.exceeded(what)

    def exceeded(self, what: str) -> TimedOut:
        """Return the error for this deadline."""
        return TimedOut(
            f"{what} took longer than its {self.seconds:g} s",
            remedy="raise `timeout`, or find out why it is slow",
        )

    def limit(self, seconds: float) -> float:
        """Return ``seconds`` or the remaining time, whichever is less, as timeout of one step."""
        return min(seconds, self.remaining())

    def sub(self, seconds: float) -> Deadline:
        """Return a deadline for a part of the work, never later than this one."""
        return Deadline(max(1e-9, self.limit(seconds)), self.clock)
