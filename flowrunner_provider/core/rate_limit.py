"""Rate limits: one pace per connection, shared by all of its users.

The algorithm is GCRA (the virtual-scheduling form of the leaky bucket, ITU-T I.371). Its only state is the *theoretical
arrival time* of the next request. Reserving ``n`` requests advances it by ``n`` intervals and returns the time to wait.
There is no polling and no background thread, and a bulk sender can reserve several requests per lock.

The storage decides who shares the limit: a variable (:class:`LocalPacer`), a locked file (:class:`FilePacer`), or Redis
(``runtime.rate_limits``).
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Protocol

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors

__all__ = ["FilePacer", "InBlocks", "LocalPacer", "Pacer", "RateLimit", "Unlimited", "gcra"]

_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_TEXT = re.compile(r"\s*(\d+)\s*/\s*(?:(\d+)\s*)?(second|minute|hour|day)s?\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """``count`` requests in any ``seconds``, of which ``burst`` may start at once.

    :param count: number of requests.
    :param seconds: length of the period.
    :param burst: requests that may start without a gap; 1 spaces them evenly.
    """

    count: int
    seconds: float
    burst: int = 1

    @classmethod
    def parse(cls, text: str, *, burst: int = 1) -> RateLimit:
        """Parse ``"100/minute"``, ``"5/second"``, ``"1000/2 hours"``.

        :raises ConfigError: for anything else, and for zero.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[1]) == 0 or (match[2] and int(match[2]) == 0) or burst < 1:
            raise ConfigError(
                f"{text!r} is not a rate limit",
                field="rate_limit",
                remedy="write it as '100/minute', '5/second' or '1000/2 hours', with a burst of at least 1",
            )
        return cls(count=int(match[1]), seconds=_UNITS[match[3]] * int(match[2] or 1), burst=burst)

    @property
    def interval(self) -> float:
        """Seconds between two requests."""
        return self.seconds / self.count

    @property
    def slack(self) -> float:
        """Seconds by which a burst may be early."""
        return (self.burst - 1) * self.interval


class Pacer(Protocol):
    """Returns how long to wait; never waits itself."""

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        """Reserve ``count`` requests; return the seconds to wait before the first one.

        Nothing is reserved if that wait would be longer than ``longest`` seconds.
        """

    def hold(self, seconds: float) -> None:
        """Start no request for ``seconds``, because the far side is throttling."""


class Unlimited:
    """No rate limit; :meth:`hold` still applies."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock, self._until = clock, 0.0

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        return max(0.0, self._until - self._clock.monotonic()) if self._until else 0.0

    def hold(self, seconds: float) -> None:
        self._until = max(self._until, self._clock.monotonic() + seconds)


def gcra(arrival: float, now: float, limit: RateLimit, count: int, longest: float = inf) -> tuple[float, float]:
    """Perform one step of GCRA.

    :param arrival: the stored theoretical arrival time; 0 initially.
    :param now: current time, on the same clock.
    :return: the new theoretical arrival time, and the seconds to wait.
    """
    due = max(arrival, now)
    wait = max(0.0, due - now - limit.slack)
    if wait > longest:
        return arrival, wait
    return due + count * limit.interval, wait


class LocalPacer:
    """A rate limit within one process."""

    def __init__(self, limit: RateLimit, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limit, self._clock, self._arrival = limit, clock, 0.0

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        now = self._clock.monotonic()
        self._arrival, wait = gcra(self._arrival, now, self.limit, count, longest)
        return wait

    def hold(self, seconds: float) -> None:
        self._arrival = max(self._arrival, self._clock.monotonic() + seconds + self.limit.slack)


class FilePacer:
    """A rate limit shared by all processes of a host: one number in a locked file of eight bytes.

    It uses the wall clock, because the monotonic clock means nothing to other processes after a reboot. A number
    further ahead than anyone can have reserved (the clock was set back) is ignored.

    :param path: the file; its folder is created, readable by the user alone.
    :raises PermanentError: if the file cannot be used.
    """

    _HORIZON = 7 * 86400.0

    def __init__(self, limit: RateLimit, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limit, self._clock = limit, clock
        self._disk_errors = disk_errors(str(path))
        with self._disk_errors:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        with self._disk_errors, _Locked(self._file) as number:
            now = self._clock.now().timestamp()
            number.value, wait = gcra(self._sane(number.value, now), now, self.limit, count, longest)
        return wait

    def hold(self, seconds: float) -> None:
        with self._disk_errors, _Locked(self._file) as number:
            now = self._clock.now().timestamp()
            number.value = max(self._sane(number.value, now), now + seconds + self.limit.slack)

    def _sane(self, arrival: float, now: float) -> float:
        return arrival if arrival < now + self._HORIZON else 0.0


class _Locked:
    """The number in the file: read under the lock, written back when the lock is released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> _Locked:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        data = os.pread(self._descriptor, 8, 0)
        self.value: float = struct.unpack("<d", data)[0] if len(data) == 8 else 0.0
        return self

    def __exit__(self, *_: object) -> None:
        os.pwrite(self._descriptor, struct.pack("<d", self.value), 0)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class InBlocks:
    """Reserves a fast limit in small blocks: one access to the shared number pays for up to 10 ms of requests.

    The requests of a block are spaced evenly. A block expires after 20 ms, so a pause is never followed by more than
    one block at once. Slow limits, and limits with a long burst, are reserved one by one.

    :param pacer: the shared limit.
    :param limit: its rate.
    """

    _SECONDS, _MOST = 0.01, 64

    def __init__(self, pacer: Pacer, limit: RateLimit, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limit, self._pacer, self._clock = limit, pacer, clock
        size = int(self._SECONDS / limit.interval) if limit.slack <= self._SECONDS else 1
        self._size = max(1, min(size, self._MOST))
        self._left, self._next, self._expires = 0, 0.0, 0.0

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        if self._size == 1 or count != 1:
            return self._pacer.reserve(count, longest)
        now = self._clock.monotonic()
        if not self._left or now > self._expires:
            wait = self._pacer.reserve(self._size, longest)
            if wait > longest:
                return wait
            self._left, self._next = self._size, now + wait
            self._expires = self._next + 2 * self._SECONDS
        self._left -= 1
        due, self._next = self._next, self._next + self.limit.interval
        return max(0.0, due - now)

    def hold(self, seconds: float) -> None:
        self._left = 0
        self._pacer.hold(seconds)
