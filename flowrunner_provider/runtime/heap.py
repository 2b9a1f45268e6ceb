"""Garbage collection that leaves alone what was there before the work began."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["settled"]


@contextmanager
def settled() -> Iterator[None]:
    """Nothing that exists now is looked at by the collector meanwhile.

    With Airflow imported these are some 200,000 objects: each full collection takes a tenth of a second over them and
    finds nothing, and copying a few thousand files causes several.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
