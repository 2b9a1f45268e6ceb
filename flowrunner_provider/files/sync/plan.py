"""The plan of a sync: both folders are listed at once, and the source is compared with the complete destination.

Both listings are kept on this disk. Copies may begin once the destination is listed, while a long source is still
being listed. The deletions are known once both listings are complete, and are checked as a whole.
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
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.session import BATCH_SIZE
from flowrunner_provider.files.spool import Rows, Spellings, Spool
from flowrunner_provider.files.transfer import digest_of
from flowrunner_provider.files.tree import Tree

__all__ = ["AHEAD", "EARLY", "Plan"]

EARLY = 10_000
"""The number of files of the source that are listed before copies begin; a smaller source is listed completely."""

AHEAD = 100_000
"""The number of files of the source that are listed at full speed before the destination is listed.

After that, the destination gets the bandwidth, because no copy can begin before it is listed. The source is listed
slowly meanwhile, because an idle server would hang up.
"""

_SMALL_AT_ONCE = 64
_CHUNK = 500
_PAUSE = 0.25
_DOUBTFUL = 1


class Plan:
    """The plan, while it is being made and afterwards.

    :param deleted_before: the number of files that earlier attempts have deleted.
    :param trusting: with ``checksum``, consider files of equal size to be equal, because their bytes were compared
        before.
    """

    fixed: ClassVar[bool] = False
    """Whether the plan is the same in every attempt, so that a retry resumes at the last position."""

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
        self._dest_files, self._copies = self._spool.rows(), self._spool.rows()
        self._deleted_before = deleted_before
        self.listed = self.bytes = self.extra = self.deletes = 0
        self.doubtful: set[str] = set()
        precisions = [tree.store.capabilities.modified_precision for tree in (source, dest)]
        self._precision = max(*precisions, 0.002)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Start to list both folders."""
        self._task = asyncio.create_task(self._make())
        self._task.add_done_callback(lambda _: self._changed.set())

    async def close(self) -> None:
        """Stop listing, and delete the plan from the disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._spool.close()

    async def complete(self) -> None:
        """Wait until both listings are complete and the deletions are checked; raise their error if they failed."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def to_copy(self, after: int) -> list[tuple[int, Item]]:
        """Return the next files to copy with their numbers; an empty list at the end.

        An error of the listing is raised here as soon as it occurs.
        """
        starts_early = self._dest.store.capabilities.case_sensitive
        while True:
            done = self._task is None or self._task.done()
            if done:
                await self.complete()
            if done or (starts_early and self.listed > EARLY):
                rows = self._copies.added(after, BATCH_SIZE)
                if done or len(rows) == BATCH_SIZE:
                    self.doubtful |= {item.relative for _, item, mark in rows if mark == _DOUBTFUL}
                    return [(number, item) for number, item, _ in rows]
            self._changed.clear()
            await self._changed.wait()

    def to_delete(self) -> Iterator[Item]:
        """Yield the files to delete by name; only once the plan is complete."""
        return self._dest_files.unmarked() if self._options.delete_extra else iter(())

    def alike(self, here: Item, there: Item) -> bool:
        """Return whether two files are equal as far as the listings show."""
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
        """Return whether two files are equal; with ``checksum`` both are read."""
        if not self.alike(here, there) or self._options.compare != "checksum":
            return self.alike(here, there)
        return await self.same_bytes(here.relative)

    async def same_bytes(self, name: str) -> bool:
        """Return whether both sides have the same bytes under a name."""
        source = await digest_of(self._source.store.read(self._source.path_of(name)))
        dest = await digest_of(self._dest.store.read(self._dest.path_of(name)))
        return source.hexdigest() == dest.hexdigest()

    async def differing(self, items: Sequence[Item]) -> list[Item]:
        """Return those of the next files to copy that differ; doubtful ones are read on both sides now."""
        if not self.doubtful:
            return list(items)
        same: set[str] = set()

        async def compare(item: Item) -> None:
            with suppress(NotFound):  # the copy will notice
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
        """Return the first copies of the complete plan, their number, and their bytes."""
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

    # -- making the plan

    async def _make(self) -> None:
        capabilities = self._dest.store.capabilities
        if self._options.compare == "size_mtime" and not capabilities.sets_modified:
            raise ConfigError(
                f"{self._dest.store.where} cannot keep modification times",
                field="compare",
                remedy="set compare='checksum'",
            )
        spellings = None if capabilities.case_sensitive else Spellings(self._spool)
        waiting = self._spool.rows()  # files of the source that are listed before the destination is
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
        self._check_deletions()

    async def _list_dest(self, spellings: Spellings | None, waiting: Rows) -> None:
        async for item in self._dest.files(missing_ok=True):
            self._dest_files.add(item)
            if spellings:
                spellings.add(item.relative)
        position = 0
        while rows := waiting.added(position, _CHUNK):
            position = rows[-1][0]
            await self._compare([item for _, item, _ in rows])

    async def _list_source(self, spellings: Spellings | None, waiting: Rows, dest: asyncio.Task[None]) -> None:
        chunk: list[Item] = []
        async for item in self._source.files(missing_ok=False):
            if spellings:
                spellings.add(item.relative)
            if not dest.done():
                waiting.add(item)
                if waiting.count > AHEAD and waiting.count % _CHUNK == 0:
                    await asyncio.wait({dest}, timeout=_PAUSE)
                continue
            dest.result()
            chunk.append(item)
            if len(chunk) == _CHUNK:
                await self._compare(chunk)
                chunk.clear()
        await dest
        await self._compare(chunk)

    async def _compare(self, chunk: list[Item]) -> None:
        """Compare some files of the source with those of the destination."""
        names = [item.relative for item in chunk]
        found = self._dest_files.named(names) if self._dest_files.count else {}
        for item in chunk:
            there = found.get(item.relative)
            if there is None or not self.alike(item, there):
                self._add(item)
            elif self._options.compare == "checksum" and not self._trusting:
                self._add(item, doubtful=True)
        self._dest_files.mark(list(found))
        self.listed += len(chunk)
        self._changed.set()
        await apause(0)

    def _add(self, item: Item, *, doubtful: bool = False) -> None:
        """Add a file to copy; a ``doubtful`` one only if its bytes differ. Names that lead elsewhere are refused."""
        self._dest.store.join(self._dest.folder, item.relative)
        self._copies.add(item, _DOUBTFUL if doubtful else None)
        if not doubtful:
            self.bytes += item.size or 0

    def _check_deletions(self) -> None:
        extra = self._dest_files.count_unmarked()
        if not self._options.delete_extra:
            self.extra = extra
            return
        self.deletes = extra
        if self._deleted_before + extra > self._options.max_deletes:
            raise ConfigError(
                f"{self._deleted_before + extra} files would be deleted and max_deletes is "
                f"{self._options.max_deletes}; none was in this attempt",
                field="max_deletes",
                remedy="check the plan with dry_run=True; then raise max_deletes, or exclude files",
            )
