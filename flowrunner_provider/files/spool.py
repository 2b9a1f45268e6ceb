"""Listings of any length, kept on this disk and read in order: memory does not grow with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from flowrunner_provider.core.errors import ConfigError, PermanentError
from flowrunner_provider.core.names import caseless
from flowrunner_provider.files.plan import EPOCH, Item

__all__ = ["Rows", "Spellings", "Spool"]

_BUFFER = 1_000
_CACHE_KB = 16_384
_COLUMNS = "source, name, size, modified, version"


class Spool:
    """A temporary database: a file without a name in the folder for temporary files, gone with this process."""

    def __init__(self) -> None:
        with _disk():
            self._database = sqlite3.connect("", isolation_level=None)
            for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KB}"):
                self._database.execute(f"PRAGMA {pragma}")
            self._database.execute("BEGIN")  # never ended: what does not fit into the cache goes to the disk
        self._tables = 0

    def rows(self) -> Rows:
        """A new, empty list of files."""
        self._tables += 1
        with _disk():
            return Rows(self._database, f"files{self._tables}")

    def close(self) -> None:
        """Remove it."""
        self._database.close()


class Rows:
    """Files that are put in, in any order, and come out sorted by source and name."""

    def __init__(self, database: sqlite3.Connection, table: str) -> None:
        self._database, self._table = database, table
        self._new: list[tuple[Any, ...]] = []
        self._indexes: set[str] = set()
        self.count = 0
        database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {_COLUMNS}, mark)")

    def add(self, item: Item, mark: int | None = None) -> None:
        """Put a file in.

        :param mark: a number of the caller's.
        """
        self._new.append((*_row(item), mark))
        self.count += 1
        if len(self._new) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """What was put in can be read."""
        if self._new:
            with _disk():
                self._database.executemany(
                    f"INSERT INTO {self._table} ({_COLUMNS}, mark) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                    self._new,
                )
            self._new.clear()

    def sorted(self, after: tuple[int, str] = (-1, "")) -> Iterator[Item]:
        """The files behind ``after``, by source and name; of one name the last that was put in."""
        self._index("source, name")
        where = "WHERE (source, name) > (?, ?) ORDER BY source, name, id DESC"
        previous = None
        for row in self._select(f"{_COLUMNS} FROM {self._table} {where}", (after[0], _bytes(after[1]))):
            item = _item(row)
            if item.key != previous:
                yield item
            previous = item.key

    def added(self, after: int, most: int) -> list[tuple[int, Item, int | None]]:
        """The next files behind the ``after``-th in the order in which they came: number, file, mark."""
        self.flush()
        found = self._select(f"id, mark, {_COLUMNS} FROM {self._table} WHERE id > ? ORDER BY id LIMIT ?", (after, most))
        return [(row[0], _item(row[2:]), row[1]) for row in found]

    def named(self, names: list[str]) -> dict[str, Item]:
        """The files of these names, whatever their source."""
        self._index("name")
        places = ", ".join("?" * len(names))
        rows = self._select(f"{_COLUMNS} FROM {self._table} WHERE name IN ({places})", tuple(map(_bytes, names)))
        return {item.relative: item for item in map(_item, rows)}

    def mark(self, names: list[str]) -> None:
        """Mark every file of these names."""
        self._index("name")
        update = f"UPDATE {self._table} SET mark = 1 WHERE name = ?"  # noqa: S608
        with _disk():
            self._database.executemany(update, ((_bytes(name),) for name in names))

    def largest_first(self) -> Iterator[tuple[Item, int | None]]:
        """The files by size, then by name, each with its mark; those of unknown size at the end."""
        self.flush()
        for row in self._select(f"mark, {_COLUMNS} FROM {self._table} ORDER BY size DESC, name"):
            yield _item(row[1:]), row[0]

    def count_unmarked(self) -> int:
        """How many have no mark."""
        self.flush()
        (row,) = self._select(f"count(*) FROM {self._table} WHERE mark IS NULL")
        return int(row[0])

    def unmarked(self) -> Iterator[Item]:
        """The files without a mark, by name."""
        self._index("name")
        return map(_item, self._select(f"{_COLUMNS} FROM {self._table} WHERE mark IS NULL ORDER BY name"))

    def sizes(self, after: tuple[int, str]) -> int | None:
        """The size of all files behind ``after`` together; None if one is not known."""
        self.flush()
        query = f"coalesce(sum(size), 0), count(*) - count(size) FROM {self._table} WHERE (source, name) > (?, ?)"
        (row,) = self._select(query, (after[0], _bytes(after[1])))
        return None if row[1] else int(row[0])

    def twice(self) -> str | None:
        """A name that comes from two sources, if there is one."""
        query = f"name FROM {self._table} GROUP BY name HAVING count(DISTINCT source) > 1 ORDER BY name LIMIT 1"
        self.flush()
        for row in self._select(query):
            return _text(row[0])
        return None

    def keep(self, other: Rows) -> None:
        """Forget the files that ``other`` does not have, or has as something else."""
        self._compare(other, "NOT EXISTS")

    def drop(self, other: Rows) -> None:
        """Forget the files that ``other`` has, too."""
        self._compare(other, "EXISTS")

    def _compare(self, other: Rows, condition: str) -> None:
        other._index("source, name")
        self.flush()
        same = " AND ".join(f"o.{column} IS t.{column}" for column in _COLUMNS.split(", "))
        with _disk():
            gone = self._database.execute(
                f"DELETE FROM {self._table} AS t WHERE {condition} (SELECT 1 FROM {other._table} AS o WHERE {same})"  # noqa: S608
            )
        self.count -= gone.rowcount

    def _index(self, columns: str) -> None:
        self.flush()
        if columns not in self._indexes:
            self._indexes.add(columns)
            with _disk():
                self._database.execute(f"CREATE INDEX {self._table}_{len(self._indexes)} ON {self._table} ({columns})")

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        with _disk():
            yield from self._database.execute(f"SELECT {query}", values)


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


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise PermanentError(
            f"the listing could not be kept in the folder for temporary files: {error}",
            remedy="free some space there, or point TMPDIR elsewhere; 1,000,000 files take about 300 MB",
        ) from error


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # whose order is that of the text


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _row(item: Item) -> tuple[Any, ...]:
    when = None if item.modified is None else (item.modified - EPOCH) // timedelta(microseconds=1)
    return item.source, _bytes(item.relative), item.size, when, item.version


def _item(row: Any) -> Item:
    source, name, size, when, version = row
    modified = None if when is None else EPOCH + timedelta(microseconds=when)
    return Item(source=source, relative=_text(name), size=size, modified=modified, version=version)
