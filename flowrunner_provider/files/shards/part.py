"""What one shard has to do of one wave, as the plan of a sync: nothing is listed, nothing is deleted."""

from __future__ import annotations

from typing import Any, ClassVar

from flowrunner_provider.core.errors import PathEscape
from flowrunner_provider.core.retry import apause
from flowrunner_provider.files.shards.book import Book, Wave
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["PartPlan"]


class PartPlan(Plan):
    """The files of a wave that were dealt to a shard.

    :param more: as for :class:`~flowrunner_provider.files.sync.plan.Plan`, which is asked for by ``sync``.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, *arguments: Any, book: Book, wave: Wave, shard: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._book, self._wave, self._shard = book, wave, shard

    async def _make(self) -> None:
        count = 0
        async for files in self._book.items(self._wave, self._shard):
            for item, doubtful in files:
                if {"", ".", ".."} & set(item.relative.split("/")):
                    raise PathEscape(f"the plan holds the name {item.relative!r}", remedy="plan the sync again")
                self._dest.store.join(self._dest.folder, item.relative)
                self._add(item, doubtful=doubtful)
                count += 1
            await apause(0)
        self.listed = count  # not before: nothing is copied that a damaged plan names
