"""The trigger of a shard that waits for its next wave."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import Json
from flowrunner_provider.files.shards.next_wave import RUNNING, Position, find_next
from flowrunner_provider.files.shards.plan_folder import PlanFolder
from flowrunner_provider.files.uri import parse
from flowrunner_provider.runtime.task_state import task_state
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["WaveTrigger"]


class WaveTrigger(FlowRunnerTrigger):
    """Fires when the next wave is published, or when the plan's task no longer runs.

    :param plans: the address of the folder that holds the plans.
    :param name: the name of this plan's folder.
    :param work: the fingerprint of the sync.
    :param generation: the generation of the shard's position.
    :param wave: the number of the last wave that the shard started.
    :param dag_id: the DAG of the sync.
    :param run_id: its DAG run.
    :param plan_task: the task that makes the plan.
    """

    def __init__(
        self,
        *,
        plans: str,
        name: str,
        work: str,
        generation: str,
        wave: int,
        dag_id: str,
        run_id: str,
        plan_task: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plans, self.name, self.work = plans, name, work
        self.generation, self.wave = generation, wave
        self.dag_id, self.run_id, self.plan_task = dag_id, run_id, plan_task

    def arguments(self) -> dict[str, Any]:
        return {
            "plans": self.plans, "name": self.name, "work": self.work, "generation": self.generation,
            "wave": self.wave, "dag_id": self.dag_id, "run_id": self.run_id, "plan_task": self.plan_task,
        }  # fmt: skip

    async def observe(self) -> Json:
        from flowrunner_provider.files.hook import aopen_store

        state = await task_state(self.dag_id, self.run_id, self.plan_task)
        if state != RUNNING:
            return {"plan": state}
        location = parse(self.plans, field="plan_path")
        async with await aopen_store(location, field="plan_path") as store:
            plan_folder = PlanFolder(store, store.join(location.path, self.name))
            step = await find_next(plan_folder, self.work, Position(generation=self.generation, wave=self.wave), state)
        return None if step.wave is None else {"plan": state, "wave": step.wave.number}
