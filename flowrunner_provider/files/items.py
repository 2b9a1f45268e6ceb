"""Sources, destinations and items: which files are copied, and to which names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flowrunner_provider.core.errors import ConfigError, Json, NotFound, Unavailable
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.listing import matcher, walk
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import split_glob

__all__ = ["EPOCH", "Destination", "Item", "Key", "Source", "find", "micros", "too_many"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


Key = tuple[int, str]
"""The index of the source and the relative path; it identifies a file, and defines the order of the work."""


class Item(NamedTuple):
    """A file to copy; a tuple, because there are many of them."""

    source: int
    relative: str
    size: int | None
    modified: datetime | None
    version: str

    @classmethod
    def of(cls, source: int, relative: str, entry: Entry) -> Item:
        """Return the item of a listed file."""
        return cls(source, relative, entry.size, entry.modified, entry.version)

    @property
    def key(self) -> Key:
        return self.source, self.relative

    @property
    def identity(self) -> tuple[int | None, datetime | None, str]:
        """The :func:`~flowrunner_provider.files.store.identity` of the entry that the item was made of."""
        return self.size, self.modified, self.version

    def to_json(self) -> list[Json]:
        when = None if self.modified is None else micros(self.modified)
        return [self.source, self.relative, self.size, when, self.version]

    @classmethod
    def from_json(cls, row: Sequence[Json]) -> Item:
        source, relative, size, when, version = row
        return cls(
            source=int(str(source)),
            relative=str(relative),
            size=None if size is None else int(str(size)),
            modified=None if when is None else EPOCH + timedelta(microseconds=int(str(when))),
            version=str(version),
        )


def micros(when: datetime) -> int:
    """Return the microseconds since 1970."""
    since = when - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class Source:
    """A source of files.

    :param store: an open store.
    :param path: a file, a folder, or a glob.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store = store
        self.folder, self.pattern = split_glob(path)
        self.path = path if self.pattern else self.folder
        self.is_file = False

    def mark_as_file(self) -> None:
        """Record that the path is that of a single file."""
        folder, slash, _ = self.path.rpartition("/")
        self.is_file, self.folder = True, folder or slash or "."

    async def resolve(self) -> None:
        """Find out whether a path without wildcards is a file or a folder."""
        if self.pattern:
            return
        entry = await self.store.stat(self.path.rstrip("/") or "/")
        if entry.is_link:
            raise ConfigError(f"{self.path} is a symbolic link", field="source", remedy="use the path it points to")
        if not entry.is_dir:
            self.mark_as_file()

    def path_of(self, relative: str) -> str:
        """Return the path of a file below the folder, as a listing spells it."""
        return f"{self.folder.rstrip('/')}/{relative}"

    def archive_path(self, folder: str, relative: str) -> str:
        """Return the path of ``relative`` in an archive folder: an absolute one, or one below this source."""
        base = folder if folder.startswith("/") else f"{self.folder.rstrip('/')}/{folder}"
        return self.store.join(base, relative)

    def selects(self, relative: str, recursive: bool) -> bool:
        """Return whether a listing of this source would include a file with this relative path."""
        if self.is_file:
            return relative == self.path.rpartition("/")[2]
        pattern, deep = self._effective_pattern(recursive)
        return (deep or "/" not in relative or bool(pattern)) and self._matcher(pattern)(relative)

    def _effective_pattern(self, recursive: bool) -> tuple[str, bool]:
        """Return the glob below the folder (empty for every file), and whether the listing descends."""
        pattern = self.pattern
        if recursive and pattern and "/" not in pattern and pattern != "**":
            pattern = f"**/{pattern}"
        return pattern, recursive or "/" in pattern or pattern == "**"

    def _matcher(self, pattern: str) -> Callable[[str], bool]:
        return matcher(pattern, "glob", field="source") if pattern else lambda relative: True

    async def matches(self, index: int, recursive: bool, run: Run, *, missing_ok: bool) -> AsyncIterator[Item]:
        """Yield the matching files in the order of the listing.

        :raises NotFound: if the path, or the folder of a glob, does not exist and ``missing_ok`` is not set.
        :raises Unavailable: if something disappears during the listing, which does not mean that nothing matches.
        """
        begun = False
        try:
            await self.resolve()
            async for item in self._files(index, recursive, run):
                begun = True
                yield item
        except NotFound as error:
            if begun:
                raise Unavailable(
                    f"{self.path} changed during the listing: {error.message}",
                    remedy="nothing to do: the task is retried",
                ) from error
            if not missing_ok:
                raise

    async def _files(self, index: int, recursive: bool, run: Run) -> AsyncIterator[Item]:
        if self.is_file:
            entry = await self.store.stat(self.path)
            yield Item.of(index, entry.name, entry)
            return
        pattern, deep = self._effective_pattern(recursive)
        accept, links = self._matcher(pattern), 0

        def count(entry: Entry) -> None:
            nonlocal links
            links += 1

        async for relative, entry in walk(
            self.store,
            self.folder,
            lambda relative, entry: accept(relative),
            recursive=deep,
            skipped_link=count,
        ):
            yield Item.of(index, relative, entry)
        if links:
            run.log.warning("%d symbolic links below %s were not followed.", links, self.path)


class Destination:
    """The destination of files.

    :param path: a folder if it ends with ``/``, or if there may be more than one file; otherwise the file itself.
    """

    def __init__(self, store: Store, path: str, sources: Sequence[Source]) -> None:
        self.store, self.path = store, path
        self.is_folder = path.endswith("/") or len(sources) > 1 or not sources[0].is_file
        self.folder = path if self.is_folder else path.rpartition("/")[0] or ("/" if path[:1] == "/" else ".")

    async def resolve(self) -> None:
        """Raise ``ConfigError`` if the name of the new file is that of a folder."""
        if self.is_folder:
            return
        try:
            entry = await self.store.stat(self.path)
        except NotFound:
            return
        if entry.is_dir:
            raise ConfigError(f"{self.path} is a folder", field="dest", remedy=f"write {self.path}/ to copy into it")

    def name(self, item: Item, number: int = 0) -> str:
        """Return the name of ``item`` below the folder; a ``number`` makes it another one: ``orders.2.csv``."""
        relative = item.relative if self.is_folder else self.path.rpartition("/")[2]
        if number:
            folder, slash, name = relative.rpartition("/")
            stem, dot, suffix = name.partition(".") if name[:1] != "." else (name, "", "")
            relative = f"{folder}{slash}{stem}.{number}{dot}{suffix}"
        return relative

    def path_of(self, name: str) -> str:
        """Return the path of a name below the folder."""
        return self.store.join(self.folder.rstrip("/") or self.folder, name)

    def target(self, item: Item, number: int = 0) -> str:
        """Return the final path of ``item``."""
        return self.path_of(self.name(item, number))


async def find(sources: Sequence[Source], run: Run, *, recursive: bool, max_files: int, missing_ok: bool) -> list[Item]:
    """Return all files of all sources, in the order of the work.

    :raises NotFound: if a path, or the folder of a glob, does not exist and ``missing_ok`` is not set.
    """
    items: list[Item] = []
    for index, source in enumerate(sources):
        async for item in source.matches(index, recursive, run, missing_ok=missing_ok):
            items.append(item)
            if len(items) > max_files:
                raise too_many(max_files)
    items.sort(key=lambda item: item.key)
    return items


def too_many(max_files: int) -> ConfigError:
    """Return the error for more matches than ``max_files``."""
    return ConfigError(
        f"more than {max_files} files match", field="max_files", remedy="raise max_files, or split the work"
    )
