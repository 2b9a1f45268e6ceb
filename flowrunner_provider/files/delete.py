"""The engine that deletes files: only after everything is listed, and never more than allowed.

The checkpoint holds the open batch with the identity of each file, and the number of deleted files. A retry first
checks the open batch, so that a file which a killed attempt deleted is counted once, and then lists again.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, Json, NotFound, PathEscape, Unavailable
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.listing import matcher, selection, walk
from flowrunner_provider.files.results import DeleteResult
from flowrunner_provider.files.session import split_into_batches
from flowrunner_provider.files.store import Entry, Store, identity
from flowrunner_provider.files.uri import split_glob

__all__ = ["DeleteOptions", "DeleteTarget", "delete"]

BATCH_SIZE = 128
BATCH_NAMES = 24_000
CONCURRENCY = 8
_MAX_PATHS, _MAX_CHARACTERS = 20, 6_000


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """Options of a deletion; the parameters of ``files.delete`` document them."""

    recursive: bool = False
    older_than: timedelta = timedelta(0)
    keep_last: int = 0
    missing_ok: bool = False
    max_deletes: int = 1000
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, least in (("keep_last", 0), ("max_deletes", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1_000_000:
                raise ConfigError(
                    f"{name} is {value!r}", field=name, remedy=f"write a whole number from {least} to 1000000"
                )


@dataclass(frozen=True, kw_only=True)
class DeleteTarget:
    """An open store and a path in it: a file, a folder, or a glob.

    :param root: the address of the store, as results spell it.
    """

    store: Store
    path: str
    root: str = ""


@dataclass
class _Selection:
    """The files of a complete listing that are to be deleted, at most ``limit``."""

    options: DeleteOptions
    now: float
    limit: int
    matched: int = 0
    chosen: dict[tuple[str, str], Item] = field(default_factory=dict)
    _newest: list[tuple[float, str, str, Item]] = field(default_factory=list)
    _kept: set[tuple[str, str]] = field(default_factory=set)

    def add(self, root: str, item: Item) -> None:
        self.matched += 1
        if item.modified is None and (self.options.keep_last or self.options.older_than):
            return  # never delete a file of unknown age where age counts
        if not self.options.keep_last:
            self._choose(root, item)
            return
        if (root, item.relative) in self._kept:
            return  # listed twice, as servers may do; it must not take the target of another file
        when = item.modified.timestamp() if item.modified else 0.0
        heapq.heappush(self._newest, (when, root, item.relative, item))
        self._kept.add((root, item.relative))
        if len(self._newest) > self.options.keep_last:
            _, root, _, item = heapq.heappop(self._newest)
            self._kept.remove((root, item.relative))
            self._choose(root, item)

    def _choose(self, root: str, item: Item) -> None:
        seconds = self.options.older_than.total_seconds()
        if seconds and item.modified is not None and self.now - item.modified.timestamp() < seconds:
            return
        self.chosen[root, item.relative] = item
        if len(self.chosen) > self.limit:
            raise ConfigError(
                f"more than max_deletes={self.options.max_deletes} files would be deleted; none was in this attempt",
                field="max_deletes",
                remedy="check what matches with dry_run=True; then raise max_deletes, or narrow the path",
            )


async def delete(
    targets: Sequence[DeleteTarget], run: Run, options: DeleteOptions, *, identity_of_work: Json = None
) -> DeleteResult:
    """Delete the files that ``targets`` match.

    :param identity_of_work: JSON that must be unchanged for a retry to resume.
    """
    return await _Delete(targets, run, options, identity_of_work).run()


class _Delete:
    def __init__(
        self, targets: Sequence[DeleteTarget], run: Run, options: DeleteOptions, identity_of_work: Json
    ) -> None:
        self._targets, self._run, self._options = targets, run, options
        self._stores = {target.root: target.store for target in targets}
        self._roots = list(self._stores)
        self._checkpoint = run.checkpoint("delete", fingerprint(identity_of_work))
        state = self._checkpoint.state or {}
        self._resumed = bool(state)
        self._deleted, self._bytes = state.get("counts", (0, 0))
        self._preview: list[str] = state.get("preview", [])
        self._batch = [Item.from_json(row) for row in state.get("batch", [])]
        self._done: set[int] = set()
        self._guard = FencingGuard(run)

    async def run(self) -> DeleteResult:
        if self._batch:
            await self._process(self._batch, resumed=True)
        found = await self._find()
        chosen = sorted(found.chosen.values(), key=lambda item: item.key)
        if self._options.dry_run:
            return self._result(found.matched, len(chosen), sum(i.size or 0 for i in chosen), self._paths(chosen))
        before = self._deleted
        progress = self._run.progress("delete", unit="files", total=before + len(chosen), start=before)
        for batch in split_into_batches(chosen, size=BATCH_SIZE, names=BATCH_NAMES):
            self._batch = batch
            self._save()
            await self._process(batch)
            progress.advance(len(batch))
        self._save()
        progress.finish()
        return self._result(before + found.matched, self._deleted, self._bytes, self._preview)

    def _result(self, matched: int, gone: int, size: int, paths: list[str]) -> DeleteResult:
        kept = matched - gone
        return DeleteResult(
            matched=matched, deleted=gone, kept=kept, bytes=size, dry_run=self._options.dry_run, paths=paths
        )

    def _paths(self, items: Sequence[Item]) -> list[str]:
        paths: list[str] = []
        used = 0
        for item in items[:_MAX_PATHS]:
            path = self._roots[item.source] + item.relative
            used += len(path)
            if used < _MAX_CHARACTERS:
                paths.append(path)
        return paths

    # -- listing

    async def _find(self) -> _Selection:
        """List and select all files; nothing is deleted before."""
        now = self._run.clock.now().timestamp()
        found = _Selection(self._options, now, self._options.max_deletes - self._deleted)
        seen: set[tuple[str, str]] = set()
        has_several = len(self._targets) > 1
        for target in self._targets:
            try:
                async for entry in self._entries(target):
                    if has_several and (target.root, entry.path) in seen:
                        continue
                    if has_several:
                        seen.add((target.root, entry.path))
                    found.add(target.root, Item.of(self._roots.index(target.root), entry.path, entry))
            except NotFound:
                if not (self._options.missing_ok or self._resumed):
                    raise
                await self._check_absent(target)
        if not (found.matched or self._resumed or self._options.missing_ok):
            wanted = ", ".join(target.root + target.path for target in self._targets)
            raise NotFound(f"no file matches {wanted}", remedy="correct the path, or set missing_ok=True to allow that")
        return found

    async def _check_absent(self, target: DeleteTarget) -> None:
        """Raise ``Unavailable`` if a folder disappeared during the listing, which does not mean that it is empty."""
        folder = split_glob(target.path)[0].rstrip("/") or "/"
        try:
            await target.store.stat(folder)
        except NotFound:
            return
        raise Unavailable(
            f"{target.root}{folder} changed while it was listed; nothing was deleted", remedy="run the task again"
        )

    async def _entries(self, target: DeleteTarget) -> AsyncIterator[Entry]:
        folder, pattern, deep = selection(target.path, None, recursive=self._options.recursive)
        if not pattern:
            entry = await target.store.stat(folder)
            if entry.is_link:
                raise ConfigError(f"{target.path} is a symbolic link", field="path", remedy="use the path it points to")
            if not entry.is_dir:
                yield entry
                return
            if not self._options.recursive:
                raise ConfigError(
                    f"{target.path} is a folder",
                    field="path",
                    remedy=f"write {target.path.rstrip('/')}/* for the files in it, or set recursive=True",
                )
        accept = matcher(pattern, "glob", field="path") if pattern else None
        links: list[Entry] = []
        async for relative, entry in walk(
            target.store,
            folder,
            lambda relative, entry: accept is None or accept(relative),
            recursive=deep,
            skipped_link=lambda entry: links.append(entry) if not links else None,
        ):
            if {"", ".", ".."} & set(relative.split("/")):
                raise PathEscape(f"{target.store.where} lists the name {relative!r}", remedy="check that server")
            yield entry
        if links:
            self._run.log.warning("Symbolic links such as %s were not deleted.", links[0].path)

    # -- deleting

    async def _process(self, batch: Sequence[Item], *, resumed: bool = False) -> None:
        self._done.clear()
        finished = False
        try:
            await for_each(
                CONCURRENCY, lambda index: self._delete_file(batch[index], index, resumed), range(len(batch))
            )
            finished = True
        finally:
            gone = [batch[index] for index in sorted(self._done)]
            left = [item for index, item in enumerate(batch) if index not in self._done]
            self._deleted += len(gone)
            self._bytes += sum(item.size or 0 for item in gone)
            self._preview += self._paths(gone)[: max(0, _MAX_PATHS - len(self._preview))]
            self._batch = left
            if not finished:
                with suppress(FlowRunnerError):
                    self._save()
        self._batch = []

    async def _delete_file(self, item: Item, index: int, resumed: bool) -> None:
        store = self._stores[self._roots[item.source]]
        try:
            entry = await store.stat(item.relative)
        except NotFound:
            self._done.add(index)
            return
        if identity(entry) != item.identity:
            self._run.log.warning("%s changed after it was listed and was kept.", item.relative)
            return
        if resumed:
            return  # the following listing decides again
        self._guard.check()
        failpoint("files.delete.before_delete")
        with suppress(NotFound):
            await store.delete(item.relative)
        self._done.add(index)
        failpoint("files.delete.after_delete")

    def _save(self) -> None:
        state: dict[str, Json] = {
            "counts": [self._deleted, self._bytes],
            "preview": list(self._preview),
            "batch": [item.to_json() for item in self._batch],
        }
        self._checkpoint.save(state, force=True)
