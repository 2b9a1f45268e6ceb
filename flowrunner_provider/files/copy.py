"""The engine that copies files between any two stores: in batches, verified, and resumable.

Files are copied in the order of their names. The checkpoint holds the position in this order and the open batches with
the state of each file, so it has the same size for ten files and for a million. A retry first finishes the open
batches, then the files that failed, and then continues after the last position. Files that appear before that position
in the meantime are copied by the next run.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    Fenced,
    FlowRunnerError,
    Json,
    NotFound,
    PermanentError,
)
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.concurrency import for_each, process_batches
from flowrunner_provider.files.content import write_once
from flowrunner_provider.files.copy_plan import START, CopyPlan
from flowrunner_provider.files.copy_preview import preview
from flowrunner_provider.files.copy_targets import CopyTargets, target_exists
from flowrunner_provider.files.disposition import SourceDisposition
from flowrunner_provider.files.failures import Failures
from flowrunner_provider.files.items import Destination, Item, Key, Source
from flowrunner_provider.files.ledger import Announced, Ledger
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.results import CopiedFile, CopyResult
from flowrunner_provider.files.session import SKIPPED, Batch, TransferSession, split_into_batches, token_of
from flowrunner_provider.files.sidecar import sidecar_line, sidecar_of
from flowrunner_provider.files.store import Store, identity
from flowrunner_provider.files.transfer import digest_of

if TYPE_CHECKING:
    from flowrunner_provider.files.spool import Rows

__all__ = ["copy", "token_of"]

_PREVIEW, _PREVIEW_CHARACTERS = 20, 6_000


async def copy(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str],
    run: Run,
    options: CopyOptions,
    *,
    identity_of_work: Json = None,
    label: str = "",
    ledger: tuple[Store, str] | None = None,
) -> CopyResult:
    """Copy all files that ``sources`` match; on return each is complete and verified under its final name.

    With ``dry_run`` nothing is written to either side, and no checkpoint.

    :param sources: open stores, each with a path: a file, a folder, or a glob.
    :param dest: an open store and a path; see :class:`~flowrunner_provider.files.items.Destination`.
    :param identity_of_work: JSON that must be unchanged for a retry to resume.
    :param label: the destination as the result names it.
    :param ledger: with ``only_new`` the path of the ledger, if it is not in the destination.
    """
    found = [Source(store, path) for store, path in sources]
    identity = [identity_of_work, options.algorithm, *(["dry run"] if options.dry_run else [])]
    work = _Copy(found, dest, run, options, identity)
    plan = CopyPlan(found, run, options, resumed=work.resumed)
    try:
        return await work.run(plan, label or dest[1], ledger)
    finally:
        plan.close()


class _Copy:
    def __init__(
        self, sources: list[Source], dest: tuple[Store, str], run: Run, options: CopyOptions, identity_of_work: Json
    ) -> None:
        self._sources, self._to, self._run, self._options = sources, dest, run, options
        self._session = TransferSession(run, "copy", identity_of_work, self._state)
        self._failures = Failures(run, identity_of_work, options.max_failures)
        self._disposition = SourceDisposition(sources, options, self._session)
        self._ledger: Ledger | None = None
        state = self._session.state
        self.resumed = bool(state)
        self._files, self._bytes, self._skipped = state.get("counts", (0, 0, 0))
        self._known: int | None = state.get("known")
        self._cursor: Key | None = tuple(state["cursor"]) if state.get("cursor") else None
        self._preview: list[list[Json]] = state.get("preview", [])
        for source, is_file in zip(sources, state.get("files", []), strict=False):
            if is_file:
                source.mark_as_file()  # it may have been moved away since

    def _state(self) -> dict[str, Json]:
        return {
            "counts": [self._files, self._bytes, self._skipped],
            "known": self._known,
            "cursor": list(self._cursor) if self._cursor else None,
            "preview": list(self._preview),
            "files": [source.is_file for source in self._sources],
        }

    async def run(self, plan: CopyPlan, label: str, ledger: tuple[Store, str] | None) -> CopyResult:
        options, open_before = self._options, [*self._session.open_batches]
        self._check()
        self._dest = await plan.make(lambda: Destination(*self._to, self._sources))
        self._targets = CopyTargets(self._sources, self._dest, options, plan.files)
        opened = {item.key for batch in open_before for item in batch.items}
        if options.only_new:
            await self._open_ledger(plan, ledger, opened)
        plan.refuse_empty(self._cursor, opened)
        if options.if_exists == "fail" and not self.resumed:
            await self._targets.refuse_existing(plan.ahead(self._cursor, opened))
        if options.dry_run:
            return await preview(plan, self._targets, label)
        failed = await self._previously_failed(opened)
        await self._copy_batches(open_before, failed, plan, opened | {item.key for item in failed})
        entries = [CopiedFile(path=str(path), size=int(str(size))) for path, size in self._preview]
        return CopyResult(
            files=self._files, bytes=self._bytes, skipped=self._skipped, dest=label, entries=entries,
            known=self._known or 0,
        )  # fmt: skip

    def _check(self) -> None:
        """Raise ``ConfigError`` for options that the stores do not support."""
        store = self._to[0]
        if self._options.mode is not None and not store.capabilities.sets_mode:
            raise ConfigError(f"{store.where} has no permission bits", field="chmod", remedy="remove chmod")
        self._disposition.validate()

    async def _copy_batches(
        self, open_before: list[Batch], failed: list[Item], plan: CopyPlan, begun: set[Key]
    ) -> None:
        session, rest = self._session, plan.files.sizes(self._cursor or (-1, ""))
        total = None if rest is None else self._bytes + rest
        session.progress = self._run.progress("copy", unit="bytes", total=total, start=self._bytes)
        finished = False
        try:
            for batch in open_before:
                await self._recover(batch)
            ahead = self._batches(open_before, failed, plan, begun)
            stores = [self._to[0], *(source.store for source in self._sources)]
            await process_batches(
                self._options.concurrency, ahead, lambda batch: batch.sizes, self._copy_one, self._finish,
                tiny=min(store.capabilities.tiny_at_once for store in stores),
            )  # fmt: skip
            finished = True
        finally:
            if not finished:
                with suppress(FlowRunnerError):
                    session.save(force=True)
                    await self._flush_ledger()
        session.save(force=True)
        if self._ledger:
            await self._ledger.close()
        self._failures.check(self._files)
        if self._options.remove_empty_folders:
            await self._disposition.remove_empty_folders()
        if self._options.done_marker:
            await self._write(self._dest.path_of(self._options.done_marker), b"")
        session.progress.finish()

    async def _batches(
        self, before: list[Batch], failed: list[Item], plan: CopyPlan, begun: set[Key]
    ) -> AsyncIterator[Batch]:
        """Yield all batches, each after it was written to the checkpoint."""
        cursor = max((self._cursor or START, *(batch.items[-1].key for batch in before)))
        for batch in before:
            if self._session.progress:
                self._session.progress.advance(sum(batch.done.values()))
            yield batch
        for items in split_into_batches(failed):
            yield await self._begin(await self._retry_batch(items))
        for items in split_into_batches(plan.ahead(cursor, begun)):
            yield await self._begin(Batch(items=items, choices=await self._targets.choose(items)))

    async def _begin(self, batch: Batch) -> Batch:
        """Announce a batch to the next attempt, and in the ledger to the next run."""
        if self._options.done_marker and not self._files:
            with suppress(NotFound):  # a marker of an earlier run says nothing about these files
                await self._dest.store.delete(self._dest.path_of(self._options.done_marker))
        if self._ledger:
            batches = (*self._session.open_batches, batch)
            await self._ledger.announce(chain.from_iterable(each.planned for each in batches))
        return await self._session.begin(batch)

    async def _retry_batch(self, items: list[Item]) -> Batch:
        """Return a batch of files that failed before; those whose copy exists are marked as done."""
        batch = Batch.of(items)

        async def is_ours(index: int, choice: int) -> bool:
            try:
                return await self._adopt_existing(batch, index, choice)
            except PermanentError:  # the copy fails the same way, and is counted there
                return False

        batch.choices = await self._targets.choose(items, is_ours)
        return batch

    # -- recovery from earlier attempts

    async def _open_ledger(self, plan: CopyPlan, place: tuple[Store, str] | None, opened: set[Key]) -> None:
        """Leave out the files in the ledger, and find out which announced copies were completed."""
        name = fingerprint([[source.store.where, source.path] for source in self._sources])[:12]
        path = self._dest.folder.rstrip("/") + f"/.flowrunner-copied-{name}.jsonl"
        ledger = self._ledger = Ledger(*(place or (self._dest.store, path)), self._run)
        announced: list[Announced] = []

        async def fill(known: Rows) -> None:
            announced.extend(await ledger.read(known))
            ledger.prune(plan.files)
            for item, choice in announced:
                is_open = item.key in opened or choice == SKIPPED
                if not is_open and await self._targets.holds_source_bytes(item, choice):
                    ledger.settle(item)

        await plan.leave_out(fill)
        if self._known is None:
            self._known = plan.known

    async def _flush_ledger(self) -> None:
        """Record the copied files for the next run, in case no attempt of this run resumes."""
        if self._ledger and self._session.open_batches:
            for batch in self._session.open_batches:
                for index in batch.done:
                    self._ledger.settle(batch.items[index])
            await self._ledger.announce(
                (batch.items[index], batch.choices[index])
                for batch in self._session.open_batches
                for index in batch.pending
            )

    async def _previously_failed(self, opened: set[Key]) -> list[Item]:
        """Return the files that failed in an earlier attempt, as they are now."""
        items: list[Item] = []
        gone: set[Key] = set()
        for key in self._failures.before:
            if key in opened or key[0] >= len(self._sources):
                continue
            source = self._sources[key[0]]
            try:
                items.append(Item.of(*key, await source.store.stat(source.path_of(key[1]))))
            except NotFound:
                self._run.log.warning("%s failed before and no longer exists in the source.", key[1])
                gone.add(key)
        self._failures.settle(gone)
        return items

    # -- one batch

    async def _recover(self, batch: Batch) -> None:
        """Find out for each pending file whether its source is unchanged and its copy complete."""

        async def recover_file(index: int) -> None:
            item, choice = batch.items[index], batch.choices[index]
            source = self._sources[item.source]
            target = self._dest.target(item, choice)
            try:
                entry = await source.store.stat(source.path_of(item.relative))
            except NotFound:
                self._run.log.warning("%s was listed and no longer exists in the source.", item.relative)
                batch.choices[index] = SKIPPED
                gone.add(index)
                for path in (target, target + self._suffix):
                    await self._dest.store.forget(path, self._session.token)
                return
            if identity(entry) != item.identity:
                batch.items[index] = Item.of(item.source, item.relative, entry)
                batch.parts.pop(index, None)
                await self._dest.store.forget(target, self._session.token)  # a part of the previous content
            if self._options.if_exists != "overwrite":
                await self._recover_existing(batch, index, target)

        gone: set[int] = set()
        await for_each(self._options.concurrency, recover_file, batch.pending)
        self._skipped -= len(gone)

    async def _recover_existing(self, batch: Batch, index: int, target: str) -> None:
        """Accept an existing target that holds the source's bytes as a copy of the killed attempt."""
        if await self._targets.find(target) is None or await self._adopt_existing(batch, index, batch.choices[index]):
            return
        if self._options.if_exists != "skip":
            raise target_exists(target)
        batch.choices[index] = SKIPPED

    async def _adopt_existing(self, batch: Batch, index: int, choice: int) -> bool:
        """Return whether the target holds the bytes of its source; if so, mark the file as done."""
        item, store = batch.items[index], self._dest.store
        if not await self._targets.holds_source_bytes(item, choice):
            return False
        target = self._dest.target(item, choice)
        await store.forget(target, self._session.token)
        if self._options.write_sidecar:
            await self._write_sidecar(target, await digest_of(store.read(target), self._options.algorithm))
        batch.done[index] = (await store.stat(target)).size or 0
        return True

    async def _finish(self, batch: Batch) -> None:
        """Delete or move the sources of a copied batch, and count it."""
        session, options = self._session, self._options
        if options.leaves != "none":
            session.save(force=True)
            copied = list(batch.done)
            dispose = self._disposition.apply
            await for_each(
                options.concurrency, lambda n: self._collect_failure(batch, n, dispose(batch.items[n])), copied
            )
        self._failures.settle({item.key for n, item in enumerate(batch.items) if n not in batch.failed})
        if self._ledger:
            for index in batch.done:
                self._ledger.settle(batch.items[index])
        self._cursor = max(self._cursor or batch.items[-1].key, batch.items[-1].key)
        finished = {index: size for index, size in batch.done.items() if index not in batch.failed}
        self._files += len(finished)
        self._bytes += sum(finished.values())
        self._skipped += len(batch.items) - len(finished) - len(batch.failed)
        for index in sorted(finished):
            if len(self._preview) == _PREVIEW or len(json.dumps(self._preview)) >= _PREVIEW_CHARACTERS:
                break
            self._preview.append([self._dest.target(batch.items[index], batch.choices[index]), batch.done[index]])
        session.end(batch)

    async def _collect_failure(self, batch: Batch, index: int, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, and collect a failure that concerns a single file unless ``on_item_error`` is ``fail``.

        Transient errors, such as a lost connection, would affect the next file too and always end the attempt.
        """
        try:
            await work
        except Fenced:
            raise
        except PermanentError as error:
            if self._options.on_item_error == "fail":
                raise
            batch.failed.add(index)
            self._failures.add(batch.items[index], error)

    async def _copy_one(self, batch: Batch, index: int) -> None:
        await self._collect_failure(batch, index, self._copy(batch, index))

    async def _copy(self, batch: Batch, index: int) -> None:
        item, options = batch.items[index], self._options
        source = self._sources[item.source]
        path, target = source.path_of(item.relative), self._dest.target(item, batch.choices[index])
        await self._session.make_parent_of(self._dest.store, target)
        expected = await sidecar_of(source.store, path + self._suffix, path) if options.verify_sidecar else ""
        try:
            digest = await self._session.copy_file(
                batch, index, source=source.store, path=path, dest=self._dest.store, target=target,
                verify=options.verify, replace=options.if_exists == "overwrite",
                preserve_times=options.preserve_times, durable=options.leaves != "none",
                algorithm=options.algorithm, expected=expected, digested=options.write_sidecar, mode=options.mode,
                within=not (expected or options.write_sidecar or options.mode is not None),
            )  # fmt: skip
        except AlreadyExists:
            if options.if_exists != "skip":
                raise
            batch.choices[index] = SKIPPED
        else:
            if options.write_sidecar:
                await self._write_sidecar(target, digest)
            batch.done[index] = digest.size
        self._session.save()

    # -- sidecars and the done marker

    @property
    def _suffix(self) -> str:
        return f".{self._options.algorithm}"

    async def _write_sidecar(self, target: str, digest: Digest) -> None:
        await self._write(target + self._suffix, sidecar_line(digest, target))

    async def _write(self, path: str, data: bytes) -> None:
        await write_once(self._dest.store, path, data, "overwrite", self._run, path)
