"""Procedures and functions of PostgreSQL: a function is a query, and a procedure returns one row of outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from flowrunner_provider.database.dialects.calling import Argument, Call, ResultSet, check_directions
from flowrunner_provider.database.dialects.postgres_query import adapted, opened
from flowrunner_provider.database.dialects.structure import SchemaOperations
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresCalls"]

_BATCH = 1_000


class PostgresCalls(SchemaOperations):
    """The part of a session that calls procedures and functions."""

    if TYPE_CHECKING:
        _connection: psycopg.Connection[tuple[Any, ...]]
        _driver: Any

        def typed(self) -> AbstractContextManager[None]: ...

    @contextmanager
    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> Iterator[Call]:
        check_directions(arguments)
        marks = ", ".join("NULL" if item.direction == "out" else "%s" for item in arguments)
        params = [item.value for item in arguments if item.direction != "out"]
        place = self.sql(name).replace("%", "%%")
        if function:
            query = f"SELECT * FROM {place}({marks})"  # noqa: S608 - the name is quoted
            with self.typed(), opened(self._connection, query, params) as cursor:
                columns = [column.name for column in cursor.description or ()]
                batches = iter(lambda: list(cursor.fetchmany(_BATCH)), [])
                yield Call(sets=iter([ResultSet(columns=columns, batches=batches)]))
            return
        with self.typed(), self._driver.Cursor(self._connection) as cursor:
            cursor.execute(f"CALL {place}({marks})", adapted(params), binary=True)
            rows = cursor.fetchall() if cursor.description else []
            names = [column.name for column in cursor.description or ()]
            yield Call(sets=iter(()), outputs=dict(zip(names, rows[0], strict=True)) if rows else {})

    def in_transaction(self) -> bool:
        status = self._driver.pq.TransactionStatus  # a failed transaction is open until it is rolled back
        return self._connection.info.transaction_status in (status.INTRANS, status.INERROR)
