"""Garbage collector tuning for the time of a task: existing objects are not scanned."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["frozen_heap"]

_THRESHOLD = 10_000
"""Allocations between two collections. With Python's default of 700, a few hundred asyncio tasks hold more objects than
that at any moment, and every collection would scan the same ones."""


_lock = threading.Lock()
_saved_thresholds: list[tuple[int, int, int]] = []
"""The thresholds to restore, one entry per active block: blocks may overlap in threads and end in any order."""


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Exclude all existing objects from garbage collection, and collect new ones less often.

    With Airflow imported, about 200,000 objects exist. A full collection takes a tenth of a second and finds nothing,
    and copying a few thousand files triggers several. The last of overlapping blocks restores the collector.
    """
    with _lock:
        _saved_thresholds.append(_saved_thresholds[0] if _saved_thresholds else gc.get_threshold())
        thresholds = _saved_thresholds[0]
        gc.freeze()
        gc.set_threshold(
            thresholds[0] and max(thresholds[0], _THRESHOLD), *thresholds[1:]
        )  # 0: the collector is disabled
    try:
        yield
    finally:
        with _lock:
            _saved_thresholds.pop()
            if not _saved_thresholds:
                gc.set_threshold(*thresholds)
                gc.unfreeze()
