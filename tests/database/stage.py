"""Attempts that meet each other, or a broken connection."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import Attempt

__all__ = ["commit_unanswered", "two_at_once"]


def two_at_once(play: Callable[[Any], Any], scene: Any) -> None:
    """Both end well, or one is told that it is not the one any more."""
    outcomes = [attempt.wait() for attempt in [Attempt(play, scene, try_number=n) for n in (1, 2)]]
    assert any(outcome.ok for outcome in outcomes)
    assert all(outcome.ok or outcome.error_type == "Fenced" for outcome in outcomes)


def commit_unanswered(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, action: str, proxy: ChaosProxy
) -> Callable[[], bool]:
    """COMMIT arrives, its answer does not, and the server is there again when the action asks; tells if it has."""
    points: list[str] = []

    def failpoint(name: str) -> None:
        points.append(name)
        if name == f"{action}.before_commit" and points.count(name) == 1:
            proxy.toxics = Toxics(cut_down=0, rst=True, connections=None)
        if name == f"{action}.before_reconcile":
            proxy.reset()

    monkeypatch.setattr(module, "failpoint", failpoint)
    return lambda: f"{action}.before_reconcile" in points
