"""Two trees side by side, in the order of their names, in bounded memory.

A listing comes in no order. It is cut into sorted runs that are kept in temporary files and merged again; what is
in memory is one run, and one line of each.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

from flowrunner_provider.core.errors import ConfigError, Json, NotFound, PathEscape, Unavailable
from flowrunner_provider.files.listing import matcher, walk
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.store import Entry, Store

__all__ = ["RUN", "Runs", "Tree", "chooser", "side_by_side"]

RUN = 20_000
"""Rows in memory; a run of names of everyday length takes about 10 MB."""


class Runs:
    """Rows of JSON that are put in, in any order, and come out sorted by their first member, a text."""

    def __init__(self) -> None:
        self._rows: list[list[Json]] = []
        self._files: list[IO[str]] = []
        self._kept = ExitStack()
        self.count = 0

    def add(self, row: list[Json]) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= RUN:
            self._spill()

    def _spill(self) -> None:
        file = self._kept.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))  # noqa: SIM115
        file.writelines(json.dumps(row) + "\n" for row in sorted(self._rows, key=_first))
        self._files.append(file)
        self._rows = []

    def __iter__(self) -> Iterator[list[Json]]:
        """All rows, sorted; one pass at a time."""
        return heapq.merge(*map(_rows_of, self._files), iter(sorted(self._rows, key=_first)), key=_first)

    def close(self) -> None:
        """Remove the temporary files."""
        self._kept.close()


def _first(row: list[Json]) -> str:
    return str(row[0])


def _rows_of(file: IO[str]) -> Iterator[list[Json]]:
    file.seek(0)
    for line in file:
        yield json.loads(line)


def chooser(include: list[str], exclude: list[str]) -> Callable[[str], bool]:
    """Tells whether a relative path is chosen: by one of ``include`` (none: all), and by none of ``exclude``.

    A glob without ``/`` is for the name in any folder, one with it for the whole relative path.
    """

    def one(pattern: str, field: str) -> Callable[[str], bool]:
        accept = matcher(pattern, "glob", field=field)
        return accept if "/" in pattern or pattern == "**" else lambda path: accept(path.rpartition("/")[2])

    wanted = [one(pattern, "include") for pattern in include]
    unwanted = [one(pattern, "exclude") for pattern in exclude]

    def choose(path: str) -> bool:
        return (not wanted or any(w(path) for w in wanted)) and not any(u(path) for u in unwanted)

    return choose


class Tree:
    """The chosen files below one folder.

    :param folder: in the store, without a final ``/``.
    :param field: the parameter it was given as.
    """

    def __init__(self, store: Store, folder: str, choose: Callable[[str], bool], *, field: str) -> None:
        self.store, self.folder, self._choose, self._field = store, folder.rstrip("/") or "/", choose, field
        self.runs = Runs()
        self.links = 0

    def path_of(self, relative: str) -> str:
        """The path of a file below the folder, as a listing spells it."""
        return f"{self.folder.rstrip('/')}/{relative}"

    async def read(self, *, missing_ok: bool) -> None:
        """List everything; an error in the middle is an error, and nothing was listed.

        :param missing_ok: a folder that is known not to be there is an empty one.
        """
        try:
            entry = await self.store.stat(self.folder)
        except NotFound:
            if missing_ok:
                return
            raise
        if not entry.is_dir:
            raise ConfigError(f"{self.folder} is not a folder", field=self._field, remedy="name a folder")
        try:
            async for relative, found in walk(
                self.store, self.folder, lambda path, _: self._choose(path), recursive=True, skipped_link=self._link
            ):
                if {"", ".", ".."} & set(relative.split("/")):
                    raise PathEscape(f"{self.store.where} lists the name {relative!r}", remedy="look at that server")
                self.runs.add([relative, *Item.of(0, relative, found).to_json()])
        except NotFound as error:
            raise Unavailable(
                f"{self.store.where}{self.folder} changed while it was listed: {error.message}",
                remedy="nothing to do: it is listed again",
            ) from error

    def _link(self, entry: Entry) -> None:
        self.links += 1

    def items(self) -> Iterator[Item]:
        """The files in the order of their names."""
        return (Item.from_json(row[1:]) for row in self.runs)


def side_by_side(one: Iterator[Item], other: Iterator[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """Merge two sorted listings: each name once, with what either side has under it."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.relative < right.relative):
            yield left, None
            left = next(one, None)
        elif left is None or right.relative < left.relative:
            yield None, right
            right = next(other, None)
        else:
            yield left, right
            left, right = next(one, None), next(other, None)
