"""Many things at a time, within one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, TypeVar

__all__ = ["each", "each_in_batches"]

SMALL, TINY = 1024 * 1024, 64 * 1024
"""Bytes; of files below these sizes more are copied at a time: what they cost is waiting, not memory."""

OPEN = 2
"""Batches that may be open at a time."""

_MOST_SMALL = 64

B = TypeVar("B")


async def each(concurrency: int, act: Callable[[Any], Coroutine[Any, Any, None]], things: Iterable[Any]) -> None:
    """Act on all things, so many at a time; the first failure cancels the rest and is raised."""
    waiting = iter(things)

    async def worker() -> None:
        for thing in waiting:
            await act(thing)

    await _all(concurrency, worker)


async def each_in_batches(
    concurrency: int,
    batches: AsyncIterator[B],
    files: Callable[[B], Mapping[int, int | None]],
    act: Callable[[B, int], Coroutine[Any, Any, None]],
    end: Callable[[B], Coroutine[Any, Any, None]],
    *,
    tiny: int = 256,
) -> None:
    """Act on the files of all batches: in each first on the small ones, sixteen times as many at a time, of tiny ones
    four times as many again (but one is one), then on the others; the first failure cancels the rest and is raised.

    A batch is begun when there is no file of the one before left to begin, not when the last of them is done.

    :param batches: the next one is asked for when its files can be begun.
    :param files: the sizes of what there is to do in a batch, by what ``act`` gets; None for an unknown one.
    :param end: called for one batch after the other when all its files are done.
    :param tiny: the most tiny files at a time.
    """
    flow = _Flow(concurrency, batches, files, act, end, tiny)
    if await flow.has_begun():  # there may be nothing to do
        await _all(flow.most, flow.worker)


async def _all(count: int, worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
    workers = [asyncio.create_task(worker()) for _ in range(count)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for task in done:
        task.result()


class _Open(Generic[B]):
    """A batch, and how many of its files are not done."""

    def __init__(self, batch: B, left: int) -> None:
        self.batch, self.left = batch, left


class _Flow(Generic[B]):
    """What the workers of :func:`each_in_batches` share."""

    def __init__(
        self,
        concurrency: int,
        batches: AsyncIterator[B],
        files: Callable[[B], Mapping[int, int | None]],
        act: Callable[[B, int], Coroutine[Any, Any, None]],
        end: Callable[[B], Coroutine[Any, Any, None]],
        tiny: int,
    ) -> None:
        self._batches, self._files, self._act, self._end = batches, files, act, end
        small = min(_MOST_SMALL, concurrency * 16) if concurrency > 1 else 1
        self.most = max(small, min(tiny, small * 4)) if concurrency > 1 else 1
        self._costs = (small * concurrency, self.most * concurrency, self.most * small)
        self._room = _Room(self.most * small * concurrency)
        self._waiting: deque[tuple[_Open[B], int, int]] = deque()
        self._open: deque[_Open[B]] = deque()
        self._begun, self._ending, self._ended = asyncio.Event(), asyncio.Lock(), asyncio.Event()
        self._beginning = self._over = False

    async def worker(self) -> None:
        """Take what is waiting until nothing is."""
        while self._waiting or await self.has_begun():
            opened, file, units = self._waiting.popleft()
            await self._room.take(units)
            await self._act(opened.batch, file)
            self._room.give(units)
            opened.left -= 1
            if not opened.left:
                await self._close()

    async def has_begun(self) -> bool:
        """Whether there is something to do again, as one of the workers has begun the next batch."""
        while not self._waiting and not self._over:
            if self._beginning:
                await self._begun.wait()
                continue
            self._beginning = True
            self._begun.clear()
            try:
                await self._begin()
            finally:
                self._beginning = False
                self._begun.set()
        return bool(self._waiting)

    async def _begin(self) -> None:
        while len(self._open) >= OPEN:
            self._ended.clear()
            await self._ended.wait()
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            self._over = True
            return
        sizes = self._files(batch)
        opened = _Open(batch, len(sizes))
        self._open.append(opened)
        small = {file: size is not None and size < SMALL for file, size in sizes.items()}
        for wanted in (True, False):
            self._waiting.extend((opened, file, self._cost(sizes[file])) for file in sizes if small[file] is wanted)
        if not sizes:
            await self._close()

    def _cost(self, size: int | None) -> int:
        """So much of the room that as many as may be of one kind fill it; an empty file is read like a larger one."""
        tiny, small, large = self._costs
        if size is None or size >= SMALL:
            return large
        return tiny if 0 < size < TINY else small

    async def _close(self) -> None:
        async with self._ending:
            while self._open and not self._open[0].left:
                await self._end(self._open[0].batch)
                self._open.popleft()
                self._ended.set()


class _Room:
    """So many units; who wants some waits for his turn."""

    def __init__(self, units: int) -> None:
        self._free = units
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, units: int) -> None:
        """Wait until there are so many."""
        if not self._queue and units <= self._free:
            self._free -= units
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((units, turn))
        await turn

    def give(self, units: int) -> None:
        """Give them back."""
        self._free += units
        while self._queue and self._queue[0][0] <= self._free:
            wanted, turn = self._queue.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
