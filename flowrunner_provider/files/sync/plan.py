"""What a sync is going to do: both sides are listed at once, and the source is compared with the whole destination.

Both listings are kept on this disk. Copies may begin when the destination is listed, while a long source still is;
what is to be deleted is known when both listings are complete, and is judged as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import ClassVar

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.concurrency import SMALL, for_each
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.session import BATCH_SIZE
from flowrunner_provider.files.spool import Rows, Spellings, Spool
from flowrunner_provider.files.transfer import digest_of
from flowrunner_provider.files.tree import Tree

__all__ = ["AHEAD", "EARLY", "Plan"]

EARLY = 10_000
"""Files of the source that are listed before the first is copied: a smaller tree is first listed to its end."""

AHEAD = 100_000
"""Files of the source that are listed at full speed while the destination is still being listed, which then has the
way to itself: nothing can be copied before it is known. The source goes on slowly, for an idle server hangs up."""

_SMALL_AT_ONCE = 64
_CHUNK = 500
_BREATH = 0.25
_DOUBTFUL = 1


class Plan:
    """The plan, while it is made and afterwards.

    :param deleted_before: what earlier attempts have deleted counts, too.
    :param trusting: with ``checksum``: files of one size are the same, as their bytes were compared before.
    """

    fixed: ClassVar[bool] = False
    """It is the same in every attempt, so that a retry goes on where the last one was."""

    def __init__(
        self,
        source: Tree,
        dest: Tree,
        run: Run,
        options: SyncOptions,
        *,
        deleted_before: int,
        trusting: bool = False,
    ) -> None:
        self._trusting = trusting
        self._source, self._dest, self._run, self._options = source, dest, run, options
        self._spool = Spool()
        self._there, self._copies = self._spool.rows(), self._spool.rows()
        self._deleted_before = deleted_before
        self.listed = self.bytes = self.extra = self.deletes = 0
        self.doubtful: set[str] = set()
        one, other = source.store.capabilities, dest.store.capabilities
        self._precision = max(one.modified_precision, other.modified_precision, 0.002)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def start(self) -> None:
        """Begin to list."""
        self._task = asyncio.create_task(self._make())
        self._task.add_done_callback(lambda _: self._news.set())

    async def close(self) -> None:
        """Stop listing, and remove what is on the disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._spool.close()

    async def complete(self) -> None:
        """Both listings are complete and the deletions are allowed; or the error that says why not."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def to_copy(self, after: int) -> list[tuple[int, Item]]:
        """The next files to copy, with their numbers; none when there are no more.

        An error of the listing is raised here, as soon as it is known.
        """
        early = self._dest.store.capabilities.case_sensitive
        while True:
            done = self._task is None or self._task.done()
            if done:
                await self.complete()
            if done or (early and self.listed > EARLY):
                rows = self._copies.added(after, BATCH_SIZE)
                if done or len(rows) == BATCH_SIZE:
                    self.doubtful |= {item.relative for _, item, mark in rows if mark == _DOUBTFUL}
                    return [(number, item) for number, item, _ in rows]
            self._news.clear()
            await self._news.wait()

    def to_delete(self) -> Iterator[Item]:
        """By name, when the plan is complete."""
        return self._there.unmarked() if self._options.delete_extra else iter(())

    def alike(self, here: Item, there: Item) -> bool:
        """Whether two files look the same without being read."""
        if self._options.compare == "name":
            return True
        if here.size is None or here.size != there.size:
            return False
        if self._options.compare == "checksum":
            return True
        if here.modified is None or there.modified is None:
            return False
        return (
            here.modified == there.modified or abs((here.modified - there.modified).total_seconds()) < self._precision
        )

    async def same(self, here: Item, there: Item) -> bool:
        """Whether two files are the same; with checksums they are read."""
        if not self.alike(here, there) or self._options.compare != "checksum":
            return self.alike(here, there)
        return await self.same_bytes(here.relative)

    async def same_bytes(self, name: str) -> bool:
        """Whether both sides have the same bytes under a name."""
        mine = await digest_of(self._source.store.read(self._source.path_of(name)))
        theirs = await digest_of(self._dest.store.read(self._dest.path_of(name)))
        return mine.hexdigest() == theirs.hexdigest()

    async def differing(self, items: Sequence[Item]) -> list[Item]:
        """Those of the next files to copy whose bytes differ; where that is in doubt, both sides are read now."""
        if not self.doubtful:
            return list(items)
        same: set[str] = set()

        async def compare(item: Item) -> None:
            with suppress(NotFound):  # who copies it will see
                if await self.same_bytes(item.relative):
                    same.add(item.relative)

        at_once = self._options.concurrency
        doubtful = [item for item in items if item.relative in self.doubtful]
        small = [item for item in doubtful if item.size is not None and item.size < SMALL]
        large = [item for item in doubtful if item.size is None or item.size >= SMALL]
        await for_each(min(at_once * 16, _SMALL_AT_ONCE) if at_once > 1 else 1, compare, small)
        await for_each(at_once, compare, large)
        self.doubtful.clear()
        self.bytes += sum(item.size or 0 for item in doubtful if item.relative not in same)
        return [item for item in items if item.relative not in same]

    async def preview(self) -> tuple[list[Item], int, int]:
        """Of the complete plan: the first copies, how many there are, and their bytes."""
        await self.complete()
        first: list[Item] = []
        count = size = after = 0
        while rows := await self.to_copy(after):
            after = rows[-1][0]
            found = await self.differing([item for _, item in rows])
            count += len(found)
            size += sum(item.size or 0 for item in found)
            first += found[: BATCH_SIZE - len(first)]
        return first, count, size

    # -- how it is made

    async def _make(self) -> None:
        capabilities = self._dest.store.capabilities
        if self._options.compare == "size_mtime" and not capabilities.sets_modified:
            raise ConfigError(
                f"{self._dest.store.where} cannot keep the times of files",
                field="compare",
                remedy="set compare='checksum'",
            )
        spellings = None if capabilities.case_sensitive else Spellings(self._spool)
        waiting = self._spool.rows()  # what the source shows before the destination is known
        dest = asyncio.create_task(self._list_dest(spellings, waiting))
        try:
            await self._list_source(spellings, waiting, dest)
        finally:
            dest.cancel()
            await asyncio.gather(dest, return_exceptions=True)
        if spellings:
            spellings.check(self._dest.store.where)
        if self._source.links or self._dest.links:
            links = self._source.links, self._dest.links
            self._run.log.warning("Symbolic links were left alone: %d in the source, %d in dest.", *links)
        self._judge_extra()

    async def _list_dest(self, spellings: Spellings | None, waiting: Rows) -> None:
        async for item in self._dest.files(missing_ok=True):
            self._there.add(item)
            if spellings:
                spellings.add(item.relative)
        judged = 0
        while rows := waiting.added(judged, _CHUNK):
            judged = rows[-1][0]
            await self._judge([item for _, item, _ in rows])

    async def _list_source(self, spellings: Spellings | None, waiting: Rows, dest: asyncio.Task[None]) -> None:
        chunk: list[Item] = []
        async for item in self._source.files(missing_ok=False):
            if spellings:
                spellings.add(item.relative)
            if not dest.done():
                waiting.add(item)
                if waiting.count > AHEAD and waiting.count % _CHUNK == 0:
                    await asyncio.wait({dest}, timeout=_BREATH)
                continue
            dest.result()
            chunk.append(item)
            if len(chunk) == _CHUNK:
                await self._judge(chunk)
                chunk.clear()
        await dest
        await self._judge(chunk)

    async def _judge(self, chunk: list[Item]) -> None:
        """Compare some files of the source with what the destination has."""
        names = [item.relative for item in chunk]
        found = self._there.named(names) if self._there.count else {}
        for item in chunk:
            there = found.get(item.relative)
            if there is None or not self.alike(item, there):
                self._add(item)
            elif self._options.compare == "checksum" and not self._trusting:
                self._add(item, doubtful=True)
        self._there.mark(list(found))
        self.listed += len(chunk)
        self._news.set()
        await apause(0)

    def _add(self, item: Item, *, doubtful: bool = False) -> None:
        """A file to copy; ``doubtful``: if its bytes differ. A name that leads elsewhere is refused now."""
        self._dest.store.join(self._dest.folder, item.relative)
        self._copies.add(item, _DOUBTFUL if doubtful else None)
        if not doubtful:
            self.bytes += item.size or 0

    def _judge_extra(self) -> None:
        alone = self._there.count_unmarked()
        if not self._options.delete_extra:
            self.extra = alone
            return
        self.deletes = alone
        if self._deleted_before + alone > self._options.max_deletes:
            raise ConfigError(
                f"{self._deleted_before + alone} files would be deleted and max_deletes is "
                f"{self._options.max_deletes}; none was in this attempt",
                field="max_deletes",
                remedy="look at the plan with dry_run=True; then raise max_deletes, or exclude them",
            )
