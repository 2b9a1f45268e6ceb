"""Blocking calls from an event loop: on the spot while they are quick, in a thread while they are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.retry import apause

__all__ = ["Nearby"]

P = ParamSpec("P")
T = TypeVar("T")

_TURN = 0.001
_QUICK = 0.003
_SPELLS = 0, 0, 16, 64, 256, 1_024


class Nearby:
    """Small calls to something that is usually near, such as a disk.

    A turn in a thread costs more than what a disk's cache takes to answer. So a call is made on the spot; one that
    took long (a full disk queue, a network file system), and then another, sends the next ones into threads, for a
    spell that grows until one on the spot is quick again: at worst the loop stands still for one call in a thousand.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._away = self._slow = 0
        self._turn_ends = 0.0

    async def call(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """``work(...)``; others in the loop get their turn, too."""
        if self._away:
            self._away -= 1
            return await asyncio.to_thread(work, *arguments, **named)
        began = self._clock.monotonic()
        if began >= self._turn_ends:
            await apause(0)
            began = self._clock.monotonic()
            self._turn_ends = began + _TURN
        try:
            return work(*arguments, **named)
        finally:
            if self._clock.monotonic() - began < _QUICK:
                self._slow = 0
            else:
                self._slow = min(self._slow + 1, len(_SPELLS) - 1)
                self._away = _SPELLS[self._slow]
