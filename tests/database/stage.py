"""Attempts that meet each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.kill import Attempt

__all__ = ["two_at_once"]


def two_at_once(play: Callable[[Any], Any], scene: Any) -> None:
    """Both end well, or one is told that it is not the one any more."""
    outcomes = [attempt.wait() for attempt in [Attempt(play, scene, try_number=n) for n in (1, 2)]]
    assert any(outcome.ok for outcome in outcomes)
    assert all(outcome.ok or outcome.error_type == "Fenced" for outcome in outcomes)
