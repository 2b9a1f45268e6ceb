"""Many things at a time, within one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

__all__ = ["each", "each_file"]

SMALL = 1024 * 1024
"""Bytes; of files below this size more are copied at a time: what they cost is waiting, not memory."""

_MOST = 64


async def each(concurrency: int, act: Callable[[Any], Coroutine[Any, Any, None]], things: Iterable[Any]) -> None:
    """Act on all things, so many at a time; the first failure cancels the rest and is raised."""
    waiting = iter(things)

    async def worker() -> None:
        for thing in waiting:
            await act(thing)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for task in done:
        task.result()


async def each_file(
    concurrency: int, act: Callable[[Any], Coroutine[Any, Any, None]], sizes: Mapping[Any, int | None]
) -> None:
    """:func:`each` for files: first the small ones, sixteen times as many at a time (but one is one), then the others.

    :param sizes: by what :func:`act` gets; None for an unknown size.
    """
    small = [thing for thing, size in sizes.items() if size is not None and size < SMALL]
    await each(min(_MOST, concurrency * 16) if concurrency > 1 else 1, act, small)
    await each(concurrency, act, sizes.keys() - set(small))
