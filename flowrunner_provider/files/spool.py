"""Sorted lists of files of any length: a short list is kept in memory, a long one on this disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import caseless
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.spool_memory import MemoryRows
from flowrunner_provider.files.spool_sqlite import SqliteRows, open_database

__all__ = ["HELD", "Rows", "Spellings", "Spool"]

HELD = 16 * 1024 * 1024
"""The approximate size in bytes up to which a list stays in memory: about 40,000 files."""


class Spool:
    """Stores lists of files; what is on the disk disappears with this process."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None
        self._tables = 0

    def rows(self) -> Rows:
        """Return a new, empty list of files."""
        return Rows(self)

    def table(self) -> SqliteRows:
        """Return a new, empty table on the disk."""
        if self._database is None:
            self._database = open_database()
        self._tables += 1
        return SqliteRows(self._database, f"files{self._tables}")

    def close(self) -> None:
        """Delete everything."""
        if self._database is not None:
            self._database.close()


class Rows:
    """Files that are added in any order, and read sorted by source and name."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._files: MemoryRows | SqliteRows = MemoryRows()

    def add(self, item: Item, mark: int | None = None) -> None:
        """Add a file.

        :param mark: any number that the caller wants to store with it.
        """
        self._files.add(item, mark)
        if isinstance(self._files, MemoryRows) and self._files.bytes > HELD:
            self._table()

    def _table(self) -> SqliteRows:
        """Move the files to the disk, unless they are there."""
        if isinstance(self._files, MemoryRows):
            held, self._files = self._files, self._spool.table()
            for item, mark in held.marked():
                self._files.add(item, mark)
        return self._files

    @property
    def count(self) -> int:
        """The number of files."""
        return self._files.count

    def sorted(self, after: tuple[int, str] = (-1, "")) -> Iterator[Item]:
        """Yield the files after ``after``, by source and name; of equal names only the one added last."""
        return self._files.sorted(after)

    def added(self, after: int, most: int) -> list[tuple[int, Item, int | None]]:
        """Return the next files after number ``after``, in the order in which they were added: number, file, mark."""
        return self._files.added(after, most)

    def named(self, names: list[str]) -> dict[str, Item]:
        """Return the files with these names, whatever their source."""
        return self._files.named(names)

    def mark(self, names: list[str]) -> None:
        """Mark all files with these names."""
        self._files.mark(names)

    def count_unmarked(self) -> int:
        """Return the number of files without a mark."""
        return self._files.count_unmarked()

    def unmarked(self) -> Iterator[Item]:
        """Yield the files without a mark, by name."""
        return self._files.unmarked()

    def sizes(self, after: tuple[int, str]) -> int | None:
        """Return the total size of all files after ``after``; None if one is unknown."""
        return self._files.sizes(after)

    def twice(self) -> str | None:
        """Return a name that two sources have, or None."""
        return self._files.twice()

    def keep(self, other: Rows, most: int = 0) -> list[Item]:
        """Remove the files that ``other`` does not have, or has in another version; return the first ``most``."""
        return self._table().keep(other._table(), most)

    def drop(self, other: Rows, most: int = 0) -> list[Item]:
        """Remove the files that ``other`` also has; return the first ``most``."""
        return self._table().drop(other._table(), most)


class Spellings:
    """Finds names that a case-insensitive or normalizing store would take for the same file."""

    def __init__(self, spool: Spool) -> None:
        self._rows = spool.rows()

    def add(self, name: str) -> None:
        """Add a name; it may be added more than once."""
        self._rows.add(Item(source=0, relative=f"{caseless(name)}\0{name}", size=None, modified=None, version=""))

    def check(self, where: str) -> None:
        """Raise ``ConfigError`` if two names differ only in their spelling.

        :param where: the name of the store in messages.
        """
        before: tuple[str, str] | None = None
        for item in self._rows.sorted():
            folded, _, name = item.relative.partition("\0")
            if before is not None and before[0] == folded:
                raise ConfigError(
                    f"{before[1]} and {name} would be one file in {where}",
                    field="source",
                    remedy="rename one of them",
                )
            before = folded, name
