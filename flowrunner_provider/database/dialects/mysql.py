"""MySQL and MariaDB, through PyMySQL.

Rows are sent by one ``LOAD DATA LOCAL``. With LOCAL the server turns errors into warnings, and skips, truncates or
changes the row: here every warning fails. DDL commits implicitly;
:mod:`~flowrunner_provider.database.dialects.mysql_swap` explains what that means for a replacement.

Tested against MariaDB only. For MySQL 8 the statements follow its reference manual, and the unit tests check them.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    IntegrityError,
    OutcomeUnknown,
    Rejected,
    TransientError,
    Unavailable,
)
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.config import MysqlConfig
from flowrunner_provider.database.dialects import mysql_swap
from flowrunner_provider.database.dialects.model import Column, Merge, Merged, Params, Row, Table
from flowrunner_provider.database.dialects.mysql_errors import (
    LOST,
    OF_A_ROW,
    classified,
    connect_failed,
    number_of,
    tls_refused,
)
from flowrunner_provider.database.dialects.mysql_pipe import MysqlSync
from flowrunner_provider.database.dialects.mysql_query import (
    DECODERS,
    LEVELS,
    check_statement,
    decimal_digits,
    filled,
    kind_of,
    settings,
)
from flowrunner_provider.database.dialects.mysql_structure import MysqlStructure
from flowrunner_provider.database.dialects.mysql_tables import (
    UNIQUE_COLUMNS,
    create_like_statements,
    create_statement,
    described_columns,
    find,
    may_create,
)
from flowrunner_provider.database.dialects.mysql_wire import (
    asks_for_a_file,
    connect,
    driver,
    file_refused,
    limit_waits,
    reset,
    unbuffered,
)
from flowrunner_provider.database.dialects.refusals import distinct
from flowrunner_provider.database.dialects.remote import Remote, shut
from flowrunner_provider.database.dialects.values import unencodable
from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName
from flowrunner_provider.database.query_text import strip_terminator

__all__ = ["MysqlSession"]

_IN_TRANSACTION = 1  # a bit of the status that the server sends with every OK
_TRUNCATED = 1292


class MysqlSession(Remote[MysqlConfig], MysqlStructure, MysqlSync):
    """A session in READ COMMITTED, strict SQL mode and UTC."""

    kind = "mysql"
    quoting = Quoting(mark="`", max_bytes=192, max_characters=64, forbidden=r"[\U00010000-\U0010ffff]|\s\Z|\A#mysql50#")
    placeholder = "\0{}\0"
    row_errors = OF_A_ROW
    key_errors = frozenset({"1062"})
    types = MappingProxyType(
        {
            "string": "longtext", "integer": "bigint", "number": "double", "decimal": "decimal(65,30)",
            "boolean": "tinyint(1)", "object": "json", "array": "json", "date": "date", "time": "time(6)",
            "timestamp": "datetime(6)", "binary": "longblob",
        }
    )  # fmt: skip

    def _connect(self, config: MysqlConfig, deadline: Deadline) -> None:
        self._driver = driver()
        self._isolation: Isolation | None = None
        try:
            self._connection = connect(
                config,
                decoders=DECODERS,
                connect_timeout=max(1.0, deadline.limit(config.connect_timeout.total_seconds())),
                silence=self._silence,
            )
        except self._driver.Error as error:
            tls = tls_refused(getattr(error, "original_exception", None))
            raise connect_failed(2026 if tls else number_of(error), self._where) from None
        except RuntimeError as error:
            if asks_for_a_file(error):
                raise file_refused(self._where) from None
            raise ConfigError(
                f"{self._where}: the server's authentication method needs the package cryptography",
                field="login",
                remedy="pip install cryptography, or enable TLS (ssl_mode) on the connection",
            ) from None

    def prepare(self, deadline: Deadline) -> None:
        super().prepare(deadline)
        limit_waits(self._connection, self._silence)
        version = str(self._connection.server_version)
        self.run(settings(self._config, deadline, self._silence, version=version))

    def reset(self) -> bool:
        self._guard.cancel()
        if not self._connection.open:
            return False
        self.rollback()
        with self.typed():
            reset(self._connection)
        return True

    def _shut_socket(self) -> None:
        with suppress(OSError, AttributeError):
            shut(self._connection._sock.fileno())

    @contextmanager
    def typed(self) -> Iterator[None]:
        """Turn errors of the driver into our own, without row values."""
        try:
            yield
        except self._driver.Error as error:
            if asks_for_a_file(error.__context__):
                raise file_refused(self._where) from None
            text = str(error.args[1]) if len(error.args) > 1 else ""
            broken = not self._connection.open
            raise classified(number_of(error), text, self._where, broken=broken, deadline=self._deadline) from None
        except UnicodeEncodeError:
            raise unencodable() from None
        except RuntimeError as error:
            if asks_for_a_file(error):
                raise file_refused(self._where) from None
            raise

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        parts = sql.split("\0")  # names hold no NUL
        with self.typed(), self._connection.cursor() as cursor:
            parts[1::2] = [self._connection.literal(values[int(number) - 1]) for number in parts[1::2]]
            cursor.execute("".join(parts))
            return list(cursor.fetchall())

    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        self.run(f"SET TRANSACTION ISOLATION LEVEL {LEVELS[isolation]}")
        snapshot = "WITH CONSISTENT SNAPSHOT, " if isolation == "repeatable read" and read_only else ""
        self.run(f"START TRANSACTION {snapshot}READ {'ONLY' if read_only else 'WRITE'}")
        self._isolation = isolation

    def _begin_again(self) -> None:
        """Begin a new transaction after an implicit commit."""
        if self._isolation is not None:
            self.begin(self._isolation)

    def acquire_lock(self, key: str) -> None:
        wait = max(1, int(self._lock_wait))
        if self.run("SELECT GET_LOCK(\x001\0, \x002\0)", [f"flowrunner:{key}"[:64], wait])[0][0] != 1:
            raise Unavailable(
                f"{self._where}: another attempt of this task is still running", remedy="the retry waits again"
            )

    def execute(self, statement: str, params: Params = None) -> int:
        check_statement(statement)
        with self.typed(), unbuffered(self._connection) as cursor:
            cursor.execute(filled(self._connection.literal, statement, params))
            rows = sum(1 for _ in cursor) if cursor.description else int(cursor.rowcount)
            warned = cursor.warning_count and not cursor.description
        if warned and _TRUNCATED in [row[1] for row in self.run("SHOW WARNINGS")]:
            raise Rejected(  # MySQL 8 refuses this itself; MariaDB would take every text without digits for 0
                "a text that is no number was compared with a number",
                code=str(_TRUNCATED),
                remedy="write the value as a string, or cast the column",
            )
        if self._isolation is not None and not self._connection.server_status & _IN_TRANSACTION:
            raise IntegrityError("a statement has ended the transaction", remedy="remove COMMIT and ROLLBACK")
        return max(0, rows)

    def _fields(self, query: str, params: Params) -> Sequence[Any]:
        """Return the server's description of the columns of a query."""
        text = filled(self._connection.literal, strip_terminator(query), params)
        with self.typed(), self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM ({text}\n) AS q LIMIT 0")
            fields: Sequence[Any] = cursor._result.fields
        return fields

    def decimal_precisions(self, query: str, params: Params) -> dict[str, tuple[int, int]]:
        return {
            field.name: (decimal_digits(field.length, field.scale, field.flags), field.scale)
            for field in self._fields(query, params)
            if kind_of(field.type_code, field.charsetnr) == "decimal"
        }

    def column_types(self, query: str, params: Params) -> dict[str, str]:
        fields = self._fields(query, params)
        names = distinct([field.name for field in fields])
        return {name: kind_of(field.type_code, field.charsetnr) for name, field in zip(names, fields, strict=True)}

    @contextmanager
    def stream(self, query: str, params: Params, *, batch_rows: int) -> Iterator[Iterator[list[Row]]]:
        with self.typed(), unbuffered(self._connection) as cursor:
            cursor.execute(filled(self._connection.literal, query, params))
            yield iter(lambda: list(cursor.fetchmany(batch_rows)), [])

    def sort_key(self, kind: str, name: str) -> str:
        """Sort texts by their bytes: ``utf8mb4_bin`` pads with spaces, so it puts ``a<tab>`` before ``a``."""
        return f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)" if kind == "string" else name

    def commit(self) -> None:
        if not self._connection.server_status & _IN_TRANSACTION:
            raise IntegrityError("the transaction is no longer open", remedy="retry the task")
        self._run_irrevocably("COMMIT", "COMMIT")
        self._isolation = None

    def _run_irrevocably(self, statement: str, name: str) -> None:
        """Run the statement that takes effect irrevocably; if its answer is lost, the outcome is unknown."""
        try:
            self._connection.query(statement)
        except self._driver.Error as error:
            number = number_of(error)
            if not self._connection.open or number in LOST or number == 1317:
                self._connection._force_close()
                raise OutcomeUnknown(f"the connection to {self._where} broke at {name}") from None
            raise classified(number, "", self._where, broken=False, deadline=self._deadline) from None

    def rollback(self) -> None:
        self._isolation = None
        if self._connection.open:
            with suppress(TransientError):  # if the connection breaks now, the server rolls back
                self.run("ROLLBACK")

    def end(self) -> None:
        self._guard.cancel()
        with suppress(self._driver.Error):
            self._connection.close()

    def locate(self, name: TableName) -> TableName:
        if name.schema is None:
            schema = self.run("SELECT DATABASE()")[0][0]
            if schema is None:
                raise ConfigError(
                    "the connection has no database",
                    field="table",
                    remedy="write database.table, or set the schema of the connection",
                )
            name = TableName(name.name, Identifier(schema))
        found = find(self, name)
        return name if found is None else found[0]

    def table(self, name: TableName) -> Table | None:
        found = find(self, name)
        if found is None:
            return None
        name, kind, engine = found
        if kind not in ("BASE TABLE", "SYSTEM VERSIONED"):
            raise ConfigError(f"{name} is not a table", field="table", remedy="load into the underlying table")
        if engine != "InnoDB":
            raise ConfigError(
                f"{name} has the engine {engine}, which has no transactions",
                field="table",
                remedy="change its engine to InnoDB",
            )
        columns = {column: kind for column, kind, filled in described_columns(self, name) if not filled}
        indexes: dict[str, set[str]] = {}
        for index, column in self.run(UNIQUE_COLUMNS, [name.schema.text if name.schema else "", name.name.text]):
            indexes.setdefault(index, set()).add(column or "")
        unique = [frozenset(index) for index in indexes.values() if "" not in index]
        return Table(name=name, columns=columns, unique=unique)

    def create(
        self, name: TableName, columns: Sequence[Column], *, keys: Sequence[str] = (), may_exist: bool = False
    ) -> None:
        """Create a table, which commits the transaction."""
        self.run(create_statement(self, name, columns, keys, may_exist=may_exist))
        self._begin_again()

    def create_like(self, name: TableName, model: TableName) -> None:
        """Create an empty table of the same structure and with the same AUTO_INCREMENT as ``model``."""
        for statement in create_like_statements(self, name, model):
            self.run(statement)
        self._begin_again()

    def create_shared(self, name: TableName, columns: Sequence[Column], keys: Sequence[str]) -> None:
        if find(self, name) is None:
            super().create_shared(name, columns, keys)

    def lock(self, name: TableName) -> None:
        """Do nothing: ``LOCK TABLES`` would commit. Deleted rows are locked, rows that others insert are not."""

    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        stage = table.beside("flowrunner_stage")
        self.run(f"DROP TEMPORARY TABLE IF EXISTS {self.sql(stage)}")
        self.run(
            f"CREATE TEMPORARY TABLE {self.sql(stage)} ({self.sql(mysql_swap.ROW)} bigint AUTO_INCREMENT PRIMARY KEY)"
            f" ENGINE=InnoDB AS SELECT {self.names(columns)} FROM {self.sql(table)} LIMIT 0"
        )
        return stage

    def create_replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        return mysql_swap.create_replacement(self, table, columns, name)

    def swap(self, table: Table, replacement: TableName, old_name: TableName) -> None:
        try:
            self._run_irrevocably(mysql_swap.swap_statement(self, table.name, replacement, old_name), "RENAME TABLE")
        except Rejected as error:
            if error.code == "1050":
                raise AlreadyExists(f"the table {old_name} already exists", remedy="drop it") from None
            raise
        self._begin_again()

    def quoted(self, text: str) -> str:
        return str(self._connection.literal(text))

    def decide(self, statement: str, name: str) -> None:
        self._run_irrevocably(statement, name)
        self._begin_again()

    def drop_leftovers(self, *tables: TableName) -> None:
        self.run(f"DROP TABLE IF EXISTS {', '.join(map(self.sql, tables))}")
        self._begin_again()

    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        return mysql_swap.delete_superseded(self, stage, keys)

    def merge(self, merge: Merge) -> Merged:
        return mysql_swap.merged(self, merge)

    def describe(self) -> str:
        version, login, database = self.run("SELECT VERSION(), CURRENT_USER(), DATABASE()")[0]
        may = "may" if may_create(self) else "may not (or only by a role)"
        return f"MySQL {version}, database {database}: user {login} {may} create tables"
