"""The engine that makes one folder like another: two complete listings side by side, then copies, then deletions.

Nothing is done before both listings are complete and the whole plan has been judged. The plan is kept in a temporary
file, not in memory and not in the state store: a retry lists again, and what is done already is the same by then. What
is kept for the next attempt is the open batch, so that what a killed attempt did is counted once, a file is gone on
with where it was, and no part is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, Json, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.copy import token_of
from flowrunner_provider.files.each import each
from flowrunner_provider.files.plan import Item, batches
from flowrunner_provider.files.results import SyncResult
from flowrunner_provider.files.store import Store, identity
from flowrunner_provider.files.sync_plan import Plan, SyncOptions
from flowrunner_provider.files.transfer import Transfer, transfer
from flowrunner_provider.files.tree import Tree, chooser

__all__ = ["sync"]

BATCH = 128
NAMES = 24_000
SAVE_EVERY = 3.0


async def sync(
    source: tuple[Store, str], dest: tuple[Store, str], run: Run, options: SyncOptions, *, identity_of_work: Json = None
) -> SyncResult:
    """Make the folder ``dest`` hold the chosen files of the folder ``source``.

    :param identity_of_work: what must be the same for a retry to go on (JSON).
    """
    choose = chooser(options.include, options.exclude)
    trees = Tree(*source, choose, field="source"), Tree(*dest, choose, field="dest")
    plan = Plan(*trees, run, options)
    try:
        return await _Sync(*trees, plan, run, options, identity_of_work).run()
    finally:
        plan.close()


class _Sync:
    def __init__(
        self, source: Tree, dest: Tree, plan: Plan, run: Run, options: SyncOptions, identity_of_work: Json
    ) -> None:
        self._source, self._dest, self._plan, self._run, self._options = source, dest, plan, run, options
        self._token = token_of(run)
        self._checkpoint = run.checkpoint("sync", fingerprint(identity_of_work))
        state: dict[str, Any] = self._checkpoint.state or {}
        self._copied, self._bytes, self._deleted = state.get("counts", (0, 0, 0))
        self._kind: str = state.get("kind", "")
        self._open = [Item.from_json(row) for row in state.get("batch", [])]
        self._done: set[str] = {self._open[index].relative for index in state.get("done", [])}
        self._parts: dict[str, tuple[int, str]] = {name: (at, how) for name, at, how in state.get("parts", [])}
        self._saved_at = self._checked_at = run.clock.monotonic()
        self._folders: set[str] = set()

    async def run(self) -> SyncResult:
        plan, options = self._plan, self._options
        await self._take_up()
        await plan.make(deleted_before=self._deleted)
        if options.dry_run:
            return plan.result(plan.copies, plan.bytes, plan.deletes)
        self._progress = self._run.progress("sync", unit="bytes", total=self._bytes + plan.bytes, start=self._bytes)
        finished = False
        try:
            for batch in batches(plan.to_copy(), most=BATCH, room=NAMES):
                await self._batch("copy", batch)
            for batch in batches(plan.to_delete(), most=BATCH, room=NAMES):
                await self._batch("delete", batch)
            await each(options.concurrency, self._forget, list(self._parts))
            self._parts = {}
            finished = True
        finally:
            if not finished:
                with suppress(FlowRunnerError):
                    self._save()
        self._save()
        self._progress.finish()
        return plan.result(self._copied, self._bytes, self._deleted)

    # -- what an earlier attempt left

    async def _take_up(self) -> None:
        """Count what the killed attempt did in its open batch, and remove parts that nobody will go on with."""
        if not self._open:
            return
        opened = {item.relative for item in self._open}
        kept = {name: part for name, part in self._parts.items() if name not in opened}

        async def look(item: Item) -> None:
            name = item.relative
            if self._kind == "delete":
                if name not in self._done and await _item(self._dest, name) is None:
                    self._done.add(name)
                return
            here, there = await _item(self._source, name), await _item(self._dest, name)
            same = here is not None and here.identity == item.identity
            if name not in self._done and same and there is not None and await self._plan.same(item, there):
                self._done.add(name)
            if name in self._parts and same and name not in self._done:
                kept[name] = self._parts[name]
                return
            await self._forget(name)

        await each(self._options.concurrency, look, self._open)
        self._settled()
        self._parts = kept
        self._save()

    async def _forget(self, name: str) -> None:
        """Remove the parts that uploads of this task have left for a name."""
        store = self._dest.store
        await store.forget(self._dest.path_of(name), self._token)
        if self._options.backup_dir:
            await store.forget(store.join(self._options.backup_dir, name), self._token)

    def _settled(self) -> None:
        """The open batch is history: what was done in it counts."""
        done = [item for item in self._open if item.relative in self._done]
        if self._kind == "copy":
            self._copied += len(done)
            self._bytes += sum(item.size or 0 for item in done)
        else:
            self._deleted += len(done)
        self._open, self._done = [], set()

    # -- one batch

    async def _batch(self, kind: str, batch: Sequence[Item]) -> None:
        self._kind, self._open, self._done = kind, list(batch), set()
        self._save()
        await each(self._options.concurrency, self._copy if kind == "copy" else self._delete, batch)
        self._settled()

    async def _copy(self, item: Item) -> None:
        name, options = item.relative, self._options
        target = self._dest.store.join(self._dest.folder, name)
        await self._folder_of(target)
        if options.backup_dir:
            await self._keep_old(name)
        due_at = self._run.clock.monotonic() + SAVE_EVERY

        def due() -> bool:
            return self._run.clock.monotonic() >= due_at

        def remember(offset: int, digest: str) -> None:
            nonlocal due_at
            due_at = self._run.clock.monotonic() + SAVE_EVERY
            self._parts[name] = (offset, digest)
            self._maybe_save()

        job = Transfer(
            source=self._source.store, path=self._source.path_of(name), item=item,
            dest=self._dest.store, target=target, token=self._token,
            verify="checksum" if options.compare == "checksum" else "size", replace=True,
            preserve_times=True, durable=False, resume=self._parts.pop(name, None),
            advance=self._progress.advance, due=due, remember=remember, guard=self._guard,
        )  # fmt: skip
        await transfer(job)
        self._parts.pop(name, None)
        self._done.add(name)
        self._maybe_save()

    async def _keep_old(self, name: str) -> None:
        """Copy the file that is about to be replaced into the backup, so that readers always find one."""
        old = await _item(self._dest, name)
        if old is None:
            return
        backup = self._dest.store.join(self._options.backup_dir, name)
        await self._folder_of(backup)
        failpoint("files.sync.before_backup")
        job = Transfer(
            source=self._dest.store, path=self._dest.path_of(name), item=old,
            dest=self._dest.store, target=backup, token=self._token, verify="size", replace=True,
            preserve_times=True, durable=False, resume=None, advance=lambda count: None,
            due=lambda: False, remember=lambda offset, digest: None, guard=self._guard,
        )  # fmt: skip
        await transfer(job)
        failpoint("files.sync.after_backup")

    async def _folder_of(self, target: str) -> None:
        folder = target.rpartition("/")[0]
        if folder and folder not in self._folders:
            failpoint("files.sync.before_mkdir")
            await self._dest.store.mkdir(folder, parents=True)
            failpoint("files.sync.after_mkdir")
            if len(self._folders) >= 10_000:
                self._folders.clear()
            self._folders.add(folder)

    async def _delete(self, item: Item) -> None:
        """Delete, or move into the backup, what the source does not have."""
        name, store = item.relative, self._dest.store
        path = self._dest.path_of(name)
        try:
            now = identity(await store.stat(path))
        except NotFound:
            self._done.add(name)
            return
        if now != item.identity:
            raise IntegrityError(
                f"{store.where}{path} changed after it was listed and was not deleted",
                remedy="find out who writes there; then run the task again",
            )
        self._guard()
        failpoint("files.sync.before_delete")
        if self._options.backup_dir:
            backup = store.join(self._options.backup_dir, name)
            await self._folder_of(backup)
            await store.rename(path, backup, replace=True)
        else:
            with suppress(NotFound):
                await store.delete(path)
        self._done.add(name)
        failpoint("files.sync.after_delete")

    # -- the record

    def _guard(self) -> None:
        """Stop if a newer attempt has taken over; asked at most once a second."""
        now = self._run.clock.monotonic()
        if now - self._checked_at >= 1.0:
            self._run.lease.check()
            self._checked_at = now

    def _maybe_save(self) -> None:
        if self._run.clock.monotonic() - self._saved_at >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        self._saved_at = self._run.clock.monotonic()
        state: dict[str, Json] = {
            "counts": [self._copied, self._bytes, self._deleted],
            "kind": self._kind,
            "batch": [item.to_json() for item in self._open],
            "done": [index for index, item in enumerate(self._open) if item.relative in self._done],
            "parts": [[name, offset, digest] for name, (offset, digest) in self._parts.items()],
        }
        self._checkpoint.save(state, force=True)


async def _item(tree: Tree, name: str) -> Item | None:
    """What is under a name now; None only if it is known that nothing is."""
    try:
        entry = await tree.store.stat(tree.path_of(name))
    except NotFound:
        return None
    return None if entry.is_dir or entry.is_link else Item.of(0, name, entry)
