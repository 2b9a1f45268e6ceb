"""SQL Server and Azure SQL, through python-tds.

Rows are sent by ``INSERT BULK``, one statement per batch, in the same transaction as everything else: the bulk copies
of other drivers open a separate connection (mssql-python), or cannot choose trusted authorities (pymssql). A failed
row rolls back its statement only (``XACT_ABORT OFF``); if the server ends the transaction anyway, that is detected.

Tested against a fake that speaks TDS. What only a server can prove (T-SQL semantics, locks, collations, bulk load)
follows Microsoft's reference, and runs with ``-m live_mssql`` against a server that the user names.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    OutcomeUnknown,
    TransientError,
    Unavailable,
)
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.config import MssqlConfig
from flowrunner_provider.database.dialects import mssql_swap
from flowrunner_provider.database.dialects.model import Column, Merge, Merged, Params, Row, Table
from flowrunner_provider.database.dialects.mssql_call import MssqlCalls
from flowrunner_provider.database.dialects.mssql_errors import OF_A_ROW, classified, connect_failed
from flowrunner_provider.database.dialects.mssql_query import (
    LEVELS,
    SETTINGS,
    bound,
    check_query,
    check_statement,
    declared,
    digits_of,
    kind_of,
)
from flowrunner_provider.database.dialects.mssql_tables import (
    UNIQUE_COLUMNS,
    create_statement,
    described_columns,
    find,
    object_text,
)
from flowrunner_provider.database.dialects.mssql_wire import batches, connect, driver
from flowrunner_provider.database.dialects.refusals import distinct
from flowrunner_provider.database.dialects.remote import Remote
from flowrunner_provider.database.dialects.values import unencodable
from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName

__all__ = ["MssqlSession"]

_STAGE = TableName.of("#flowrunner_stage")
_DESCRIBE = (
    "SELECT name, system_type_name, error_number FROM sys.dm_exec_describe_first_result_set(\x001\0, \x002\0, 0)"
    " ORDER BY column_ordinal"
)
_DESCRIBE_BARE = _DESCRIBE.replace("\x002\0", "NULL")
_SAVEPOINT = 32  # characters of a savepoint's name


class MssqlSession(Remote[MssqlConfig], MssqlCalls):
    """A session in READ COMMITTED."""

    kind = "mssql"
    quoting = Quoting(mark="[", end="]", max_bytes=512, max_characters=116, forbidden=r"\s\Z")
    placeholder = "\0{}\0"
    row_errors = OF_A_ROW
    key_errors = frozenset({"2601", "2627"})
    types = MappingProxyType(
        {
            "string": "nvarchar(max)", "integer": "bigint", "number": "float", "decimal": "decimal(38, 18)",
            "boolean": "bit", "object": "nvarchar(max)", "array": "nvarchar(max)", "date": "date", "time": "time(6)",
            "timestamp": "datetime2(6)", "binary": "varbinary(max)",
        }
    )  # fmt: skip

    def _connect(self, config: MssqlConfig, deadline: Deadline) -> None:
        self._driver = driver()
        self._transaction_open = False
        silence = self._silence
        if config.statement_timeout is not None:
            silence = min(silence, config.statement_timeout.total_seconds())
        wait = max(1.0, deadline.limit(config.connect_timeout.total_seconds()))
        try:
            self._connection, self._channel = connect(config, connect_timeout=wait, silence=silence)
        except (self._driver.Error, OSError) as error:
            number = getattr(error, "number", 0) or 0
            raise connect_failed(error, number, self._where, expired=deadline.expired) from None

    def prepare(self, deadline: Deadline) -> None:
        super().prepare(deadline)
        for statement in SETTINGS:
            self.run(statement)
        self.run(f"SET LOCK_TIMEOUT {self._lock_milliseconds}")

    @property
    def _lock_milliseconds(self) -> int:
        """How long to wait for a lock; the server takes at most 24 days."""
        return min(max(1, int(self._lock_wait * 1000)), 2**31 - 1)

    @property
    def where(self) -> str:
        """The name of the database in messages."""
        return self._where

    @property
    def _tds(self) -> Any:
        """The driver's connection; None if it is closed."""
        return self._connection._tds_socket

    def interrupt(self) -> None:
        self._channel.shutdown()

    def _shut_socket(self) -> None:
        self._channel.shutdown()

    @contextmanager
    def typed(self) -> Iterator[None]:
        """Turn errors of the driver into our own, without row values."""
        try:
            yield
        except self._driver.Error as error:
            raise self._classified(error) from None
        except OSError as error:
            self._close_broken()
            number = -2 if isinstance(error, TimeoutError) else 0
            raise classified(number, self._where, broken=True, deadline=self._deadline) from None
        except UnicodeEncodeError:
            raise unencodable() from None

    def _classified(self, error: Exception) -> FlowRunnerError:
        if isinstance(error, self._driver.InterfaceError) or type(error) is self._driver.Error:
            self._close_broken()  # closed by the server, or out of sync
        number = getattr(error, "number", 0) or 0
        return classified(number, self._where, broken=not self._open(), deadline=self._deadline)

    def _open(self) -> bool:
        return self._tds is not None and bool(self._tds.is_connected())

    def _close_broken(self) -> None:
        """Close the connection: after a timeout the next answer could belong to any request."""
        with suppress(OSError, self._driver.Error):
            self._tds.close()

    def submit(self, text: str, values: Mapping[str, Any]) -> Any:
        """Run a statement, with values through ``sp_executesql``; return the cursor at its first result."""
        cursor = self._connection.cursor()
        session = cursor._session
        if not values:
            session.submit_plain_query(text)
        else:
            types = driver("pytds.tds_types")
            parameters = [
                session.make_param(name, types.Binary(value) if isinstance(value, bytes) else value)
                for name, value in values.items()
            ]
            declarations = ",".join(f"{parameter.name} {parameter.type.get_declaration()}" for parameter in parameters)
            called = driver("pytds.tds_base").SP_EXECUTESQL
            session.submit_rpc(
                called, [session.make_param("", text), session.make_param("", declarations), *parameters], 0
            )
        session.begin_response()
        session.find_result_or_done()
        return cursor

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        parts = sql.split("\0")  # names hold no NUL
        numbers = parts[1::2]
        parts[1::2] = ["NULL" if values[int(number) - 1] is None else f"@P{number}" for number in numbers]
        used = {f"@P{number}": values[int(number) - 1] for number in numbers if values[int(number) - 1] is not None}
        with self.typed():
            cursor = self.submit("".join(parts), used)
            rows: list[Row] = list(cursor.fetchall()) if cursor.description else []
            while cursor.nextset():
                pass
            return rows

    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        level = LEVELS[isolation]
        if read_only and isolation == "repeatable read":
            state = self.run("SELECT snapshot_isolation_state FROM sys.databases WHERE database_id = DB_ID()")
            level = "SNAPSHOT" if state and state[0][0] == 1 else "SERIALIZABLE"
        self.run(f"SET TRANSACTION ISOLATION LEVEL {level}")
        self.run("BEGIN TRANSACTION")
        self._transaction_open = True

    def acquire_lock(self, key: str) -> None:
        parameters = {
            "@Resource": f"flowrunner:{key}"[:255], "@LockMode": "Exclusive", "@LockOwner": "Session",
            "@LockTimeout": self._lock_milliseconds,
        }  # fmt: skip
        with self.typed():
            cursor = self._connection.cursor()
            cursor.callproc("sp_getapplock", parameters)
            while cursor.nextset():
                pass
            status = cursor.get_proc_return_status()
        if status is None or status < 0:
            raise Unavailable(
                f"{self._where}: another attempt of this task is still running", remedy="the retry waits again"
            )

    def run_batch(self, text: str) -> None:
        """Run the statements of a batch; raise the first error, whatever the others did."""
        with self.typed():
            cursor = self.submit(text, {})
            while cursor.nextset():
                pass
        self._check_open()

    def execute(self, statement: str, params: Params = None) -> int:
        check_statement(statement)
        text, values = bound(statement, params)
        with self.typed():
            rows = _counted(self.submit(text, values))
        self._check_open()
        return rows

    def _check_open(self) -> None:
        if self._transaction_open and not self._tds.tds72_transaction:
            raise IntegrityError(
                "a statement has ended the transaction; nothing was stored",
                remedy="check the procedures and triggers that it calls for COMMIT or ROLLBACK",
            )

    def column_types(self, query: str, params: Params) -> dict[str, str]:
        return {name: kind_of(declaration) for name, declaration in self._declared(query, params).items()}

    def decimal_precisions(self, query: str, params: Params) -> dict[str, tuple[int, int]]:
        found = {name: digits_of(declaration) for name, declaration in self._declared(query, params).items()}
        return {name: digits for name, digits in found.items() if digits is not None}

    def _declared(self, query: str, params: Params) -> dict[str, str]:
        """Return the columns of a query and their server types."""
        check_query(query)
        text, values = bound(query, params)
        kinds = ", ".join(f"{name} {declared(value)}" for name, value in values.items())
        found = self.run(_DESCRIBE, [text, kinds]) if kinds else self.run(_DESCRIBE_BARE, [text])
        if failed := next((row[2] for row in found if row[2] is not None), None):
            raise classified(int(failed), self._where, broken=False, deadline=self._deadline)
        distinct([row[0] or "" for row in found])
        return {row[0]: row[1] or "" for row in found}

    @contextmanager
    def stream(self, query: str, params: Params, *, batch_rows: int) -> Iterator[Iterator[list[Row]]]:
        check_query(query)
        text, values = bound(query, params)
        with self.typed():
            yield batches(self.submit(text, values), batch_rows)

    def commit(self) -> None:
        if not self._tds.tds72_transaction:
            raise IntegrityError("the transaction is no longer open", remedy="retry the task")
        try:
            self.run("COMMIT TRANSACTION")
        except TransientError:
            if self._open():
                raise
            raise OutcomeUnknown(f"the connection to {self._where} broke at COMMIT") from None
        self._transaction_open = False

    def rollback(self) -> None:
        self._transaction_open = False
        if self._open() and self._tds.tds72_transaction:
            with suppress(TransientError):  # if the connection breaks now, the server rolls back
                self.run("ROLLBACK TRANSACTION")

    def end(self) -> None:
        self._guard.cancel()
        with suppress(OSError, self._driver.Error):
            self._connection.close()

    def savepoint(self, name: str = "flowrunner") -> None:
        self.run(f"SAVE TRANSACTION {self._savepoint_name(name)}")

    def release_savepoint(self, name: str = "flowrunner") -> None:
        """Do nothing: the next savepoint of this name replaces it."""
        del name

    def rollback_to_savepoint(self, name: str = "flowrunner") -> None:
        self._check_open()
        self.run(f"ROLLBACK TRANSACTION {self._savepoint_name(name)}")

    def _savepoint_name(self, name: str) -> str:
        short = name if len(name) <= _SAVEPOINT else f"f_{hashlib.sha256(name.encode()).hexdigest()[:30]}"
        self.sql(name)
        return self.sql(short)

    def locate(self, name: TableName) -> TableName:
        if name.name.text.startswith("#"):
            raise ConfigError(f"{name} would be a temporary table", field="table", remedy="choose another name")
        if name.schema is None:
            name = TableName(name.name, Identifier(self.run("SELECT SCHEMA_NAME()")[0][0] or "dbo"))
        found = find(self, name)
        return name if found is None else found[0]

    def table(self, name: TableName) -> Table | None:
        found = find(self, name)
        if found is None:
            return None
        name, kind = found
        if kind != "U":
            raise ConfigError(f"{name} is not a table", field="table", remedy="load into the underlying table")
        columns = {column.name: column.declaration for column in described_columns(self, name) if not column.computed}
        indexes: dict[int, set[str]] = {}
        for number, column in self.run(UNIQUE_COLUMNS, [object_text(self, name)]):
            indexes.setdefault(number, set()).add(column)
        return Table(name=name, columns=columns, unique=[frozenset(index) for index in indexes.values()])

    def create(
        self, name: TableName, columns: Sequence[Column], *, keys: Sequence[str] = (), may_exist: bool = False
    ) -> None:
        if may_exist and find(self, name) is not None:
            return
        try:
            self.run(create_statement(self, name, columns, keys))
        except AlreadyExists:
            if not may_exist:
                raise

    def lock(self, name: TableName) -> None:
        """Block other writers; readers wait as well unless the database has READ_COMMITTED_SNAPSHOT on."""
        self.run(f"SELECT TOP (1) 1 AS one FROM {self.sql(name)} WITH (UPDLOCK, TABLOCK, HOLDLOCK)")

    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        self.run(f"DROP TABLE IF EXISTS {self.sql(_STAGE)}")
        self.run(mssql_swap.stage_statement(self, _STAGE, table, columns))
        return _STAGE

    def create_replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        return mssql_swap.create_replacement(self, table, columns, name)

    def swap(self, table: Table, replacement: TableName, old_name: TableName) -> None:
        del old_name
        mssql_swap.put_in_place(self, table, replacement)

    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        row, staged = self.sql(mssql_swap.ROW), self.sql(stage)
        last = f"SELECT max({row}) FROM {staged} GROUP BY {self.names(keys)}"
        return self.execute(f"DELETE FROM {staged} WHERE {row} NOT IN ({last})")

    def merge(self, merge: Merge) -> Merged:
        return mssql_swap.merged(self, merge)

    def describe(self) -> str:
        query = "SELECT @@VERSION, SUSER_SNAME(), DB_NAME(), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE')"
        version, login, database, may = self.run(query)[0]
        first = str(version).partition("\n")[0].strip()
        return f"{first}, database {database}: user {login} {'may' if may else 'may not'} create tables"


def _counted(cursor: Any) -> int:
    """Return the count of the last result: triggers report before the statement that fired them."""
    session = cursor._session
    seen, count = None, 0
    while True:
        if session.res_info is not None and session.res_info is not seen:
            seen, count = session.res_info, sum(1 for _ in cursor)
        elif session.rows_affected >= 0:
            count = int(session.rows_affected)
        if not cursor.nextset():
            return count if session.rows_affected < 0 else int(session.rows_affected)
