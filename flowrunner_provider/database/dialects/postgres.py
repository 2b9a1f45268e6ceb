"""PostgreSQL, through psycopg 3.

Rows are sent by one ``COPY ... FROM STDIN (FORMAT csv)``, formatted by Python's CSV writer.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, IntegrityError, OutcomeUnknown, TransientError
from flowrunner_provider.core.extras import load
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.config import PostgresConfig
from flowrunner_provider.database.dialects.model import (
    Column,
    Copier,
    CsvFile,
    Merge,
    Merged,
    OnBlock,
    Params,
    Row,
    Table,
)
from flowrunner_provider.database.dialects.postgres_copy import CsvCopier
from flowrunner_provider.database.dialects.postgres_csv import Unfit, blocks, count_rows, fits, options
from flowrunner_provider.database.dialects.postgres_errors import classified, connect_failed
from flowrunner_provider.database.dialects.postgres_pipe import PostgresSync
from flowrunner_provider.database.dialects.postgres_query import (
    LEVELS,
    adapted,
    cast_for,
    columns_of,
    copied_out,
    digits_of,
    lines_out,
    opened,
    settle,
)
from flowrunner_provider.database.dialects.postgres_structure import PostgresStructure
from flowrunner_provider.database.dialects.postgres_swap import create_replacement, put_in_place
from flowrunner_provider.database.dialects.refusals import duplicate_keys
from flowrunner_provider.database.dialects.remote import Remote, shut
from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresSession"]

_UNIQUE = """
SELECT array_agg(a.attname::text) FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid
"""
_COLUMNS = """
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a'
ORDER BY attnum
"""
_PLACE = """
SELECT n.nspname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)
"""

_LONGEST_TIMEOUT = 2**31 - 1
_LIMITS = """
SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
  set_config('idle_in_transaction_session_timeout', $3, true)
"""


class PostgresSession(Remote[PostgresConfig], PostgresStructure, PostgresSync):
    """A session in READ COMMITTED and UTC."""

    kind = "postgres"
    quoting = Quoting(max_bytes=63)
    placeholder = "${}"
    has_arrays = True
    row_errors = ("22", "23")
    types = MappingProxyType(
        {
            "string": "text", "integer": "bigint", "number": "double precision", "decimal": "numeric",
            "boolean": "boolean", "object": "jsonb", "array": "jsonb", "date": "date", "time": "time",
            "timestamp": "timestamptz", "binary": "bytea",
        }
    )  # fmt: skip

    def _connect(self, config: PostgresConfig, deadline: Deadline) -> None:
        self._driver = load("psycopg", extra="postgres", needed_for="a connection to PostgreSQL")
        try:
            self._connection: psycopg.Connection[Row] = self._driver.connect(
                **_parameters(config, deadline),
                autocommit=True,
                cursor_factory=self._driver.RawCursor,
                prepare_threshold=None,  # behind a pooler the next statement may run on another connection
            )
        except self._driver.Error as error:
            raise connect_failed(error, self._where) from None
        self._cursor = self._connection.cursor()

    def prepare(self, deadline: Deadline) -> None:
        super().prepare(deadline)
        self.run("SET TimeZone = 'UTC'")  # a pooler carries this over to another connection

    def reset(self) -> bool:
        self._guard.cancel()
        if self._broken:
            return False
        self.rollback()
        self.run("DISCARD ALL")
        return True

    def _shut_socket(self) -> None:
        with suppress(OSError, self._driver.Error):
            shut(self._connection.fileno())

    @contextmanager
    def typed(self) -> Iterator[None]:
        """Turn errors of the driver into our own, without row values."""
        try:
            yield
        except self._driver.Error as error:
            raise classified(error, self._where, broken=self._broken, deadline=self._deadline) from None

    @property
    def _broken(self) -> bool:
        return bool(self._connection.closed or self._connection.broken)

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self.typed():
            self._cursor.execute(sql, values or None)
            return self._cursor.fetchall() if self._cursor.description else []

    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        self.run(f"BEGIN ISOLATION LEVEL {LEVELS[isolation]} READ {'ONLY' if read_only else 'WRITE'}")
        longest = self._deadline.remaining()
        if self._config.statement_timeout is not None:
            longest = min(longest, self._config.statement_timeout.total_seconds())
        # for this transaction only: behind a pooler the next one may belong to another client
        self.run(_LIMITS, [_milliseconds(longest), _milliseconds(self._lock_wait), self.idle_timeout])
        if read_only:
            settle(self)

    @property
    def idle_timeout(self) -> str:
        """Milliseconds of silence after which the server may end a transaction: no attempt uses it any more."""
        return _milliseconds(self._silence)

    def execute(self, statement: str, params: Params = None) -> int:
        with self.typed(), self._driver.Cursor(self._connection) as cursor:
            # binary, so that the extended protocol is used, which takes one statement only
            cursor.execute(statement, adapted(params), binary=True)
            rows: int = cursor.rowcount
        status = self._driver.pq.TransactionStatus
        if self._connection.info.transaction_status != status.INTRANS:
            raise IntegrityError("a statement has ended the transaction", remedy="remove COMMIT and ROLLBACK")
        return max(0, rows)

    def column_types(self, query: str, params: Params) -> dict[str, str]:
        with self.typed():
            return columns_of(self._connection, query, params)

    def decimal_precisions(self, query: str, params: Params) -> dict[str, tuple[int, int]]:
        with self.typed():
            return digits_of(self._connection, query, params)

    @contextmanager
    def stream(self, query: str, params: Params, *, batch_rows: int) -> Iterator[Iterator[list[Row]]]:
        with self.typed(), opened(self._connection, query, params) as cursor:
            yield iter(lambda: cursor.fetchmany(batch_rows), [])

    def copy_out(
        self, query: str, params: Params, *, block_limit: Callable[[], int], on_block: OnBlock, shared_columns: int = 0
    ) -> int | None:
        with self.typed():
            if params is not None or shared_columns:
                return lines_out(self._connection, query, params, block_limit, on_block, shared_columns)
            with self._cursor.copy(f"COPY ({query}\n) TO STDOUT (FORMAT csv)"):
                return copied_out(self._connection, block_limit, on_block)

    def select_for_format(self, kind: str, name: str, target: str) -> str:
        return cast_for(kind, name, target)

    def sort_key(self, kind: str, name: str) -> str:
        return f'{name}::text COLLATE "C"' if kind == "string" else name

    def commit(self) -> None:
        status = self._driver.pq.TransactionStatus
        if self._connection.info.transaction_status != status.INTRANS:
            raise IntegrityError("the transaction is no longer open", remedy="retry the task")
        try:
            self._cursor.execute("COMMIT")
        except self._driver.Error as error:
            if self._broken:
                raise OutcomeUnknown(f"the connection to {self._where} broke at COMMIT") from None
            raise classified(error, self._where, broken=False, deadline=self._deadline) from None

    def rollback(self) -> None:
        if not self._broken and self._connection.info.transaction_status:
            with suppress(TransientError):  # if the connection breaks now, the server rolls back
                self.run("ROLLBACK")

    def end(self) -> None:
        self._guard.cancel()
        self._connection.close()

    def locate(self, name: TableName) -> TableName:
        found = self.run(_PLACE, [self.sql(name)])
        if not found and name.schema is None:
            found = [row for row in self.run("SELECT current_schema()::text") if row[0] is not None]
            if not found:
                raise ConfigError(
                    "no schema of the user's search_path exists",
                    field="table",
                    remedy="write schema.table",
                )
        return TableName(name.name, Identifier(found[0][0])) if found else name

    def table(self, name: TableName) -> Table | None:
        quoted = self.sql(name)
        found = self.run(_PLACE, [quoted])
        if not found:
            return None
        if found[0][1] not in ("r", "p", "f"):
            raise ConfigError(f"{name} is not a table", field="table", remedy="load into the underlying table")
        columns: dict[str, str] = dict(self.run(_COLUMNS, [quoted]))
        return Table(name=name, columns=columns, unique=[frozenset(row[0]) for row in self.run(_UNIQUE, [quoted])])

    def create_shared(self, name: TableName, columns: Sequence[Column], keys: Sequence[str]) -> None:
        if self.table(name) is not None:
            return
        # Concurrent CREATE TABLE IF NOT EXISTS collide in the catalogue, so an advisory lock serialises them.
        self.begin()
        self.run("SELECT pg_advisory_xact_lock(hashtext($1))", [self.sql(name)])
        self.create(name, columns, keys=keys, may_exist=True)
        self.commit()

    def lock(self, name: TableName) -> None:
        self.run(f"LOCK TABLE {self.sql(name)} IN SHARE ROW EXCLUSIVE MODE")

    @contextmanager
    def copy(self, table: TableName, columns: Sequence[str]) -> Iterator[Copier]:
        statement = f"COPY {self.sql(table)} ({self.names(columns)}) FROM STDIN (FORMAT csv)"
        copier = CsvCopier(len(columns), json=self._json_places(table, columns))
        with self.typed(), self._cursor.copy(statement) as stream:
            copier.send = stream.write
            yield copier
        copier.rows = self._cursor.rowcount

    def copy_file(
        self, table: TableName, columns: Sequence[str], file: CsvFile, passed: Callable[[int], None]
    ) -> tuple[int, int] | None:
        if not fits(file):
            return None
        names = self.names(columns)
        lines = 0
        self.savepoint()
        try:
            with (
                self.typed(),
                self._cursor.copy(f"COPY {self.sql(table)} ({names}) FROM STDIN ({options(file, names)})") as stream,
            ):
                for block in blocks(file):
                    stream.write(block)
                    found = block.count(b"\n")
                    lines += found
                    passed(found)
        except Unfit:
            self.rollback_to_savepoint()
            return None
        rows = int(self._cursor.rowcount)
        self.release_savepoint()
        # there are at least as many lines as rows: if both counts agree, no value has a line break and no row is lost
        return rows, lines if rows == lines else sum(map(count_rows, blocks(file)))

    def _json_places(self, table: TableName, columns: Sequence[str]) -> list[int]:
        types: dict[str, str] = dict(self.run(_COLUMNS, [self.sql(table)]))
        return [place for place, column in enumerate(columns) if types.get(column) in ("json", "jsonb")]

    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        name = self.sql("flowrunner_stage")
        self.run(
            f"CREATE TEMP TABLE {name} ON COMMIT DROP AS"
            f" SELECT {self.names(columns)} FROM {self.sql(table)} WITH NO DATA"
        )
        return TableName.of("flowrunner_stage", "pg_temp")

    def create_replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        return create_replacement(self, table, columns, name)

    def swap(self, table: Table, replacement: TableName, old_name: TableName) -> None:
        del old_name
        put_in_place(self, table, replacement)

    @contextmanager
    def warnings(self) -> Iterator[list[str]]:
        codes: list[str] = []

        def heard(notice: psycopg.errors.Diagnostic) -> None:
            if notice.severity_nonlocalized == "WARNING":
                codes.append(notice.sqlstate or "01000")

        self._connection.add_notice_handler(heard)
        try:
            yield codes
        finally:
            self._connection.remove_notice_handler(heard)

    def check_constraints(self) -> None:
        self.run("SET CONSTRAINTS ALL IMMEDIATE")

    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        # one COPY into a new table writes its rows in ctid order
        last = f"SELECT max(ctid) FROM {self.sql(stage)} GROUP BY {self.names(keys)}"
        self.run(f"DELETE FROM {self.sql(stage)} WHERE ctid NOT IN ({last})")
        return int(self._cursor.rowcount)

    def merge(self, merge: Merge) -> Merged:
        """Upsert in one statement; ``xmax`` distinguishes new rows from updated ones."""
        stage, table, keys, rest = merge.stage, self.sql(merge.table), merge.keys, merge.rest
        if not rest:
            self.check_unique(stage, keys)
        partitioned = self.run(_PLACE, [table])[0][1] == "p"  # a partitioned table returns no system columns
        known = self.count_known(stage, merge.table, keys) if partitioned and rest else 0
        names, fresh = self.names(merge.columns), "true" if partitioned else "xmax = 0"
        insert = (
            f"INSERT INTO {table} ({names}) SELECT {names} FROM {self.sql(stage)}"
            f" {self.upsert_clause(keys, rest)} RETURNING ({fresh}) AS fresh"
        )
        try:
            found = self.run(f"WITH done AS ({insert}) SELECT count(*), count(*) FILTER (WHERE fresh) FROM done")
        except IntegrityError:
            raise duplicate_keys(keys) from None
        inserted = int(found[0][1]) - known
        return merge.done(inserted=inserted, known=(int(found[0][0]) if rest else self.count(stage)) - inserted)

    def describe(self) -> str:
        version, login, database, schema, may = self.run(
            "SELECT current_setting('server_version'), current_user::text, current_database()::text,"
            " current_schema()::text, has_schema_privilege(current_schema(), 'CREATE')"
        )[0]
        tables = f"{'may' if may else 'may not'} create tables in schema {schema}" if schema else "has no schema"
        return f"PostgreSQL {version}, database {database}: user {login} {tables}"


def _milliseconds(seconds: float) -> str:
    """Return a timeout for the server, which takes at most 24 days."""
    return str(min(max(1, int(seconds * 1000)), _LONGEST_TIMEOUT))


def _parameters(config: PostgresConfig, deadline: Deadline) -> dict[str, Any]:
    """Return the parameters for libpq: those of the connection, and finite timeouts where it sets none."""
    silence = int(config.silence.total_seconds() * 1000)
    keepalives = {"keepalives_idle": max(1, silence // 2000), "keepalives_interval": 5, "keepalives_count": 3}
    address = {"host": config.host, "port": config.port, "user": config.login, "password": config.password}
    return {
        "connect_timeout": max(2, int(deadline.limit(config.connect_timeout.total_seconds()))),
        "application_name": "flowrunner",
        "client_encoding": "UTF8",
        "tcp_user_timeout": silence,
        **keepalives,
        **config.driver,
        **{name: value for name, value in {**address, "dbname": config.schema}.items() if value != ""},
    }
