"""Termination of a task: finds out why, and ends the work in order before Airflow kills the process."""

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
"""Time for requests in flight to finish after SIGTERM; the rest of the five seconds is for cleanup."""


class _Stopped(KeyboardInterrupt):
    """Drivers handle its base class by cancelling the statement."""


class Ending:
    """Early end of one attempt, requested from a signal handler.

    No further request starts, and requests in flight may finish, so that fewer outcomes stay unknown. Then the work is
    cancelled as at its deadline. Work without an event loop is interrupted at once: it is inside a transaction, or
    writes a temporary file.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stop: Callable[[], object] | None = None
        self._asked = False

    def ask(self) -> None:
        """Request the end; work that is already done is still recorded."""
        first, self._asked = not self._asked, True
        self._run.begin_no_more()
        if first and self._stop is not None:
            self._stop()

    def interrupting(self) -> AbstractContextManager[None]:
        """Within this context, the end raises an exception in the main thread."""
        return self._stopping_with(_raise)

    def cancelling(self) -> AbstractContextManager[None]:
        """Within this context, the end cancels the running asyncio task."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        return self._stopping_with(
            lambda: loop.call_soon_threadsafe(lambda: loop.call_later(FINISH_SECONDS, task.cancel))
        )

    @contextmanager
    def _stopping_with(self, stop: Callable[[], object]) -> Iterator[None]:
        self._stop = stop
        try:
            if self._asked:
                stop()
            yield
        except (asyncio.CancelledError, _Stopped):
            if not self._asked:
                raise
            raise TransientError(
                "the task was terminated (SIGTERM) before its work was done",
                remedy="nothing to do: the next attempt goes on where this one stopped",
            ) from None
        finally:
            self._stop = None


def _raise() -> None:
    raise _Stopped


def stopped_by_user(ti: Any) -> bool:
    """Return whether a user cleared or marked the running task.

    SIGTERM also comes when a worker shuts down or a timeout strikes. The state is then still ``running``, and the next
    attempt continues the work. Returns False if the state cannot be read.
    """
    try:
        scope = {"dag_id": ti.dag_id, "task_ids": [ti.task_id], "run_ids": [ti.run_id]}
        states = ti.get_task_states(**scope, map_index=ti.map_index).get(ti.run_id, {})
    except (AirflowRuntimeError, OSError, RuntimeError, AttributeError):
        return False
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    return name in states and states[name] != "running"


def in_time(work: Callable[[], None], seconds: float = ON_KILL_SECONDS) -> None:
    """Run ``work`` in a thread, because the interrupted main thread's event loop and locks are unusable; wait
    ``seconds``.
    """
    helper = threading.Thread(target=work, name="flowrunner-on-kill", daemon=True)
    helper.start()
    helper.join(seconds)
