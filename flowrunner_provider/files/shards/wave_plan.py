"""The files that one shard copies in one wave, in the form of a sync plan that lists and deletes nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from flowrunner_provider.core.errors import PathEscape
from flowrunner_provider.core.retry import apause
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Wave
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["WavePlan"]


class WavePlan(Plan):
    """The files of a wave that belong to one shard.

    :param arguments: passed on to :class:`~flowrunner_provider.files.sync.plan.Plan`, as is ``options``.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, *arguments: Any, plan_folder: PlanFolder, wave: Wave, shard: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._plan_folder, self._wave, self._shard = plan_folder, wave, shard

    async def _make(self) -> None:
        count = 0
        async for files in self._plan_folder.items(self._wave, self._shard):
            for item, doubtful in files:
                if {"", ".", ".."} & set(item.relative.split("/")):
                    raise PathEscape(f"the plan contains the name {item.relative!r}", remedy="plan the sync again")
                self._dest.store.join(self._dest.folder, item.relative)
                self._add(item, doubtful=doubtful)
                count += 1
            await apause(0)
        self.listed = count  # only now: nothing may be copied from a plan that turns out to be damaged
