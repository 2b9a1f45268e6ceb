"""What the triggerer looks at while a shard waits for its next wave."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import Json
from flowrunner_provider.files.shards.book import Book
from flowrunner_provider.files.shards.look import RUNNING, Place, look
from flowrunner_provider.files.uri import parse
from flowrunner_provider.runtime.task_state import task_state
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["WaveTrigger"]


class WaveTrigger(FlowRunnerTrigger):
    """Looks until there is another wave, or the plan is no longer being made.

    :param plans: the address of the folder of the plans.
    :param name: of the plan's own folder in it.
    :param work: the fingerprint of the sync.
    :param generation: with ``wave``: where the shard is.
    :param plan_task: the task that makes the plan, in the run ``run_id`` of ``dag_id``.
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
            book = Book(store, store.join(location.path, self.name))
            seen = await look(book, self.work, Place(generation=self.generation, wave=self.wave), state)
        return None if seen.wave is None else {"plan": state, "wave": seen.wave.number}
