"""Listings of any length, read in order: a short one is kept in memory, a long one on this disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import caseless
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.spool_memory import MemoryRows
from flowrunner_provider.files.spool_sqlite import SqliteRows, open_database

__all__ = ["HELD", "Rows", "Spellings", "Spool"]

HELD = 16 * 1024 * 1024
"""Bytes, about, up to which a list stays in memory: some 40,000 files."""


class Spool:
    """Where lists of files are kept; what is on the disk is gone with this process."""

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None
        self._tables = 0

    def rows(self) -> Rows:
        """A new, empty list of files."""
        return Rows(self)

    def table(self) -> SqliteRows:
        """A new, empty table on the disk."""
        if self._database is None:
            self._database = open_database()
        self._tables += 1
        return SqliteRows(self._database, f"files{self._tables}")

    def close(self) -> None:
        """Remove it."""
        if self._database is not None:
            self._database.close()


class Rows:
    """Files that are put in, in any order, and come out sorted by source and name."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._files: MemoryRows | SqliteRows = MemoryRows()

    def add(self, item: Item, mark: int | None = None) -> None:
        """Put a file in.

        :param mark: a number of the caller's.
        """
        self._files.add(item, mark)
        if isinstance(self._files, MemoryRows) and self._files.bytes > HELD:
            self._table()

    def _table(self) -> SqliteRows:
        """From now on they are on the disk."""
        if isinstance(self._files, MemoryRows):
            held, self._files = self._files, self._spool.table()
            for item, mark in held.marked():
                self._files.add(item, mark)
        return self._files

    @property
    def count(self) -> int:
        """How many there are."""
        return self._files.count

    def sorted(self, after: tuple[int, str] = (-1, "")) -> Iterator[Item]:
        """The files behind ``after``, by source and name; of one name the last that was put in."""
        return self._files.sorted(after)

    def added(self, after: int, most: int) -> list[tuple[int, Item, int | None]]:
        """The next files behind the ``after``-th in the order in which they came: number, file, mark."""
        return self._files.added(after, most)

    def named(self, names: list[str]) -> dict[str, Item]:
        """The files of these names, whatever their source."""
        return self._files.named(names)

    def mark(self, names: list[str]) -> None:
        """Mark every file of these names."""
        self._files.mark(names)

    def count_unmarked(self) -> int:
        """How many have no mark."""
        return self._files.count_unmarked()

    def unmarked(self) -> Iterator[Item]:
        """The files without a mark, by name."""
        return self._files.unmarked()

    def sizes(self, after: tuple[int, str]) -> int | None:
        """The size of all files behind ``after`` together; None if one is not known."""
        return self._files.sizes(after)

    def twice(self) -> str | None:
        """A name that comes from two sources, if there is one."""
        return self._files.twice()

    def keep(self, other: Rows, most: int = 0) -> list[Item]:
        """Forget the files that ``other`` does not have, or has as something else; returns the first ``most``."""
        return self._table().keep(other._table(), most)

    def drop(self, other: Rows, most: int = 0) -> list[Item]:
        """Forget the files that ``other`` has, too; returns the first ``most``."""
        return self._table().drop(other._table(), most)


class Spellings:
    """Finds names that a case-insensitive or normalising store would take for one file."""

    def __init__(self, spool: Spool) -> None:
        self._rows = spool.rows()

    def add(self, name: str) -> None:
        """A name, once or more often."""
        self._rows.add(Item(source=0, relative=f"{caseless(name)}\0{name}", size=None, modified=None, version=""))

    def check(self, where: str) -> None:
        """Refuse two spellings of one name.

        :param where: how messages call the store.
        """
        before: tuple[str, str] | None = None
        for item in self._rows.sorted():
            folded, _, name = item.relative.partition("\0")
            if before is not None and before[0] == folded:
                raise ConfigError(
                    f"{before[1]}, {name} would become one file in {where}",
                    field="source",
                    remedy="rename one of them",
                )
            before = folded, name
