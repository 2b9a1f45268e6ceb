"""What is to be copied to where: found, named and refused before the first byte is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flowrunner_provider.core.errors import ConfigError, Json, NotFound
from flowrunner_provider.core.names import collisions
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.listing import matcher, walk
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import split_glob

__all__ = ["Destination", "Item", "Source", "batches", "check_targets", "find"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One file to copy; ``source`` and ``relative`` give the order of the work."""

    source: int
    relative: str
    size: int | None
    modified: datetime | None
    version: str

    @classmethod
    def of(cls, source: int, relative: str, entry: Entry) -> Item:
        """The file that a listing has shown."""
        size, modified, version = entry.size, entry.modified, entry.version
        return cls(source=source, relative=relative, size=size, modified=modified, version=version)

    @property
    def key(self) -> tuple[int, str]:
        return self.source, self.relative

    @property
    def identity(self) -> tuple[int | None, datetime | None, str]:
        """As :func:`~flowrunner_provider.files.store.identity` of the entry that it comes from."""
        return self.size, self.modified, self.version

    def to_json(self) -> list[Json]:
        micros = None if self.modified is None else (self.modified - _EPOCH) // timedelta(microseconds=1)
        return [self.source, self.relative, self.size, micros, self.version]

    @classmethod
    def from_json(cls, row: Sequence[Json]) -> Item:
        source, relative, size, micros, version = row
        return cls(
            source=int(str(source)),
            relative=str(relative),
            size=None if size is None else int(str(size)),
            modified=None if micros is None else _EPOCH + timedelta(microseconds=int(str(micros))),
            version=str(version),
        )


class Source:
    """Where files come from.

    :param store: open.
    :param path: a file, a folder, or a glob.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self.folder, self.pattern = split_glob(path)
        self.is_file = False

    def be_file(self) -> None:
        """The path is that of one file."""
        folder, slash, _ = self.path.rpartition("/")
        self.is_file, self.folder = True, folder or slash or "."

    async def settle(self) -> None:
        """Find out whether a path without wildcards is a file or a folder."""
        if self.pattern:
            return
        entry = await self.store.stat(self.path.rstrip("/") or "/")
        if entry.is_link:
            raise ConfigError(f"{self.path} is a symbolic link", field="source", remedy="name what it points to")
        if not entry.is_dir:
            self.be_file()

    def path_of(self, relative: str) -> str:
        """The path of a file below the folder, as a listing spells it."""
        return f"{self.folder.rstrip('/')}/{relative}"

    async def files(self, index: int, recursive: bool, run: Run) -> list[Item]:
        """The files, unordered."""
        if self.is_file:
            entry = await self.store.stat(self.path)
            return [Item.of(index, entry.name, entry)]
        pattern = self.pattern or ("**" if recursive else "")
        if recursive and pattern and "/" not in pattern and pattern != "**":
            pattern = f"**/{pattern}"
        accept = matcher(pattern, "glob", field="source") if self.pattern else None
        links = 0

        def count(entry: Entry) -> None:
            nonlocal links
            links += 1

        found = [
            Item.of(index, relative, entry)
            async for relative, entry in walk(
                self.store,
                self.folder,
                lambda relative, entry: accept is None or accept(relative),
                recursive=recursive or "/" in pattern or pattern == "**",
                skipped_link=count,
            )
        ]
        if links:
            run.log.warning("%d symbolic links below %s were not followed.", links, self.path)
        return found


class Destination:
    """Where files go.

    :param path: a folder if it ends with ``/`` or more than one file may come; else the file itself.
    """

    def __init__(self, store: Store, path: str, sources: Sequence[Source]) -> None:
        self.store, self.path = store, path
        self.is_folder = path.endswith("/") or len(sources) > 1 or not sources[0].is_file
        self.folder = path if self.is_folder else path.rpartition("/")[0] or ("/" if path[:1] == "/" else ".")

    async def settle(self) -> None:
        """Refuse a file name that is the name of a folder."""
        if self.is_folder:
            return
        try:
            entry = await self.store.stat(self.path)
        except NotFound:
            return
        if entry.is_dir:
            raise ConfigError(f"{self.path} is a folder", field="dest", remedy=f"write {self.path}/ to copy into it")

    def target(self, item: Item, number: int = 0) -> str:
        """The final path of ``item``; ``number`` makes it another one: ``orders.2.csv``."""
        relative = item.relative if self.is_folder else self.path.rpartition("/")[2]
        if number:
            folder, slash, name = relative.rpartition("/")
            stem, dot, suffix = name.partition(".") if name[:1] != "." else (name, "", "")
            relative = f"{folder}{slash}{stem}.{number}{dot}{suffix}"
        return self.store.join(self.folder.rstrip("/") or self.folder, relative)


async def find(sources: Sequence[Source], run: Run, *, recursive: bool, max_files: int, missing_ok: bool) -> list[Item]:
    """All files of all sources, in the order of the work.

    :raises NotFound: where a path, or a folder of a glob, is not there and ``missing_ok`` is not set.
    """
    items: list[Item] = []
    for index, source in enumerate(sources):
        try:
            await source.settle()
            items += await source.files(index, recursive, run)
        except NotFound:
            if not missing_ok:
                raise
        if len(items) > max_files:
            raise ConfigError(
                f"more than {max_files} files match", field="max_files", remedy="raise max_files, or split the work"
            )
    items.sort(key=lambda item: item.key)
    return items


def check_targets(items: Sequence[Item], sources: Sequence[Source], dest: Destination) -> None:
    """Refuse, before anything is written, names that lead elsewhere and names that would become one file.

    :raises PathEscape: for a name that is no plain name.
    :raises ConfigError: when two files would get the same name, or a file would be copied onto itself.
    """
    targets: dict[str, Item] = {}
    for item in items:
        target = dest.target(item)
        source = sources[item.source]
        if source.store is dest.store and source.store.join(source.folder, item.relative) == target:
            raise ConfigError(f"{target} would be copied onto itself", field="dest", remedy="choose another folder")
        if target in targets:
            raise ConfigError(f"two files would become {target}", field="source", remedy="copy them to two folders")
        targets[target] = item
    if not dest.store.capabilities.case_sensitive:
        for group in collisions(targets):
            raise ConfigError(
                f"{', '.join(group)} would become one file in {dest.store.where}",
                field="source",
                remedy="rename them at the source",
            )


def batches(items: Iterable[Item], *, most: int, room: int) -> Iterator[list[Item]]:
    """Cut ``items`` into batches of at most ``most`` whose names fit into ``room`` characters of JSON."""
    batch: list[Item] = []
    used = 0
    for item in items:
        cost = 60 + len(json.dumps(item.relative)) + len(item.version)
        if batch and (len(batch) == most or used + cost > room):
            yield batch
            batch, used = [], 0
        batch.append(item)
        used += cost
    if batch:
        yield batch
