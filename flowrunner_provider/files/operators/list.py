"""List files in any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import ListResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.listing import Filter
    from flowrunner_provider.files.store import Entry, Store
    from flowrunner_provider.files.uri import Location

__all__ = ["FileListOperator"]

XCOM_FILES = 10_000
"""The maximum number of files in a result without ``limit``."""


class FileListOperator(FlowRunnerOperator):
    """On success, the result is the complete list of matching files, or the first ``limit`` of them.

    The task only reads, so a retry lists again. A listing that breaks off is an error, never a short list. Symbolic
    links, folders and unfinished uploads of this package are not listed.

    :param path: a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: which files below the folder ``path``; matched against the path relative to it.
    :param syntax: the syntax of ``pattern``.
    :param recursive: include all files below the folders.
    :param min_age: only files that have not been modified for this long, e.g. ``"5m"``.
    :param newer_than: only files modified after this time: a datetime or ISO 8601, with a time zone.
    :param min_size: only files of at least this many bytes.
    :param sort: the order of the result.
    :param limit: the maximum number of files in the result; by default, more than 10,000 are an error.
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
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.listing import Filter, matcher, moment, selection
        from flowrunner_provider.files.uri import parse

        location = parse(self.path, field="path")
        folder, pattern, recursive = selection(
            location.path, self.pattern, syntax=self.syntax, recursive=self.recursive
        )
        accept = Filter(
            now=run.clock.now(),
            matches=matcher(pattern, self.syntax) if pattern else lambda relative: True,
            min_age=parse_duration(self.min_age, "min_age"),
            newer_than=moment(self.newer_than, "newer_than"),
            min_size=self.min_size,
        )
        if self.sort not in _ORDER:
            raise ConfigError(f"sort is {self.sort!r}", field="sort", remedy=f"write one of {', '.join(_ORDER)}")
        for field, value, least in (("limit", self.limit, 1), ("min_size", self.min_size, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write a whole number from {least}")
        async with AsyncExitStack() as stack:
            store = (await open_stores(run, stack, path=[location]))[location.root]
            return await self._list(store, location, folder, accept, recursive)

    async def _list(self, store: Store, location: Location, folder: str, accept: Filter, recursive: bool) -> ListResult:
        from flowrunner_provider.files.listing import listed, walk

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
        files = [listed(location, entry) for entry in sorted(found, key=key)[:limit]]
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
