"""Attempts that meet each other: one that is taken for dead and goes on, and two at the same time."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.kill import Attempt

__all__ = ["two_at_once", "zombie_and_its_retry"]


def zombie_and_its_retry(play: Callable[[Any], Any], scene: Any, folder: Path, module: str, point: str) -> None:
    """The first attempt stops in its open transaction, the second one waits for it, the first one goes on.

    :param folder: of the scene; the sign that the first has stopped is put beside it.
    :param module: where the failpoint ``point`` is passed.
    """
    gate = folder.with_name(f"{folder.name}-stopped")
    zombie = Attempt(stopping, play, scene, module, point, gate)
    _wait_for(gate)
    retry = Attempt(play, scene, try_number=2)
    retry.started()
    assert not retry.join(0.5)
    zombie.thaw()
    first, second = zombie.wait(), retry.wait()
    assert second.ok, second.error
    assert first.ok or first.error_type == "Fenced"


def stopping(play: Callable[[Any], Any], scene: Any, module: str, point: str, gate: Path) -> Any:
    """``play``, frozen from inside (SIGSTOP) when it first comes to the failpoint."""
    stage: Any = importlib.import_module(module)

    def failpoint(name: str) -> None:
        if name == point and not gate.exists():
            gate.touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    stage.failpoint = failpoint
    return play(scene)


def _wait_for(path: Path) -> None:
    event = threading.Event()
    for _ in range(3000):
        if path.exists():
            return
        event.wait(0.01)
    raise AssertionError(f"{path} did not appear")


def two_at_once(play: Callable[[Any], Any], scene: Any) -> None:
    """Both end well, or one is told that it is not the one any more."""
    outcomes = [attempt.wait() for attempt in [Attempt(play, scene, try_number=n) for n in (1, 2)]]
    assert any(outcome.ok for outcome in outcomes)
    assert all(outcome.ok or outcome.error_type == "Fenced" for outcome in outcomes)
