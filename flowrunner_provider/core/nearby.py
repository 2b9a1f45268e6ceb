"""Blocking calls from an event loop: made directly while they are fast, in a thread while they are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.retry import apause

__all__ = ["Nearby"]

P = ParamSpec("P")
T = TypeVar("T")

_MAX_RUN_SECONDS = 0.001
_FAST_SECONDS = 0.003
_THREADED_CALLS = 0, 0, 16, 64, 256, 1_024


class Nearby:
    """Small blocking calls that are usually fast, such as access to a local disk.

    A thread switch costs more than an answer from the disk cache, so calls are made directly. After slow calls (full
    disk queue, network file system), the following calls run in threads, for a growing number of calls until a direct
    one is fast again. At worst, one call in a thousand blocks the loop.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._calls_in_thread = self._slow_calls = 0
        self._yield_at = 0.0

    async def call(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call ``work(...)``; other tasks of the loop get their turn."""
        if self._calls_in_thread:
            self._calls_in_thread -= 1
            return await asyncio.to_thread(work, *arguments, **named)
        began = self._clock.monotonic()
        if began >= self._yield_at:
            await apause(0)
            began = self._clock.monotonic()
            self._yield_at = began + _MAX_RUN_SECONDS
        try:
            return work(*arguments, **named)
        finally:
            if self._clock.monotonic() - began < _FAST_SECONDS:
                self._slow_calls = 0
            else:
                self._slow_calls = min(self._slow_calls + 1, len(_THREADED_CALLS) - 1)
                self._calls_in_thread = _THREADED_CALLS[self._slow_calls]
