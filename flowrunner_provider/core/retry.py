"""Retry in place, and the only module that sleeps.

Short waits happen inside the attempt. A wait longer than ``in_place`` seconds is not slept through: the error is raised
with its ``retry_after``, and Airflow waits off the worker slot. Only a :class:`TransientError` is repeated, because
only that class means that the operation did not happen.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import TransientError

__all__ = ["MAX_RETRY_AFTER", "Backoff", "RetryPlan", "apause", "parse_retry_after", "pause"]

MAX_RETRY_AFTER = 7 * 24 * 3600.0
"""Upper bound of Retry-After: one week, longer than any run and within the range of every date type."""

_SECONDS = re.compile(r"\d{1,18}(\.\d{1,9})?", re.ASCII)

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Sleep in a thread; return at once for zero and less."""
    if seconds > 0:
        time.sleep(seconds)


async def apause(seconds: float) -> None:
    """Sleep in an event loop; zero and less only yield to it."""
    await asyncio.sleep(max(0.0, seconds))


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, section 10.2.3).

    :param value: the header: seconds or an HTTP date.
    :param now: the current time, timezone-aware.
    :return: 0 for a past date, at most :data:`MAX_RETRY_AFTER`; None without a header or for an invalid value
        (including negative numbers), so that our own backoff applies.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        seconds = (moment - now).total_seconds()
    except OverflowError:
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter: a uniform draw below a ceiling that doubles.

    :param base: first ceiling in seconds.
    :param factor: growth per attempt.
    :param cap: highest ceiling in seconds.
    """

    base: float = 0.5
    factor: float = 2.0
    cap: float = 60.0

    def ceiling(self, attempt: int) -> float:
        """Return the longest delay after failed attempt number ``attempt`` (from 1)."""
        exponent = min(max(attempt, 1) - 1, 64)
        return min(self.cap, self.base * self.factor**exponent)

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the delay after failed attempt number ``attempt``."""
        return rng.uniform(0.0, self.ceiling(attempt))


@dataclass(frozen=True, kw_only=True)
class RetryPlan:
    """When to repeat a step in place.

    :param attempts: maximum number of tries, at least 1.
    :param backoff: delay if the error has no ``retry_after``.
    :param in_place: longest single wait in seconds that is worth occupying a worker slot.
    :param rng: source of the jitter.
    """

    attempts: int = 4
    backoff: Backoff = field(default_factory=Backoff)
    in_place: float = 5.0
    rng: random.Random = field(default_factory=random.Random)

    def wait(self, error: TransientError, attempt: int, deadline: Deadline) -> float | None:
        """Return the seconds before the next try, or None if the error should be raised."""
        if attempt >= self.attempts:
            return None
        asked = error.retry_after
        seconds = self.backoff.delay(attempt, self.rng) if asked is None else asked
        return seconds if seconds <= self.longest(deadline) else None

    def longest(self, deadline: Deadline) -> float:
        """Return the longest acceptable wait in place, in seconds."""
        return min(self.in_place, deadline.remaining())

    def call(self, step: Callable[[], T], deadline: Deadline) -> T:
        """Run ``step`` until it succeeds, fails permanently, or the next wait would be too long."""
        attempt = 1
        while True:
            try:
                return step()
            except TransientError as error:
                seconds = self.wait(error, attempt, deadline)
                if seconds is None:
                    raise
            pause(seconds)
            attempt += 1

    async def acall(self, step: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Like :meth:`call`, for a coroutine function."""
        attempt = 1
        while True:
            try:
                return await step()
            except TransientError as error:
                seconds = self.wait(error, attempt, deadline)
                if seconds is None:
                    raise
            await apause(seconds)
            attempt += 1
