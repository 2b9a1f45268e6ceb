"""Why a task is being ended: because a user said so, or because its worker is going away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

__all__ = ["ON_KILL_SECONDS", "in_time", "stopped_by_user"]

ON_KILL_SECONDS = 4.0
"""Airflow kills the process five seconds after SIGTERM."""


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
