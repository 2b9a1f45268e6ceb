"""Actions on files in any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.copy import CopyOptions, CopyResult, copy
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.listing import Filter, matcher, walk
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import Location, parse, split_glob
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileCopyOperator", "FileListOperator", "ListResult", "ListedFile"]

XCOM_FILES = 10_000
"""How many files a result may hold unless the caller sets a limit."""


class FileCopyOperator(FlowRunnerOperator):
    """Every file that ``source`` named is whole and verified under its final name in ``dest``.

    Killed or retried, it goes on where it was, also within a file; readers of ``dest`` never see a part, nothing is
    copied under two names, and no temporary file is left after success. Bytes are streamed, so memory does not
    grow with their number; about 1 KB is needed per file. Links are not followed and empty folders not made.

    :param source: what to copy: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list.
        A name without scheme is a path on the worker. ``**`` stands for any number of folders.
    :param dest: where to: a folder if it ends with ``/`` or more than one file may come, else the new file.
    :param move: delete each source after its copy has been verified and found unchanged.
    :param recursive: also what is below the folders.
    :param if_exists: when a target is there: replace it, skip the file, choose ``name.1.ext``, or fail before
        anything is written.
    :param verify: ``size`` asks the far side for the size; ``checksum`` reads every byte back before the file gets
        its final name.
    :param concurrency: files at a time, at most 64.
    :param preserve_times: give the copies the modification times of their sources.
    :param max_files: more matches than this are an error before anything is written.
    :param missing_ok: nothing to copy is fine; otherwise it is an error.
    """

    action: ClassVar[str] = "files.copy"
    template_fields: Sequence[str] = ("source", "dest")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        move: bool = False,
        recursive: bool = False,
        if_exists: Literal["overwrite", "skip", "rename", "fail"] = "overwrite",
        verify: Literal["size", "checksum"] = "size",
        concurrency: int = 4,
        preserve_times: bool = True,
        max_files: int = 100_000,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.move = move
        self.recursive = recursive
        self.if_exists = if_exists
        self.verify = verify
        self.concurrency = concurrency
        self.preserve_times = preserve_times
        self.max_files = max_files
        self.missing_ok = missing_ok

    async def perform(self, run: Run) -> CopyResult:
        """Open the stores, one connection for each, and copy."""
        options = CopyOptions(
            move=self.move,
            recursive=self.recursive,
            if_exists=self.if_exists,
            verify=self.verify,
            concurrency=self.concurrency,
            preserve_times=self.preserve_times,
            max_files=self.max_files,
            missing_ok=self.missing_ok,
        )
        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        if not uris:
            raise ConfigError("there is no source", field="source", remedy="name at least one file or pattern")
        sources = [parse(uri, field="source") for uri in uris]
        dest = parse(self.dest, field="dest")
        if split_glob(dest.path)[1]:
            raise ConfigError(f"dest {self.dest!r} is a pattern", field="dest", remedy="name a folder or a file")
        async with AsyncExitStack() as stack:
            stores = await _opened(run, stack, source=sources, dest=[dest])
            return await copy(
                [(stores[location.root], location.path) for location in sources],
                (stores[dest.root], dest.path),
                run,
                options,
                identity_of_work=["files.copy", *uris, self.dest, self.move, self.if_exists],
                label=self.dest,
            )


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file.

    :param path: its address, to be used as ``source`` of another action.
    :param modified: in UTC, ISO 8601; None where the store does not know.
    """

    path: str
    name: str
    size: int | None
    modified: str | None


@dataclass(frozen=True, kw_only=True)
class ListResult:
    """What was found.

    :param count: how many files match.
    :param files: those files, or the first ``limit`` of them.
    """

    count: int
    files: list[ListedFile]


class FileListOperator(FlowRunnerOperator):
    """The result is the complete list of the files that match, or the first ``limit`` of them.

    It only reads, so a retry lists again; a listing that breaks off in the middle is an error and never a short
    list. Links, folders and files that are being written by this package are left out.

    :param path: a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: which files below ``path``; matched against the path relative to it.
    :param syntax: of ``pattern``.
    :param recursive: also what is below the folders.
    :param min_age: only what was last modified at least so long ago, e.g. ``"5m"``: not still being written.
    :param newer_than: only what was modified later; a datetime, or ISO 8601, with a time zone.
    :param min_size: only files of at least so many bytes.
    :param sort: the order of the result.
    :param limit: at most so many files in the result; without it more than 10,000 are an error.
    """

    action: ClassVar[str] = "files.list"
    template_fields: Sequence[str] = ("path", "pattern", "newer_than")

    def __init__(
        self,
        *,
        path: str,
        pattern: str | None = None,
        syntax: Literal["glob", "regex"] = "glob",
        recursive: bool = False,
        min_age: str | float | timedelta = 0,
        newer_than: datetime | str | None = None,
        min_size: int = 0,
        sort: Literal["path", "newest", "oldest", "largest", "smallest"] = "path",
        limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.pattern = pattern
        self.syntax = syntax
        self.recursive = recursive
        self.min_age = min_age
        self.newer_than = newer_than
        self.min_size = min_size
        self.sort = sort
        self.limit = limit

    async def perform(self, run: Run) -> ListResult:
        """List, keeping no more than is asked for."""
        location = parse(self.path, field="path")
        folder, pattern, recursive = self._where(location)
        accept = Filter(
            now=run.clock.now(),
            matches=matcher(pattern, self.syntax) if pattern else lambda relative: True,
            min_age=parse_duration(self.min_age, "min_age"),
            newer_than=_moment(self.newer_than),
            min_size=self.min_size,
        )
        if self.sort not in _ORDER:
            raise ConfigError(f"sort is {self.sort!r}", field="sort", remedy=f"write one of {', '.join(_ORDER)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}", field="limit", remedy="write a positive number")
        async with AsyncExitStack() as stack:
            store = (await _opened(run, stack, path=[location]))[location.root]
            return await self._list(store, location, folder, accept, recursive)

    def _where(self, location: Location) -> tuple[str, str, bool]:
        folder, pattern = split_glob(location.path)
        if pattern and self.pattern:
            raise ConfigError("path has wildcards and pattern is given", field="pattern", remedy="use one of the two")
        if pattern and self.syntax == "regex":
            raise ConfigError("path has wildcards", field="path", remedy="give the regex as pattern")
        pattern = pattern or self.pattern or ""
        deep = self.syntax == "glob" and ("/" in pattern or pattern == "**")
        if self.recursive and self.syntax == "glob" and pattern and not deep:
            pattern = f"**/{pattern}"
        return folder.rstrip("/") or folder, pattern, self.recursive or deep

    async def _list(self, store: Store, location: Location, folder: str, accept: Filter, recursive: bool) -> ListResult:
        found: list[Entry] = []
        count = 0
        limit, key = self.limit or XCOM_FILES, _ORDER[self.sort]
        async for _, entry in walk(store, folder, accept, recursive=recursive):
            count += 1
            if self.limit is None and count > XCOM_FILES:
                raise ConfigError(
                    f"more than {XCOM_FILES} files match, too many for a result",
                    field="limit",
                    remedy="set limit, or narrow the pattern",
                )
            found.append(entry)
            if len(found) >= 2 * limit:
                found = sorted(found, key=key)[:limit]
        files = [_listed(location, entry) for entry in sorted(found, key=key)[:limit]]
        return ListResult(count=count, files=files)


def _when(entry: Entry) -> float:
    return entry.modified.timestamp() if entry.modified else 0.0


_ORDER: dict[str, Any] = {
    "path": lambda entry: entry.path,
    "newest": lambda entry: (-_when(entry), entry.path),
    "oldest": lambda entry: (_when(entry), entry.path),
    "largest": lambda entry: (-(entry.size or 0), entry.path),
    "smallest": lambda entry: (entry.size or 0, entry.path),
}


def _listed(location: Location, entry: Entry) -> ListedFile:
    path = entry.path if entry.path.startswith("/") else f"/~/{entry.path.removeprefix('./')}"
    return ListedFile(
        path=location.root + path,
        name=entry.name,
        size=entry.size,
        modified=entry.modified.isoformat() if entry.modified else None,
    )


def _moment(value: datetime | str | None) -> datetime | None:
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigError(
            f"newer_than {value!r} is not ISO 8601", field="newer_than", remedy="write 2026-01-31T00:00:00+00:00"
        ) from None
    if moment.tzinfo is None:
        raise ConfigError("newer_than has no time zone", field="newer_than", remedy="append +00:00 for UTC")
    return moment


async def _opened(run: Run, stack: AsyncExitStack, **locations: Sequence[Location]) -> dict[str, Store]:
    """One open store for each root; all connections are read before the first is made.

    :param locations: by the parameter that they were given as.
    """
    stores: dict[str, Store] = {}
    for field, several in locations.items():
        for location in several:
            if location.root not in stores:
                stores[location.root] = open_store(location, field=field)
    for store in stores.values():

        async def enter(store: Store = store) -> Store:
            return await stack.enter_async_context(store)

        await run.retry.acall(enter, run.deadline)
    return stores
