"""Bounded concurrency within one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, TypeVar

__all__ = ["for_each", "process_batches"]

SMALL, TINY = 1024 * 1024, 64 * 1024
"""Bytes; more files below these sizes are in flight, because they cost round trips rather than memory."""

MAX_OPEN = 2
"""The maximum number of open batches."""

_MAX_SMALL = 64

B = TypeVar("B")


async def for_each(concurrency: int, act: Callable[[Any], Coroutine[Any, Any, None]], items: Iterable[Any]) -> None:
    """Call ``act`` for all items, ``concurrency`` at a time; the first failure cancels the rest and is raised."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await act(item)

    await _run_workers(concurrency, worker)


async def process_batches(
    concurrency: int,
    batches: AsyncIterator[B],
    files: Callable[[B], Mapping[int, int | None]],
    act: Callable[[B, int], Coroutine[Any, Any, None]],
    end: Callable[[B], Coroutine[Any, Any, None]],
    *,
    tiny: int = 256,
) -> None:
    """Call ``act`` for the files of all batches; the first failure cancels the rest and is raised.

    In each batch, small files come first. Of small files, 16 times ``concurrency`` are in flight (at most 64), and of
    tiny ones four times as many again; a ``concurrency`` of 1 always means one file. A batch begins when the previous
    one has no files left to start, not when the last of them is done.

    :param batches: the next batch is requested when its files can be started.
    :param files: returns the sizes of the pending files of a batch, by the index that ``act`` receives; None if
        unknown.
    :param end: called for each batch, in order, when all its files are done.
    :param tiny: the maximum number of tiny files in flight.
    """
    scheduler = _BatchScheduler(concurrency, batches, files, act, end, tiny)
    if await scheduler.has_work():  # there may be nothing to do
        await _run_workers(scheduler.workers, scheduler.worker)


async def _run_workers(count: int, worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
    workers = [asyncio.create_task(worker()) for _ in range(count)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for task in done:
        task.result()


class _OpenBatch(Generic[B]):
    """A batch and the number of its files that are not done."""

    def __init__(self, batch: B, remaining: int) -> None:
        self.batch, self.remaining = batch, remaining


class _BatchScheduler(Generic[B]):
    """The state that the workers of :func:`process_batches` share."""

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
        small = min(_MAX_SMALL, concurrency * 16) if concurrency > 1 else 1
        self.workers = max(small, min(tiny, small * 4)) if concurrency > 1 else 1
        self._costs = (small * concurrency, self.workers * concurrency, self.workers * small)
        self._capacity = _WeightedSemaphore(self.workers * small * concurrency)
        self._queue: deque[tuple[_OpenBatch[B], int, int]] = deque()
        self._open_batches: deque[_OpenBatch[B]] = deque()
        self._batch_begun, self._end_lock, self._batch_ended = asyncio.Event(), asyncio.Lock(), asyncio.Event()
        self._is_beginning = self._exhausted = False

    async def worker(self) -> None:
        """Process files until none are left."""
        while self._queue or await self.has_work():
            opened, file, units = self._queue.popleft()
            await self._capacity.acquire(units)
            await self._act(opened.batch, file)
            self._capacity.release(units)
            opened.remaining -= 1
            if not opened.remaining:
                await self._end_finished()

    async def has_work(self) -> bool:
        """Return whether a file is queued, after one of the workers has begun the next batch if necessary."""
        while not self._queue and not self._exhausted:
            if self._is_beginning:
                await self._batch_begun.wait()
                continue
            self._is_beginning = True
            self._batch_begun.clear()
            try:
                await self._begin()
            finally:
                self._is_beginning = False
                self._batch_begun.set()
        return bool(self._queue)

    async def _begin(self) -> None:
        while len(self._open_batches) >= MAX_OPEN:
            self._batch_ended.clear()
            await self._batch_ended.wait()
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            self._exhausted = True
            return
        sizes = self._files(batch)
        opened = _OpenBatch(batch, len(sizes))
        self._open_batches.append(opened)
        small = {file: size is not None and size < SMALL for file, size in sizes.items()}
        for wanted in (True, False):  # small files first
            self._queue.extend((opened, file, self._cost(sizes[file])) for file in sizes if small[file] is wanted)
        if not sizes:
            await self._end_finished()

    def _cost(self, size: int | None) -> int:
        """Return the units of a file, so that the files of one kind that may be in flight together use all units.

        Reading an empty file costs as much as reading a small one.
        """
        tiny, small, large = self._costs
        if size is None or size >= SMALL:
            return large
        return tiny if 0 < size < TINY else small

    async def _end_finished(self) -> None:
        async with self._end_lock:
            while self._open_batches and not self._open_batches[0].remaining:
                await self._end(self._open_batches[0].batch)
                self._open_batches.popleft()
                self._batch_ended.set()


class _WeightedSemaphore:
    """A semaphore with several units per holder; waiters are served in order."""

    def __init__(self, units: int) -> None:
        self._free = units
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, units: int) -> None:
        """Wait until this many units are free, and take them."""
        if not self._waiters and units <= self._free:
            self._free -= units
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append((units, turn))
        await turn

    def release(self, units: int) -> None:
        """Return the units."""
        self._free += units
        while self._waiters and self._waiters[0][0] <= self._free:
            wanted, turn = self._waiters.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
