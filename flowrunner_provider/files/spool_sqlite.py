"""A long list of files on this disk; :class:`~flowrunner_provider.files.spool.Rows` documents the methods.

The list is in a temporary database: an unnamed file in the folder for temporary files. Memory does not grow with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.files.items import EPOCH, Item, Key, micros

__all__ = ["SqliteRows", "open_database"]

_BUFFER = 1_000
_VALUES = 500  # per statement; older versions allow 999
_CACHE_KB = 16_384
_COLUMNS = "source, name, size, modified, version"


def open_database() -> sqlite3.Connection:
    """Open a new, empty database."""
    with _disk():
        database = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KB}"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")  # never committed: whatever exceeds the cache goes to the disk
        return database


class SqliteRows:
    """The files in the order in which they were added, in one table."""

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        self._database, self._table = database, name
        self._new: list[tuple[Any, ...]] = []
        self._indexes: set[str] = set()
        self.count = 0
        with _disk():
            database.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {_COLUMNS}, mark)")

    def add(self, item: Item, mark: int | None) -> None:
        self._new.append((*_row(item), mark))
        self.count += 1
        if len(self._new) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write the buffered files, so that they can be read."""
        if self._new:
            with _disk():
                self._database.executemany(
                    f"INSERT INTO {self._table} ({_COLUMNS}, mark) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                    self._new,
                )
            self._new.clear()

    def sorted(self, after: Key) -> Iterator[Item]:
        self._index("source, name")
        where = "WHERE (source, name) > (?, ?) ORDER BY source, name, id DESC"
        previous = None
        for row in self._select(f"{_COLUMNS} FROM {self._table} {where}", (after[0], _bytes(after[1]))):
            item = _item(row)
            if item.key != previous:
                yield item
            previous = item.key

    def added(self, after: int, most: int) -> list[tuple[int, Item, int | None]]:
        self.flush()
        found = self._select(f"id, mark, {_COLUMNS} FROM {self._table} WHERE id > ? ORDER BY id LIMIT ?", (after, most))
        return [(row[0], _item(row[2:]), row[1]) for row in found]

    def named(self, names: list[str]) -> dict[str, Item]:
        self._index("name")
        found: dict[str, Item] = {}
        for where, values in _among(names):
            for item in map(_item, self._select(f"{_COLUMNS} FROM {self._table} WHERE {where}", values)):
                found[item.relative] = item
        return found

    def mark(self, names: list[str]) -> None:
        self._index("name")
        with _disk():
            for where, values in _among(names):
                self._database.execute(f"UPDATE {self._table} SET mark = 1 WHERE {where}", values)  # noqa: S608

    def count_unmarked(self) -> int:
        self.flush()
        (row,) = self._select(f"count(*) FROM {self._table} WHERE mark IS NULL")
        return int(row[0])

    def unmarked(self) -> Iterator[Item]:
        self._index("name")
        return map(_item, self._select(f"{_COLUMNS} FROM {self._table} WHERE mark IS NULL ORDER BY name"))

    def sizes(self, after: Key) -> int | None:
        self.flush()
        query = f"coalesce(sum(size), 0), count(*) - count(size) FROM {self._table} WHERE (source, name) > (?, ?)"
        (row,) = self._select(query, (after[0], _bytes(after[1])))
        return None if row[1] else int(row[0])

    def twice(self) -> str | None:
        query = f"name FROM {self._table} GROUP BY name HAVING count(DISTINCT source) > 1 ORDER BY name LIMIT 1"
        self.flush()
        for row in self._select(query):
            return _text(row[0])
        return None

    def keep(self, other: SqliteRows, most: int) -> list[Item]:
        return self._forget(other, "NOT EXISTS", most)

    def drop(self, other: SqliteRows, most: int) -> list[Item]:
        return self._forget(other, "EXISTS", most)

    def _forget(self, other: SqliteRows, condition: str, most: int) -> list[Item]:
        other._index("source, name")
        self.flush()
        same = " AND ".join(f"o.{column} IS t.{column}" for column in _COLUMNS.split(", "))
        which = f"FROM {self._table} AS t WHERE {condition} (SELECT 1 FROM {other._table} AS o WHERE {same})"  # noqa: S608
        first = [_item(row) for row in self._select(f"{_COLUMNS} {which} ORDER BY id LIMIT ?", (most,))] if most else []
        with _disk():
            self.count -= self._database.execute(f"DELETE {which}").rowcount
        return first

    def _index(self, columns: str) -> None:
        self.flush()
        if columns not in self._indexes:
            self._indexes.add(columns)
            with _disk():
                self._database.execute(f"CREATE INDEX {self._table}_{len(self._indexes)} ON {self._table} ({columns})")

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        with _disk():
            yield from self._database.execute(f"SELECT {query}", values)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise PermanentError(
            f"the listing could not be stored in the folder for temporary files: {error}",
            remedy="free disk space there, or set TMPDIR to another folder; 1,000,000 files take about 300 MB",
        ) from error


def _among(names: list[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Yield conditions for these names with their values, few enough for one statement."""
    for start in range(0, len(names), _VALUES):
        values = tuple(map(_bytes, names[start : start + _VALUES]))
        yield f"name IN ({', '.join('?' * len(values))})", values


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # sorts like the text


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _row(item: Item) -> tuple[Any, ...]:
    when = None if item.modified is None else micros(item.modified)
    return item.source, _bytes(item.relative), item.size, when, item.version


def _item(row: Any) -> Item:
    source, name, size, when, version = row
    modified = None if when is None else EPOCH + timedelta(microseconds=when)
    return Item(source, _text(name), size, modified, version)
