"""Garbage collection that leaves alone what was there before the work began."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["settled"]

_NEW = 10_000
"""Objects made since the last collection, about, after which the next one looks at these. Python's 700 are fewer than
what a few hundred tasks of an event loop hold at any moment: it would look at the same ones over and over."""


_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []
"""The thresholds to go back to, once for each work under way: two may overlap, in threads, and end in any order."""


@contextmanager
def settled() -> Iterator[None]:
    """Nothing that exists now is looked at by the collector meanwhile, and what is made not quite as often.

    With Airflow imported these are some 200,000 objects: each full collection takes a tenth of a second over them and
    finds nothing, and copying a few thousand files causes several. Of works that overlap the last one to end puts
    things back.
    """
    with _lock:
        _usual.append(_usual[0] if _usual else gc.get_threshold())
        usual = _usual[0]
        gc.freeze()
        gc.set_threshold(usual[0] and max(usual[0], _NEW), *usual[1:])  # 0: somebody has switched it off
    try:
        yield
    finally:
        with _lock:
            _usual.pop()
            if not _usual:
                gc.set_threshold(*usual)
                gc.unfreeze()
