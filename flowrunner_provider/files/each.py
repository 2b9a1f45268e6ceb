"""Many things at a time, within one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

__all__ = ["each"]


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
