"""The plan of a copy: all matching files, listed completely and checked before the first byte is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.items import Destination, Item, Key, Source, too_many
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.results import LeftBecause, LeftFile
from flowrunner_provider.files.spool import Rows, Spellings, Spool

__all__ = ["SHOWN", "START", "CopyPlan", "SkippedFiles"]

START: Key = (-1, "")
"""The position before the first file."""

SHOWN, _CHARACTERS = 20, 6_000


class SkippedFiles:
    """Files that match but are not copied: the number for each reason, and the first paths."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: list[LeftFile] = []

    def add(self, because: LeftBecause, path: str) -> None:
        """Add one file."""
        self.add_all(because, [path], 1)

    def add_all(self, because: LeftBecause, paths: Sequence[str], count: int) -> None:
        """Add ``count`` files, of which ``paths`` are the first."""
        if count:
            self.counts[because] = self.counts.get(because, 0) + count
        room = SHOWN - len(self.first)
        for path in paths[:room]:
            if sum(len(file.path) for file in self.first) < _CHARACTERS:
                self.first.append(LeftFile(path=path, because=because))


class CopyPlan:
    """The matching files, kept on this disk if they are many.

    :param resumed: whether an earlier attempt has begun to copy, so that an empty listing is not an error.
    """

    def __init__(self, sources: Sequence[Source], run: Run, options: CopyOptions, *, resumed: bool) -> None:
        self._sources, self._run, self._options, self._resumed = sources, run, options, resumed
        self._spool = Spool()
        self.files: Rows = self._spool.rows()
        self.known = 0
        self.left = SkippedFiles()

    def close(self) -> None:
        """Delete the files of the plan from the disk."""
        self._spool.close()

    async def make(self, dest: Callable[[], Destination]) -> Destination:
        """List, select and check the files.

        :param dest: called once it is known whether the sources are files or folders.
        """
        await self._list(self.files)
        if self._options.stable_for:
            await self._only_stable()
        self._dest = dest()
        await self._dest.resolve()
        self._check()
        return self._dest

    async def leave_out(self, fill: Callable[[Rows], Awaitable[None]]) -> None:
        """Remove the files from the plan that ``fill`` adds to the given rows."""
        known, before = self._spool.rows(), self.files.count
        await fill(known)
        first = self.files.drop(known, SHOWN)
        self.known = before - self.files.count
        self.left.add_all("known", self._paths(first), self.known)

    def ahead(self, cursor: Key | None, opened: set[Key]) -> Iterator[Item]:
        """Yield the files that no batch contains yet, in order."""
        return (item for item in self.files.sorted(cursor or START) if item.key not in opened)

    def refuse_empty(self, cursor: Key | None, opened: set[Key]) -> None:
        """Raise ``NotFound`` if there is nothing to copy, unless that is allowed."""
        if self._resumed or self._options.missing_ok or self.known or next(self.ahead(cursor, opened), None):
            return
        wanted = ", ".join(source.path for source in self._sources)
        raise NotFound(f"no file matches {wanted}", remedy="correct the path, or set missing_ok=True to allow that")

    async def _list(self, rows: Rows) -> None:
        options, total = self._options, 0
        young = self._run.clock.now() - options.min_age if options.min_age else None
        missing_ok = options.missing_ok or self._resumed
        for index, source in enumerate(self._sources):
            async for item in source.matches(index, options.recursive, self._run, missing_ok=missing_ok):
                if young is not None and (item.modified is None or item.modified > young):
                    if rows is self.files:  # not when listing again
                        self.left.add("young", source.path_of(item.relative))
                    continue
                if options.verify_sidecar and item.relative.endswith(f".{options.algorithm}"):
                    continue
                rows.add(item)
                total += item.size or 0
                if rows.count > options.max_files:
                    raise too_many(options.max_files)
                if options.max_bytes is not None and total > options.max_bytes:
                    raise ConfigError(
                        f"more than {options.max_bytes} bytes match",
                        field="max_bytes",
                        remedy="raise max_bytes, or narrow the source",
                    )

    async def _only_stable(self) -> None:
        """List again after a while, and drop the files that have changed."""
        await apause(min(self._options.stable_for.total_seconds(), self._run.deadline.remaining()))
        self._run.deadline.check("waiting for stable files")
        again = self._spool.rows()
        await self._list(again)
        before = self.files.count
        first = self.files.keep(again, SHOWN)
        self.left.add_all("changing", self._paths(first), before - self.files.count)
        if before != self.files.count:
            self._run.log.info("%d files are still changing and are skipped.", before - self.files.count)

    def _paths(self, items: Sequence[Item]) -> list[str]:
        return [self._sources[item.source].path_of(item.relative) for item in items]

    def _check(self) -> None:
        """Refuse names that lead elsewhere or collide, and copies that the source would list again.

        :raises PathEscape: for a name that is no plain name.
        """
        dest, options, spellings = self._dest, self._options, Spellings(self._spool)
        marker = dest.path_of(options.done_marker) if options.done_marker else None
        for item in self.files.sorted():
            target = dest.target(item)
            source = self._sources[item.source]
            if source.store is dest.store:
                self._refuse_loop(source, item, target, "dest")
            if options.archive:
                self._refuse_loop(source, item, source.archive_path(options.archive, item.relative), "after")
            if options.write_sidecar and item.relative.endswith(f".{options.algorithm}"):
                self._refuse_second_sidecar(dest.name(item))
            if target == marker:
                raise ConfigError(
                    f"{target} is both a copy and the done marker", field="done_marker", remedy="choose another name"
                )
            if not dest.store.capabilities.case_sensitive:
                spellings.add(dest.name(item))
        double = self.files.twice()
        if double is not None:
            raise ConfigError(
                f"two files would be copied to {dest.path_of(double)}",
                field="source",
                remedy="copy them to different folders",
            )
        spellings.check(dest.store.where)

    def _refuse_loop(self, source: Source, item: Item, target: str, field: str) -> None:
        """Raise ``ConfigError`` if ``target`` is the source itself, or a file that the source would list next time."""
        origin = source.store.join(source.folder, item.relative)
        if target == origin:
            what = "copied" if field == "dest" else "moved"
            raise ConfigError(f"{target} would be {what} onto itself", field=field, remedy="choose another folder")
        folder = origin.removesuffix(item.relative).removeprefix("./")
        below = target.removeprefix("./")
        if below.startswith(folder) and source.selects(below.removeprefix(folder), self._options.recursive):
            raise ConfigError(
                f"{source.path} also matches {target}, so the file would be copied again and again",
                field=field,
                remedy="choose a folder that the source does not match",
            )

    def _refuse_second_sidecar(self, name: str) -> None:
        if self.files.named([name.removesuffix(f".{self._options.algorithm}")]):
            raise ConfigError(
                f"{name} would be copied, and written as a sidecar",
                field="write_sidecar",
                remedy="set verify_sidecar=True, which leaves the sidecars of the source out, or match fewer files",
            )
