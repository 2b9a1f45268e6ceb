"""The engine that makes one folder a copy of another: compare, copy, and finally delete.

The plan is kept on this disk, neither in memory nor in the state store: a retry lists again and finds completed copies
unchanged. The checkpoint holds the open batches. A retry finishes these first, so that the work of a killed attempt is
counted once, uploads resume, and no temporary file is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, Json, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.concurrency import for_each, process_batches
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.results import SyncResult
from flowrunner_provider.files.session import SKIPPED, Batch, TransferSession, split_into_batches
from flowrunner_provider.files.store import Store, identity
from flowrunner_provider.files.sync.plan import Plan
from flowrunner_provider.files.transfer import transfer
from flowrunner_provider.files.transfer_job import Transfer
from flowrunner_provider.files.tree import Tree, path_filter

__all__ = ["sync"]

_MAX_NAMES, _MAX_CHARACTERS = 20, 6_000


async def sync(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    identity_of_work: Json = None,
    plan: Callable[..., Plan] = Plan,
) -> SyncResult:
    """Make the folder ``dest`` hold the selected files of the folder ``source``.

    :param identity_of_work: JSON that must be unchanged for a retry to resume.
    :param plan: creates the plan; by default from the listings of both folders.
    """
    choose = path_filter(options.include, options.exclude)
    trees = Tree(*source, choose, field="source"), Tree(*dest, choose, field="dest")
    return await _Sync(*trees, run, options, identity_of_work).run(plan)


class _Sync:
    def __init__(self, source: Tree, dest: Tree, run: Run, options: SyncOptions, identity_of_work: Json) -> None:
        self._source, self._dest, self._run, self._options = source, dest, run, options
        self._session = TransferSession(run, "sync", identity_of_work, self._state)
        self._copied, self._bytes, self._deleted = self._session.state.get("counts", (0, 0, 0))
        self._position: int = self._session.state.get("after", 0)
        self._shown: dict[str, list[str]] = {"copy": [], "delete": []}

    def _state(self) -> dict[str, Json]:
        return {"counts": [self._copied, self._bytes, self._deleted], "after": self._position}

    async def run(self, make_plan: Callable[..., Plan]) -> SyncResult:
        plan = self._plan = make_plan(self._source, self._dest, self._run, self._options, deleted_before=self._deleted)
        finished = False
        try:
            for batch in [*self._session.open_batches]:
                await self._recover(batch)
            plan.start()
            if self._options.dry_run:
                return await self._preview()
            self._session.progress = self._run.progress("sync", unit="bytes", start=self._bytes)
            await self._copy_all()
            await self._process(self._begin(split_into_batches(plan.to_delete()), "delete"))
            finished = True
        finally:
            await plan.close()
            if not finished:
                with suppress(FlowRunnerError):
                    self._session.save(force=True)
        self._session.save(force=True)
        self._session.progress.finish()
        return self._result(self._copied, self._bytes, self._deleted)

    def _result(self, copied: int, size: int, deleted: int) -> SyncResult:
        """Return the result; files that earlier attempts copied are unchanged in the listing of this one."""
        listed = max(self._plan.listed, copied)
        return SyncResult(
            listed=listed,
            copied=copied,
            unchanged=listed - copied,
            bytes=size,
            deleted=deleted,
            extra=self._plan.extra,
            dry_run=self._options.dry_run,
            copies=self._shown["copy"],
            deletes=self._shown["delete"],
        )

    async def _preview(self) -> SyncResult:
        first, copies, size = await self._plan.preview()
        self._show("copy", iter(first))
        self._show("delete", self._plan.to_delete())
        return self._result(copies, size, self._plan.deletes)

    def _show(self, kind: str, items: Iterator[Item]) -> None:
        shown = self._shown[kind]
        while len(shown) < _MAX_NAMES and sum(map(len, shown)) < _MAX_CHARACTERS and (item := next(items, None)):
            shown.append(item.relative)

    # -- recovery from earlier attempts

    async def _recover(self, batch: Batch) -> None:
        """Count what a killed attempt did in an open batch, and finish its copies.

        Its deletions are decided again by the new listings.
        """

        async def recover_file(index: int) -> None:
            item = batch.items[index]
            here, there = await _item(self._source, item.relative), await _item(self._dest, item.relative)
            if batch.kind == "delete":
                if there is None:
                    batch.done[index] = 0
                return
            await self._refresh(batch, index, here)
            if here is not None and there is not None and await self._plan.same(here, there):
                batch.done[index] = here.size or 0
                await self._delete_parts(item.relative)

        await for_each(self._options.concurrency, recover_file, batch.pending)
        if batch.kind == "delete":
            batch.choices = [0 if index in batch.done else SKIPPED for index in range(len(batch.items))]
        await self._process(_single(batch))
        self._session.save(force=True)

    async def _refresh(self, batch: Batch, index: int, here: Item | None) -> bool:
        """Update a file of the batch to its present version; return whether it has changed or is gone."""
        item = batch.items[index]
        if here is None:
            batch.choices[index] = SKIPPED
            await self._delete_parts(item.relative)
        elif here.identity != item.identity:
            batch.items[index] = here
            batch.parts.pop(index, None)
        return here is None or here.identity != item.identity

    async def _delete_parts(self, name: str) -> None:
        """Delete the parts that uploads of this task have left for a file."""
        store, token = self._dest.store, self._session.token
        await store.forget(self._dest.path_of(name), token)
        if self._options.backup_dir:
            await store.forget(store.join(self._options.backup_dir, name), token)

    # -- batches

    async def _copy_all(self) -> None:
        if not self._plan.fixed:
            self._position = 0
        await self._process(self._copy_batches())
        await self._plan.complete()

    async def _copy_batches(self) -> AsyncIterator[Batch]:
        while rows := await self._plan.to_copy(self._position):
            chosen = next(split_into_batches(item for _, item in rows))
            self._position = rows[len(chosen) - 1][0]
            differing = await self._plan.differing(chosen)
            if self._session.progress:
                self._session.progress.total = self._plan.bytes + (0 if self._plan.fixed else self._bytes)
            if differing:
                yield await self._session.begin(Batch.of(differing))

    async def _begin(self, chosen: Iterable[list[Item]], kind: str) -> AsyncIterator[Batch]:
        for items in chosen:
            yield await self._session.begin(Batch.of(items, kind))

    async def _process(self, chosen: AsyncIterator[Batch]) -> None:
        tiny = min(place.store.capabilities.tiny_at_once for place in (self._source, self._dest))
        await process_batches(
            self._options.concurrency, chosen, self._sizes, self._process_file, self._finish, tiny=tiny
        )

    def _sizes(self, batch: Batch) -> dict[int, int | None]:
        return batch.sizes if batch.kind == "copy" else dict.fromkeys(batch.pending, 0)

    async def _process_file(self, batch: Batch, index: int) -> None:
        await (self._copy(batch, index) if batch.kind == "copy" else self._delete(batch, index))

    async def _finish(self, batch: Batch) -> None:
        done = [batch.items[index] for index in sorted(batch.done)]
        if batch.kind == "copy":
            self._copied += len(done)
            self._bytes += sum(item.size or 0 for item in done)
        else:
            self._deleted += len(done)
        self._show(batch.kind, iter(done))
        self._session.end(batch)

    async def _copy(self, batch: Batch, index: int) -> None:
        name, options = batch.items[index].relative, self._options
        target = self._dest.store.join(self._dest.folder, name)
        await self._session.make_parent_of(self._dest.store, target)
        if options.backup_dir:
            await self._back_up(name)
        try:
            digest = await self._send(batch, index, target)
        except (NotFound, IntegrityError):
            # The files of a plan that was made a while ago may have changed or disappeared.
            if not self._plan.fixed or not await self._refresh(batch, index, await _item(self._source, name)):
                raise
            if batch.choices[index] == SKIPPED:
                return
            digest = await self._send(batch, index, target)
        batch.done[index] = digest.size
        self._session.save()

    async def _send(self, batch: Batch, index: int, target: str) -> Digest:
        return await self._session.copy_file(
            batch, index, source=self._source.store, path=self._source.path_of(batch.items[index].relative),
            dest=self._dest.store, target=target, replace=True, preserve_times=True, durable=False, within=True,
            verify="checksum" if self._options.compare == "checksum" else "size",
        )  # fmt: skip

    async def _back_up(self, name: str) -> None:
        """Copy a file to the backup before it is replaced, so that readers always find one."""
        old = await _item(self._dest, name)
        if old is None:
            return
        backup = self._dest.store.join(self._options.backup_dir, name)
        await self._session.make_parent_of(self._dest.store, backup)
        failpoint("files.sync.before_backup")
        job = Transfer(
            source=self._dest.store, path=self._dest.path_of(name), item=old,
            dest=self._dest.store, target=backup, token=self._session.token, verify="size", replace=True,
            preserve_times=True, durable=False, resume=None, advance=lambda count: None,
            due=lambda: False, remember=lambda offset, digest: None, guard=self._session.guard, within=True,
        )  # fmt: skip
        await transfer(job)
        failpoint("files.sync.after_backup")

    async def _delete(self, batch: Batch, index: int) -> None:
        """Delete a file that the source does not have, or move it to the backup."""
        item, store = batch.items[index], self._dest.store
        path = self._dest.path_of(item.relative)
        try:
            now = identity(await store.stat(path))
        except NotFound:
            batch.done[index] = 0
            return
        if now != item.identity:
            raise IntegrityError(
                f"{store.where}{path} changed after it was listed and was not deleted",
                remedy="make sure that nothing else writes there, and run the task again",
            )
        self._session.guard.check()
        failpoint("files.sync.before_delete")
        if self._options.backup_dir:
            backup = store.join(self._options.backup_dir, item.relative)
            await self._session.make_parent_of(store, backup)
            await store.rename(path, backup, replace=True)
        else:
            with suppress(NotFound):
                await store.delete(path)
        batch.done[index] = 0
        failpoint("files.sync.after_delete")


async def _single(batch: Batch) -> AsyncIterator[Batch]:
    yield batch


async def _item(tree: Tree, name: str) -> Item | None:
    """Return the file under a name; None only if it certainly does not exist."""
    try:
        entry = await tree.store.stat(tree.path_of(name))
    except NotFound:
        return None
    return None if entry.is_dir or entry.is_link else Item.of(0, name, entry)
