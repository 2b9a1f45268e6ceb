"""SQLite, through the driver of the standard library.

A load runs in one write transaction (``BEGIN IMMEDIATE``). Other writers wait; readers continue in WAL mode, and wait
for the commit with a rollback journal. The journal mode of the file is not changed.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from operator import ne
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.config import SqliteConfig
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, Copier, Merge, Merged, Params, Row, Table
from flowrunner_provider.database.dialects.refusals import distinct, unsuitable
from flowrunner_provider.database.dialects.sqlite_structure import (
    SqliteStructure,
    belongings,
    key_collations,
    referenced,
)
from flowrunner_provider.database.dialects.syncing import Flag
from flowrunner_provider.database.dialects.values import as_json, converted, types_of, unencodable
from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName

__all__ = ["SqliteSession"]

_NATIVE: frozenset[type] = frozenset({str, int, float, bytes, bool, type(None)})
_CONVERTERS: Mapping[type, Callable[[Any], Any]] = MappingProxyType(
    {
        dict: as_json,
        list: as_json,
        tuple: as_json,
        datetime: lambda value: value.isoformat(" "),
        date: date.isoformat,
        time: time.isoformat,
        timedelta: timedelta.total_seconds,
        bytearray: bytes,
        memoryview: bytes,
    }
)
_WRONG_SQL = (
    "no such column", "no such function", "ambiguous column name", "incomplete input", "unrecognized token",
    "wrong number of arguments", "misuse of", "Incorrect number of bindings", "You did not supply a value",
)  # fmt: skip
_OPCODES = 20_000  # virtual machine instructions between two checks of the deadline: about 100 microseconds


class SqliteSession(SqliteStructure, Session):
    """A session on a database file.

    :param create: create a missing file.
    """

    kind = "sqlite"
    quoting = Quoting(max_bytes=255)
    placeholder = "?{}"
    row_errors = ("22", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
    types = MappingProxyType(
        {
            "string": "TEXT", "integer": "INTEGER", "number": "REAL", "decimal": "TEXT", "boolean": "INTEGER",
            "object": "TEXT", "array": "TEXT", "date": "TEXT", "time": "TEXT", "timestamp": "TEXT", "binary": "BLOB",
        }
    )  # fmt: skip

    def __init__(self, config: SqliteConfig, deadline: Deadline, *, create: bool = False) -> None:
        self._deadline, self._path = deadline, config.path
        if ":memory:" in config.path:
            raise ConfigError("a database in memory is gone when the task ends", field="host", remedy="name a file")
        mode = config.mode or ("rwc" if create or Path(config.path).exists() else "rw")
        uri = f"file:{quote(config.path)}?mode={mode}"
        wait = deadline.limit(config.busy_timeout.total_seconds())
        with self._typed("open"):
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False
            )
        with self._typed("open"):
            self._connection.set_progress_handler(lambda: deadline.expired, _OPCODES)
            self._connection.execute(f"PRAGMA foreign_keys = {int(config.foreign_keys)}")
            self._connection.execute("PRAGMA trusted_schema = 0")

    @contextmanager
    def _typed(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _classified(error, self._path, verb, self._deadline) from None
        except UnicodeEncodeError:
            raise unencodable() from None
        except OverflowError:
            raise Rejected(
                "a whole number of the source has more than 64 bits",
                code="22003",
                remedy="write it as text, or use on_bad_row='reject' to set such rows aside",
            ) from None

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._typed("run a statement in"):
            return self._connection.execute(sql, tuple(values)).fetchall()

    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        """Begin the transaction; all are serializable, and a read-only one is a snapshot from its first read."""
        del isolation
        self.run(f"PRAGMA query_only = {int(read_only)}")
        self.run("BEGIN" if read_only else "BEGIN IMMEDIATE")

    def execute(self, statement: str, params: Params = None) -> int:
        with self._typed("run a statement in"):
            before = self._connection.total_changes
            cursor = self._connection.execute(statement, _bound(params))
            returned = sum(1 for _ in cursor)
            if cursor.rowcount >= 0:
                return cursor.rowcount
            if returned or self._connection.total_changes == before:
                return returned
            return int(self._connection.execute("SELECT changes()").fetchone()[0])  # WITH ... UPDATE

    def column_types(self, query: str, params: Params) -> dict[str, str]:
        with self._typed("run a query in"):
            cursor = self._connection.execute(query, _bound(params))
            names = [column[0] for column in cursor.description or ()]
            cursor.close()
        return dict.fromkeys(distinct(names), "")

    @contextmanager
    def stream(self, query: str, params: Params, *, batch_rows: int) -> Iterator[Iterator[list[Row]]]:
        with self._typed("run a query in"):
            cursor = self._connection.execute(query, _bound(params))
        yield self._fetched(cursor, batch_rows)
        cursor.close()

    def _fetched(self, cursor: sqlite3.Cursor, batch_rows: int) -> Iterator[list[Row]]:
        while True:
            with self._typed("read from"):
                batch = cursor.fetchmany(batch_rows)
            if not batch:
                return
            yield batch

    def sort_key(self, kind: str, name: str) -> str:
        del kind
        return f"{name} COLLATE BINARY"

    def commit(self) -> None:
        self.run("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.run("ROLLBACK")

    def end(self) -> None:
        self._connection.close()

    def locate(self, name: TableName) -> TableName:
        return name if name.schema else TableName(name.name, Identifier("main"))

    def _schema(self, name: TableName) -> Identifier:
        schema = name.schema or Identifier("main")
        known = [row[1] for row in self.run("PRAGMA database_list")]
        if schema.text not in known:
            raise NotFound(
                f"there is no schema {schema.text!r} in {self._path}",
                remedy="leave the schema away: SQLite calls the file itself main",
            )
        return schema

    def table(self, name: TableName) -> Table | None:
        schema = self.sql(self._schema(name))
        listed = f"SELECT type, name FROM {schema}.sqlite_master WHERE lower(name) = lower(?1)"
        found = self.run(f"{listed} AND type IN ('table', 'view')", [name.name.text])
        if not found:
            return None
        if found[0][0] == "view":
            raise ConfigError(f"{name} is a view", field="table", remedy="load into the underlying table")
        columns = self.run(f"PRAGMA {schema}.table_xinfo({self.sql(name.name)})")
        normal = {row[1]: row[2] for row in columns if row[6] == 0}
        primary = frozenset(row[1] for row in columns if row[5])
        unique = [primary] if primary else []
        for index in self.run(f"PRAGMA {schema}.index_list({self.sql(name.name)})"):
            if index[2] and not index[4]:
                parts = self.run(f"PRAGMA {schema}.index_info({self.sql(index[1])})")
                if all(part[2] is not None for part in parts):
                    unique.append(frozenset(part[2] for part in parts))
        return Table(name=TableName.of(found[0][1], self._schema(name).text), columns=normal, unique=unique)

    def lock(self, name: TableName) -> None:
        """Do nothing: the write transaction has locked the file."""

    def interrupt(self) -> None:
        self._connection.interrupt()

    def unlisted(self, listing: TableName, keys: Sequence[str]) -> str:
        """Return the condition; with IN, SQLite builds an index of the listing."""
        return f"({self.names(keys, 't.')}) NOT IN (SELECT {self.names(keys)} FROM {self.sql(listing)})"

    def flag_of(self, kind: str) -> Flag | None:
        if kind.upper() in ("INTEGER", "INT", "TINYINT"):
            return super().flag_of("boolean")
        return super().flag_of("timestamp" if kind.upper() == "TEXT" else kind)

    @contextmanager
    def copy(self, table: TableName, columns: Sequence[str]) -> Iterator[Copier]:
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {self.sql(table)} ({self.names(columns)}) VALUES ({marks})"
        yield _Copier(self, statement)

    def many(self, statement: str, rows: Sequence[Row]) -> int:
        """Run a statement once per row; return how many rows it stored."""
        with self._typed("write into"):
            return self._connection.executemany(statement, rows).rowcount

    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        stage = TableName.of("flowrunner_stage", "temp")
        self.run(f"CREATE TABLE {self.sql(stage)} AS SELECT {self.names(columns)} FROM {self.sql(table)} LIMIT 0")
        if collations := key_collations(self, table):  # CREATE TABLE AS drops them
            kinds = {row[1]: row[2] for row in self.run(f"PRAGMA temp.table_info({self.sql(stage.name)})")}
            parts = [f"{self.sql(name)} {kind} {collations.get(name, '')}" for name, kind in kinds.items()]
            self.run(f"DROP TABLE {self.sql(stage)}")
            self.run(f"CREATE TABLE {self.sql(stage)} ({', '.join(parts)})")
        return stage

    def create_replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        """Recreate the table itself: others see the old one until the write transaction commits."""
        del name
        listed = belongings(self, table.name)
        if any(kind == "trigger" for kind, _ in listed) and columns is not None:
            raise unsuitable(table.name, ["triggers"])
        if self.run("PRAGMA foreign_keys")[0][0] and referenced(self, table.name):
            raise unsuitable(table.name, ["foreign keys of other tables"])
        self.run(f"DROP TABLE {self.sql(table.name)}")
        if columns is not None:
            self.create(table.name, columns)
        else:
            for _, statement in sorted(listed, key=lambda item: item[0] != "table"):
                self.run(statement)
        return table.name

    def swap(self, table: Table, replacement: TableName, old_name: TableName) -> None:
        """Do nothing: the replacement already has its name."""

    def check_constraints(self) -> None:
        if self.run("PRAGMA foreign_keys")[0][0] and (broken := self.run("PRAGMA foreign_key_check")):
            raise Rejected(
                f"{len(broken)} row(s) would refer to rows that do not exist",
                code="SQLITE_CONSTRAINT_FOREIGNKEY",
                remedy="load the referenced table first",
            )

    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        last = f"SELECT max(rowid) FROM {self.sql(stage)} GROUP BY {self.names(keys)}"
        return len(self.run(f"DELETE FROM {self.sql(stage)} WHERE rowid NOT IN ({last}) RETURNING 1"))

    def merge(self, merge: Merge) -> Merged:
        self.check_unique(merge.stage, merge.keys)
        known = self.count_known(merge.stage, merge.table, merge.keys)
        stage, names = self.sql(merge.stage), self.names(merge.columns)
        new = self.count(merge.stage) - known
        # "WHERE true" keeps SQLite's parser from reading ON as part of a join
        self.run(
            f"INSERT INTO {self.sql(merge.table)} ({names}) SELECT {names} FROM {stage} WHERE true"
            f" {self.upsert_clause(merge.keys, merge.rest)}"
        )
        self.run(f"DROP TABLE {stage}")
        return merge.done(inserted=new, known=known)

    def describe(self) -> str:
        version = self.run("SELECT sqlite_version()")[0][0]
        self.run("BEGIN IMMEDIATE")
        self.run("ROLLBACK")
        return f"SQLite {version}, {self._path}: may be written, and tables may be created"


def _bound(params: Params) -> Sequence[Any] | Mapping[str, Any]:
    if isinstance(params, Mapping):
        return dict(zip(params, _native(list(params.values())), strict=True))
    return _native(list(params or ()))


def _native(values: list[Any]) -> Row:
    return _storable([tuple(values)])[0] if values else ()


def _storable(rows: Sequence[Row]) -> Sequence[Row]:
    """Convert values to types that SQLite stores.

    :raises Rejected: for NaN, which SQLite would silently store as NULL.
    """
    rows = converted(rows, _NATIVE, _CONVERTERS)
    for column, types in zip(zip(*rows, strict=True), types_of(rows), strict=True):
        if float in types and any(map(ne, column, column)):
            raise Rejected(
                "a number of the source is NaN, which SQLite cannot store",
                code="22003",
                remedy="replace it by null, or use on_bad_row='reject' to set such rows aside",
            )
    return rows


class _Copier:
    def __init__(self, session: SqliteSession, statement: str) -> None:
        self._session, self._statement, self.rows = session, statement, 0

    def write(self, rows: Sequence[Row]) -> None:
        self.rows += self._session.many(self._statement, _storable(rows))


def _classified(error: sqlite3.Error, path: str, verb: str, deadline: Deadline) -> FlowRunnerError:
    code: str = getattr(error, "sqlite_errorname", "") or "SQLITE_ERROR"
    what = f"could not {verb} the SQLite database {path} ({code})"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return Unavailable(what, remedy="another process writes into it; the retry waits again")
    if code.startswith("SQLITE_INTERRUPT"):
        return TimedOut(f"{what} within {deadline.seconds:g} s", remedy="raise `timeout`")
    if code.startswith("SQLITE_CANTOPEN"):
        return NotFound(
            what,
            remedy="check the path in the connection's host, and that its folder exists; to create the file, set mode "
            "to rwc in the extra",
        )
    if code.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return AccessDenied(what, remedy="check the owner of file and folder, and the connection's mode")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return IntegrityError(what, remedy="it is damaged or not a database: restore it from a backup")
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM")):
        return Unavailable(what, remedy="check the disk of the database")
    if code.startswith("SQLITE_CONSTRAINT"):
        subject = str(error).partition(": ")[2]  # names of columns or of the constraint, never values
        return Rejected(
            f"a row breaks a constraint of the table ({code}{': ' if subject else ''}{subject})",
            code=code,
            remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
        )
    if str(error).startswith("no such table"):
        return NotFound(f"{what}: a table does not exist", remedy="create it, or correct its name")
    if str(error).startswith(_WRONG_SQL) or "syntax error" in str(error):
        return Rejected(what, code=code, remedy="correct the SQL; each placeholder needs its value in `parameters`")
    return Rejected(what, code=code, remedy="check the table against the source")
