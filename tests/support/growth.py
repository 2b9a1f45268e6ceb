"""Whether work grows with its input as a line does. Times are compared with each other only."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["grows_like_a_line"]

Input = TypeVar("Input")

SIZES = (4_096, 16_384, 65_536, 262_144, 1_048_576)
NOISE = 0.03
"""Seconds below which a time says nothing."""


def grows_like_a_line(
    work: Callable[[Input], Any],
    make: Callable[[int], Input],
    *,
    refuses: type[Exception] | tuple[type[Exception], ...] = (),
    largest: int = SIZES[-1],
) -> None:
    """Four times the input takes about four times the CPU time; squared work would take sixteen times.

    It stops at the first size that takes too long, so that even exponential work fails within seconds.

    :param make: an input of about so many bytes.
    :param refuses: errors that are an answer, too.
    """
    before = NOISE
    for size in (size for size in SIZES if size <= largest):
        given = make(size)
        took = min(_took(work, given, refuses) for _ in range(2))
        assert took < 10 * max(before, NOISE), f"{size} bytes took {took:.2f} s, a fourth of them {before:.3f} s"
        before = took


def _took(work: Callable[[Input], Any], given: Input, refuses: Any) -> float:
    gc.disable()  # what it costs depends on what else is in memory
    began = time.process_time()
    try:
        with suppress(*refuses) if isinstance(refuses, tuple) else suppress(refuses):
            work(given)
        return time.process_time() - began
    finally:
        gc.enable()
