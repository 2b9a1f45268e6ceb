"""State of another task in the same DAG run, read from a worker or the triggerer."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowRuntimeError

from flowrunner_provider.core.errors import ConfigError, Unavailable

__all__ = ["task_state"]


async def task_state(dag_id: str, run_id: str, task_id: str) -> str:
    """Return the state of an unmapped task; empty before it is scheduled.

    :raises ConfigError: if the run has no such task.
    :raises Unavailable: if Airflow's API cannot be reached.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from asgiref.sync import sync_to_async

    try:
        found = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=dag_id, task_ids=[task_id], run_ids=[run_id]
        )
    except (AirflowRuntimeError, OSError) as error:
        raise Unavailable(
            f"the state of the task {task_id!r} could not be read ({type(error).__name__})",
            remedy="check the API server's log; the retry asks again",
        ) from error
    states = found.get(run_id, {})
    if task_id not in states:
        raise ConfigError(f"this run has no task {task_id!r}", field="task_id", remedy="use a task id of this DAG")
    state = states[task_id]
    return "" if state is None else str(getattr(state, "value", state))
