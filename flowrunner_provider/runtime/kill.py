"""A task is being ended: why, and how its work ends in order before Airflow kills the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

from flowrunner_provider.core.errors import TransientError
from flowrunner_provider.core.run import Run

__all__ = ["ON_KILL_SECONDS", "Ending", "in_time", "stopped_by_user"]

ON_KILL_SECONDS = 4.0
"""Airflow kills the process five seconds after SIGTERM."""

FINISH_SECONDS = 2.0
"""What is under way may finish within this time of SIGTERM; the rest of the five seconds is for cleaning up."""


class _Stopped(KeyboardInterrupt):
    """Drivers know what to do about its base class: they cancel the statement."""


class Ending:
    """The early end of one attempt's work, asked for from a signal's handler.

    No further request begins, and what is under way may finish, so that nothing is left in doubt that need not be.
    Then the work is cancelled as at its deadline. Work without an event loop is interrupted at once: it is in a
    transaction, or writes a file that has no name yet.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stop: Callable[[], object] | None = None
        self._asked = False

    def ask(self) -> None:
        """End the work soon; what is already done is still recorded."""
        first, self._asked = not self._asked, True
        self._run.begin_no_more()
        if first and self._stop is not None:
            self._stop()

    def interrupting(self) -> AbstractContextManager[None]:
        """Within it the end is an exception in the main thread."""
        return self._by(_raise)

    def cancelling(self) -> AbstractContextManager[None]:
        """Within it the end is the cancellation of the running asyncio task."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        return self._by(lambda: loop.call_soon_threadsafe(lambda: loop.call_later(FINISH_SECONDS, task.cancel)))

    @contextmanager
    def _by(self, stop: Callable[[], object]) -> Iterator[None]:
        self._stop = stop
        try:
            if self._asked:
                stop()
            yield
        except (asyncio.CancelledError, _Stopped):
            if not self._asked:
                raise
            raise TransientError(
                "the task was told to end (SIGTERM) before its work was done",
                remedy="nothing to do: the next attempt goes on with what this one has done",
            ) from None
        finally:
            self._stop = None


def _raise() -> None:
    raise _Stopped


def stopped_by_user(ti: Any) -> bool:
    """Whether Airflow no longer wants the running task: a user has cleared it, or marked it.

    SIGTERM also comes when a worker shuts down or a time-out strikes; then the state is still ``running``, and the
    next attempt goes on with what this one began. When nobody can tell, the answer is False.
    """
    try:
        scope = {"dag_id": ti.dag_id, "task_ids": [ti.task_id], "run_ids": [ti.run_id]}
        states = ti.get_task_states(**scope, map_index=ti.map_index).get(ti.run_id, {})
    except (AirflowRuntimeError, OSError, RuntimeError, AttributeError):
        return False
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    return name in states and states[name] != "running"


def in_time(work: Callable[[], None], seconds: float = ON_KILL_SECONDS) -> None:
    """Run ``work`` beside the interrupted main thread, whose event loop and locks it cannot use, and wait so long."""
    helper = threading.Thread(target=work, name="flowrunner-on-kill", daemon=True)
    helper.start()
    helper.join(seconds)
