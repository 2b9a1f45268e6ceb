"""The engine that copies between any two stores: in batches, verified, and resumed where a killed attempt was.

The work is ordered by name. What is kept for the next attempt is how far the order is settled, and the files of
the open batches with what became of each: the record has the same size for ten files and for a million. A retry
settles the open batches first, then what failed, and then goes on behind them; files that appear meanwhile before
that place are left to the next run.
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
from flowrunner_provider.files.copy_targets import Targets, taken
from flowrunner_provider.files.disposition import SourceDisposition
from flowrunner_provider.files.failures import Failures
from flowrunner_provider.files.ledger import Announced, Ledger
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.plan import Destination, Item, Key, Source
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
    """Copy all files that ``sources`` name; on return each is whole and verified under its final name.

    With ``dry_run`` nothing is written on either side, nor for the next attempt.

    :param sources: open stores, each with a path: a file, a folder, or a glob.
    :param dest: an open store and a path; see :class:`~flowrunner_provider.files.plan.Destination`.
    :param identity_of_work: what must be the same for a retry to go on (JSON).
    :param label: how the result calls the destination.
    :param ledger: with ``only_new`` the ledger's place, if that is not the destination.
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
        self._session = TransferSession(run, "copy", identity_of_work, self._record)
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
                source.be_file()  # which may have been moved away since

    def _record(self) -> dict[str, Json]:
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
        self._targets = Targets(self._sources, self._dest, options, plan.files)
        opened = {item.key for batch in open_before for item in batch.items}
        if options.only_new:
            await self._open_ledger(plan, ledger, opened)
        plan.refuse_empty(self._cursor, opened)
        if options.if_exists == "fail" and not self.resumed:
            await self._targets.refuse_existing(plan.ahead(self._cursor, opened))
        if options.dry_run:
            return await preview(plan, self._targets, label)
        failed = await self._failed_before(opened)
        await self._all(open_before, failed, plan, opened | {item.key for item in failed})
        entries = [CopiedFile(path=str(path), size=int(str(size))) for path, size in self._preview]
        return CopyResult(
            files=self._files, bytes=self._bytes, skipped=self._skipped, dest=label, entries=entries,
            known=self._known or 0,
        )  # fmt: skip

    def _check(self) -> None:
        """Refuse what the stores cannot do."""
        store = self._to[0]
        if self._options.mode is not None and not store.capabilities.sets_mode:
            raise ConfigError(f"{store.where} has no permission bits", field="chmod", remedy="leave chmod out")
        self._disposition.validate()

    async def _all(self, open_before: list[Batch], failed: list[Item], plan: CopyPlan, begun: set[Key]) -> None:
        session, rest = self._session, plan.files.sizes(self._cursor or (-1, ""))
        total = None if rest is None else self._bytes + rest
        session.progress = self._run.progress("copy", unit="bytes", total=total, start=self._bytes)
        finished = False
        try:
            for batch in open_before:
                await self._take_up(batch)
            ahead = self._begun(open_before, failed, plan, begun)
            stores = [self._to[0], *(source.store for source in self._sources)]
            await process_batches(
                self._options.concurrency, ahead, lambda batch: batch.sizes, self._one, self._end,
                tiny=min(store.capabilities.tiny_at_once for store in stores),
            )  # fmt: skip
            finished = True
        finally:
            if not finished:
                with suppress(FlowRunnerError):
                    session.save(force=True)
                    await self._write_ledger()
        session.save(force=True)
        if self._ledger:
            await self._ledger.close()
        self._failures.check(self._files)
        if self._options.remove_empty_folders:
            await self._disposition.remove_empty_folders()
        if self._options.done_marker:
            await self._write(self._dest.path_of(self._options.done_marker), b"")
        session.progress.finish()

    async def _begun(
        self, before: list[Batch], failed: list[Item], plan: CopyPlan, begun: set[Key]
    ) -> AsyncIterator[Batch]:
        """The batches in turn, each announced to the next attempt."""
        cursor = max((self._cursor or START, *(batch.items[-1].key for batch in before)))
        for batch in before:
            if self._session.progress:
                self._session.progress.advance(sum(batch.done.values()))
            yield batch
        for items in split_into_batches(failed):
            yield await self._announced(await self._retried(items))
        for items in split_into_batches(plan.ahead(cursor, begun)):
            yield await self._announced(Batch(items=items, choices=await self._targets.choose(items)))

    async def _announced(self, batch: Batch) -> Batch:
        if self._options.done_marker and not self._files:
            with suppress(NotFound):  # the one of an earlier run says nothing about these
                await self._dest.store.delete(self._dest.path_of(self._options.done_marker))
        if self._ledger:
            intended = (one.planned for one in (*self._session.open_batches, batch))
            await self._ledger.announce(chain.from_iterable(intended))
        return await self._session.begin(batch)

    async def _retried(self, items: list[Item]) -> Batch:
        """A batch of files that failed before. One whose copy exists only has to be taken from its source."""
        batch = Batch.of(items)

        async def is_ours(index: int, choice: int) -> bool:
            try:
                return await self._adopt(batch, index, choice)
            except PermanentError:  # it fails again where failures are counted
                return False

        batch.choices = await self._targets.choose(items, is_ours)
        return batch

    # -- what was done before

    async def _open_ledger(self, plan: CopyPlan, place: tuple[Store, str] | None, opened: set[Key]) -> None:
        """Leave out what the ledger knows, and settle what it only announces."""
        name = fingerprint([[source.store.where, source.path] for source in self._sources])[:12]
        path = self._dest.folder.rstrip("/") + f"/.flowrunner-copied-{name}.jsonl"
        ledger = self._ledger = Ledger(*(place or (self._dest.store, path)), self._run)
        announced: list[Announced] = []

        async def fill(known: Rows) -> None:
            announced.extend(await ledger.read(known))
            ledger.prune(plan.files)
            for item, choice in announced:
                if item.key not in opened and choice != SKIPPED and await self._targets.hold(item, choice):
                    ledger.settle(item)

        await plan.leave_out(fill)
        if self._known is None:
            self._known = plan.known

    async def _write_ledger(self) -> None:
        """What is copied is known to the next run, even if no attempt of this one goes on."""
        if self._ledger and self._session.open_batches:
            for batch in self._session.open_batches:
                for index in batch.done:
                    self._ledger.settle(batch.items[index])
            await self._ledger.announce(
                (batch.items[index], batch.choices[index])
                for batch in self._session.open_batches
                for index in batch.pending
            )

    async def _failed_before(self, opened: set[Key]) -> list[Item]:
        """What an earlier attempt could not copy, as it is now."""
        items: list[Item] = []
        gone: set[Key] = set()
        for key in self._failures.before:
            if key in opened or key[0] >= len(self._sources):
                continue
            source = self._sources[key[0]]
            try:
                items.append(Item.of(*key, await source.store.stat(source.path_of(key[1]))))
            except NotFound:
                self._run.log.warning("%s is gone from the source since it failed.", key[1])
                gone.add(key)
        self._failures.settle(gone)
        return items

    # -- one batch

    async def _take_up(self, batch: Batch) -> None:
        """Look at each file that an earlier attempt had begun: is it still the same, is it done?"""

        async def look(index: int) -> None:
            item, choice = batch.items[index], batch.choices[index]
            source = self._sources[item.source]
            target = self._dest.target(item, choice)
            try:
                entry = await source.store.stat(source.path_of(item.relative))
            except NotFound:
                self._run.log.warning("%s is gone from the source since it was listed.", item.relative)
                batch.choices[index] = SKIPPED
                gone.add(index)
                for path in (target, target + self._suffix):
                    await self._dest.store.forget(path, self._session.token)
                return
            if identity(entry) != item.identity:
                batch.items[index] = Item.of(item.source, item.relative, entry)
                batch.parts.pop(index, None)
                await self._dest.store.forget(target, self._session.token)  # what was sent of the other content
            if self._options.if_exists != "overwrite":
                await self._ours(batch, index, target)

        gone: set[int] = set()
        await for_each(self._options.concurrency, look, batch.pending)
        self._skipped -= len(gone)

    async def _ours(self, batch: Batch, index: int, target: str) -> None:
        """A target that is there with the source's bytes is what this task has made before it was killed."""
        if await self._targets.find(target) is None or await self._adopt(batch, index, batch.choices[index]):
            return
        if self._options.if_exists != "skip":
            raise taken(target)
        batch.choices[index] = SKIPPED

    async def _adopt(self, batch: Batch, index: int, choice: int) -> bool:
        """Count a target that holds the bytes of its source as copied; return whether it does."""
        item, store = batch.items[index], self._dest.store
        if not await self._targets.hold(item, choice):
            return False
        target = self._dest.target(item, choice)
        await store.forget(target, self._session.token)
        if self._options.write_sidecar:
            await self._write_sidecar(target, await digest_of(store.read(target), self._options.algorithm))
        batch.done[index] = (await store.stat(target)).size or 0
        return True

    async def _end(self, batch: Batch) -> None:
        """All of the batch is copied: let go of its sources; then it is history."""
        session, options = self._session, self._options
        if options.leaves != "none":
            session.save(force=True)
            copied = list(batch.done)
            dispose = self._disposition.apply
            await for_each(options.concurrency, lambda n: self._try(batch, n, dispose(batch.items[n])), copied)
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

    async def _try(self, batch: Batch, index: int, work: Coroutine[Any, Any, None]) -> None:
        """What cannot be done to one file is an error now, or is kept for the end.

        What waiting may mend (a lost connection, say) would hit the next file, too, and always ends the attempt.
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

    async def _one(self, batch: Batch, index: int) -> None:
        await self._try(batch, index, self._copy(batch, index))

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

    # -- what goes with the copies

    @property
    def _suffix(self) -> str:
        return f".{self._options.algorithm}"

    async def _write_sidecar(self, target: str, digest: Digest) -> None:
        await self._write(target + self._suffix, sidecar_line(digest, target))

    async def _write(self, path: str, data: bytes) -> None:
        await write_once(self._dest.store, path, data, "overwrite", self._run, path)
