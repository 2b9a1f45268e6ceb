"""What the journal, the lease and the event loop add to a task that does nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload

TASKS = 200


def ours(_: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.core.run import Run
    from flowrunner_provider.runtime.operator import FlowRunnerOperator
    from tests.support.context import FileStateStore, execute, make_context

    class NothingOperator(FlowRunnerOperator):
        async def perform(self, run: Run) -> dict[str, int]:  # type: ignore[override]
            return {"rows": 0}

    folder = Path(tempfile.mkdtemp())
    operator = NothingOperator(task_id="t")
    yield
    for number in range(TASKS):
        execute(operator, make_context(operator, state=FileStateStore(folder / str(number))))


def bash(_: dict[str, Any]) -> Iterator[None]:
    from airflow.providers.standard.operators.bash import BashOperator

    from tests.support.context import execute, make_context

    operator = BashOperator(task_id="t", bash_command="true")
    yield
    for _number in range(TASKS):
        execute(operator, make_context(operator))


WORKLOAD = Workload(
    title=f"{TASKS} tasks that do nothing, executed in one process",
    contenders={"BashOperator(true)": bash, "FlowRunnerOperator": ours},
    reference="BashOperator(true)",
)
