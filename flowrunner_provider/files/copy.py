"""The engine that copies between any two stores: in batches, verified, and resumed where a killed attempt was.

The work is ordered by name. What is kept for the next attempt is how far the order is settled, and the files of
the open batch with what became of each: the record has the same size for ten files and for a million. A retry
settles the open batch first and then goes on behind it; files that appear meanwhile before that place are left
to the next run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import (
    AlreadyExists,
    FlowRunnerError,
    IntegrityError,
    Json,
    NotFound,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.each import each
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.plan import Destination, Item, Source, batches, check_targets, find
from flowrunner_provider.files.results import CopiedFile, CopyResult
from flowrunner_provider.files.store import Entry, Store, identity
from flowrunner_provider.files.transfer import Transfer, digest_of, transfer

__all__ = ["CopyOptions", "copy", "token_of"]

BATCH = 128
"""Files per batch; one write of the record each."""

NAMES = 24_000
"""Characters of names per batch, so that the record stays below what the state store takes."""

SAVE_EVERY = 3.0
"""Seconds between two writes of the record within a batch."""

_PREVIEW, _PREVIEW_CHARACTERS = 20, 6_000
_SKIPPED = -1


@dataclass
class _Batch:
    """The open batch: its files, what each is to become, which are done, how far each of the others came."""

    items: list[Item]
    choices: list[int]
    resumed: bool = False
    done: dict[int, int] = field(default_factory=dict)
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        return {
            "items": [item.to_json() for item in self.items],
            "choices": list(self.choices),
            "done": [[index, size] for index, size in self.done.items()],
            "parts": [[index, *part] for index, part in self.parts.items() if index not in self.done],
        }

    @classmethod
    def from_json(cls, record: Any) -> _Batch:
        return cls(
            items=[Item.from_json(row) for row in record["items"]],
            choices=list(record["choices"]),
            resumed=True,
            done=dict(record["done"]),
            parts={index: (offset, digest) for index, offset, digest in record["parts"]},
        )


def token_of(run: Run) -> str:
    """What names this task's uploads in every attempt."""
    return fingerprint("files", *run.scope)[:16]


async def copy(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str],
    run: Run,
    options: CopyOptions,
    *,
    identity_of_work: Json = None,
    label: str = "",
) -> CopyResult:
    """Copy all files that ``sources`` name; on return each is whole and verified under its final name.

    :param sources: open stores, each with a path: a file, a folder, or a glob.
    :param dest: an open store and a path; see :class:`~flowrunner_provider.files.plan.Destination`.
    :param identity_of_work: what must be the same for a retry to go on (JSON).
    :param label: how the result calls the destination.
    """
    work = _Copy([Source(store, path) for store, path in sources], run, options, identity_of_work)
    return await work.run(dest, label or dest[1])


class _Copy:
    def __init__(self, sources: list[Source], run: Run, options: CopyOptions, identity_of_work: Json) -> None:
        self._sources, self._run, self._options = sources, run, options
        self._token = token_of(run)
        self._checkpoint = run.checkpoint("copy", fingerprint(identity_of_work))
        state = self._checkpoint.state or {}
        self._files, self._bytes, self._skipped = state.get("counts", (0, 0, 0))
        self._cursor: tuple[int, str] | None = tuple(state["cursor"]) if state.get("cursor") else None
        self._preview: list[list[Json]] = state.get("preview", [])
        self._batch = _Batch.from_json(state["batch"]) if state.get("batch") else None
        self._were_files: list[bool] = state.get("files", [])
        self._resumed = bool(state)
        self._saved_at = self._checked_at = run.clock.monotonic()
        self._folders: set[str] = set()
        self._planned: set[str] = set()

    async def run(self, dest: tuple[Store, str], label: str) -> CopyResult:
        run, options = self._run, self._options
        for source, is_file in zip(self._sources, self._were_files, strict=False):
            if is_file:
                source.be_file()  # which may have been moved away since
        items = await find(
            self._sources,
            run,
            recursive=options.recursive,
            max_files=options.max_files,
            missing_ok=options.missing_ok or self._resumed,
        )
        self._dest = Destination(dest[0], dest[1], self._sources)
        await self._dest.settle()
        check_targets(items, self._sources, self._dest)
        opened = {item.key for item in self._batch.items} if self._batch else set()
        items = [i for i in items if i.key not in opened and (self._cursor is None or i.key > self._cursor)]
        if not (items or self._resumed or options.missing_ok):
            wanted = ", ".join(source.path for source in self._sources)
            raise NotFound(
                f"nothing matches {wanted}", remedy="correct the path, or set missing_ok=True if that is fine"
            )
        if options.if_exists == "fail" and not self._resumed:
            await self._refuse_existing(items)
        if options.if_exists == "rename":
            self._planned = {self._dest.target(item) for item in items}
        await self._all(items)
        entries = [CopiedFile(path=str(path), size=int(str(size))) for path, size in self._preview]
        return CopyResult(files=self._files, bytes=self._bytes, skipped=self._skipped, dest=label, entries=entries)

    async def _all(self, items: list[Item]) -> None:
        ahead = [*(self._batch.items if self._batch else []), *items]
        sizes = [item.size for item in ahead]
        total = None if None in sizes else self._bytes + sum(size or 0 for size in sizes)
        self._progress = self._run.progress("copy", unit="bytes", total=total, start=self._bytes)
        finished = False
        try:
            if self._batch:
                await self._take_up(self._batch)
                await self._settle(self._batch)
            for chosen in batches(items, most=BATCH, room=NAMES):
                self._batch = _Batch(items=chosen, choices=await self._choices(chosen))
                self._save(force=True)
                await self._settle(self._batch)
            finished = True
        finally:
            if not finished:
                with suppress(FlowRunnerError):
                    self._save(force=True)
        self._save(force=True)
        self._progress.finish()

    # -- what to do with names that are taken

    async def _exists(self, path: str) -> Entry | None:
        try:
            return await self._dest.store.stat(path)
        except NotFound:
            return None

    async def _refuse_existing(self, items: Sequence[Item]) -> None:
        async def check(item: Item) -> None:
            if await self._exists(self._dest.target(item)):
                raise _taken(self._dest.target(item))

        await each(self._options.concurrency * 4, check, items)

    async def _choices(self, items: Sequence[Item]) -> list[int]:
        """For each file 0 for its own name, a number for another one, or that it is skipped."""
        choices = dict.fromkeys(range(len(items)), 0)
        planned = self._planned

        async def choose(index: int) -> None:
            target = self._dest.target(items[index])
            while (choices[index] and target in planned) or await self._exists(target):
                if self._options.if_exists == "skip":
                    choices[index] = _SKIPPED
                    return
                choices[index] += 1
                target = self._dest.target(items[index], choices[index])

        if self._options.if_exists in ("skip", "rename"):
            await each(self._options.concurrency * 4, choose, choices)
        return list(choices.values())

    # -- one batch

    async def _take_up(self, batch: _Batch) -> None:
        """Look at each file that an earlier attempt had begun: is it still the same, is it done?"""

        async def look(index: int) -> None:
            item, choice = batch.items[index], batch.choices[index]
            if index in batch.done or choice == _SKIPPED:
                return
            source = self._sources[item.source]
            target = self._dest.target(item, choice)
            try:
                entry = await source.store.stat(source.path_of(item.relative))
            except NotFound:
                self._run.log.warning("%s is gone from the source since it was listed.", item.relative)
                batch.choices[index] = _SKIPPED
                gone.add(index)
                await self._dest.store.forget(target, self._token)
                return
            if identity(entry) != item.identity:
                batch.items[index] = Item.of(item.source, item.relative, entry)
                batch.parts.pop(index, None)
            if self._options.if_exists != "overwrite":
                await self._ours(batch, index, target)

        gone: set[int] = set()
        await each(self._options.concurrency, look, range(len(batch.items)))
        self._skipped -= len(gone)

    async def _ours(self, batch: _Batch, index: int, target: str) -> None:
        """A target that is there with the source's bytes is what this task has made before it was killed."""
        present = await self._exists(target)
        if present is None:
            return
        item, size = batch.items[index], present.size or 0
        source = self._sources[item.source]
        same = item.size in (None, present.size)
        if same:
            here = await digest_of(self._dest.store.read(target))
            there = await digest_of(source.store.read(source.path_of(item.relative)))
            same = here.hexdigest() == there.hexdigest()
        if same:
            await self._dest.store.forget(target, self._token)
            batch.done[index] = size
        elif self._options.if_exists == "skip":
            batch.choices[index] = _SKIPPED
        else:
            raise _taken(target)

    async def _settle(self, batch: _Batch) -> None:
        """Copy what is left of the batch; then, if moving, delete its sources; then it is history."""
        for size in batch.done.values():
            self._progress.advance(size)
        todo = [n for n, choice in enumerate(batch.choices) if choice != _SKIPPED and n not in batch.done]
        await each(self._options.concurrency, lambda index: self._one(batch, index), todo)
        if self._options.move:
            self._save(force=True)
            await each(self._options.concurrency, lambda index: self._delete(batch, index), list(batch.done))
        self._cursor = batch.items[-1].key
        self._files += len(batch.done)
        self._bytes += sum(batch.done.values())
        self._skipped += len(batch.items) - len(batch.done)
        for index in sorted(batch.done):
            target = self._dest.target(batch.items[index], batch.choices[index])
            if len(self._preview) < _PREVIEW and len(json.dumps(self._preview)) < _PREVIEW_CHARACTERS:
                self._preview.append([target, batch.done[index]])
        self._batch = None

    async def _one(self, batch: _Batch, index: int) -> None:
        item, options = batch.items[index], self._options
        source = self._sources[item.source]
        target = self._dest.target(item, batch.choices[index])
        await self._folder_of(target)
        due_at = self._run.clock.monotonic() + SAVE_EVERY

        def due() -> bool:
            return self._run.clock.monotonic() >= due_at

        def remember(offset: int, digest: str) -> None:
            nonlocal due_at
            due_at = self._run.clock.monotonic() + SAVE_EVERY
            batch.parts[index] = (offset, digest)
            self._save()

        job = Transfer(
            source=source.store, path=source.path_of(item.relative), item=item,
            dest=self._dest.store, target=target, token=self._token,
            verify=options.verify, replace=options.if_exists == "overwrite",
            preserve_times=options.preserve_times, durable=options.move,
            resume=batch.parts.get(index), advance=self._progress.advance,
            due=due, remember=remember, guard=self._guard,
        )  # fmt: skip
        try:
            batch.done[index] = await transfer(job)
        except AlreadyExists:
            if options.if_exists != "skip":
                raise
            batch.choices[index] = _SKIPPED
        self._save()

    async def _folder_of(self, target: str) -> None:
        folder = target.rpartition("/")[0]
        if folder and folder not in self._folders:
            failpoint("files.copy.before_mkdir")
            await self._dest.store.mkdir(folder, parents=True)
            failpoint("files.copy.after_mkdir")
            self._folders.add(folder)

    async def _delete(self, batch: _Batch, index: int) -> None:
        """Delete a source whose copy is verified, unless it is another file by now."""
        item = batch.items[index]
        source = self._sources[item.source]
        path = source.path_of(item.relative)
        try:
            entry = await source.store.stat(path)
        except NotFound:
            return
        if identity(entry) != item.identity:
            raise IntegrityError(
                f"{path} changed after it was copied and was not deleted",
                remedy="run the task again to move the new version",
            )
        self._guard()
        failpoint("files.copy.before_delete_source")
        with suppress(NotFound):
            await source.store.delete(path)
        failpoint("files.copy.after_delete_source")

    # -- the record

    def _guard(self) -> None:
        """Stop if a newer attempt has taken over; asked at most once a second."""
        now = self._run.clock.monotonic()
        if now - self._checked_at >= 1.0:
            self._run.lease.check()
            self._checked_at = now

    def _save(self, *, force: bool = False) -> None:
        now = self._run.clock.monotonic()
        if not force and now - self._saved_at < SAVE_EVERY:
            return
        self._saved_at = now
        state: dict[str, Json] = {
            "counts": [self._files, self._bytes, self._skipped],
            "cursor": list(self._cursor) if self._cursor else None,
            "preview": list(self._preview),
            "batch": self._batch.to_json() if self._batch else None,
            "files": [source.is_file for source in self._sources],
        }
        self._checkpoint.save(state, force=True)


def _taken(target: str) -> AlreadyExists:
    return AlreadyExists(
        f"{target} is there already", remedy="remove it, or set if_exists to 'overwrite', 'skip' or 'rename'"
    )
