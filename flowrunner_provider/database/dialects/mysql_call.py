"""Stored procedures of MySQL and MariaDB: outputs go through session variables, and there may be many result sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from flowrunner_provider.database.dialects.calling import Argument, Call, ResultSet, check_directions
from flowrunner_provider.database.dialects.mysql_query import filled
from flowrunner_provider.database.dialects.mysql_wire import unbuffered
from flowrunner_provider.database.dialects.structure import SchemaOperations
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    from pymysql.connections import Connection

__all__ = ["MysqlCalls"]

_BATCH = 1_000
_IN_TRANSACTION = 1  # of the status that the server sends with every OK


class MysqlCalls(SchemaOperations):
    """The part of a session that calls procedures and functions."""

    if TYPE_CHECKING:
        _connection: Connection

        @abstractmethod
        def typed(self) -> AbstractContextManager[None]: ...

    @contextmanager
    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> Iterator[Call]:
        check_directions(arguments)
        place = self.sql(name).replace("%", "%%")
        variables = [f"@flowrunner_{n}" if item.direction != "in" else "" for n, item in enumerate(arguments)]
        marks = ", ".join(variable or "%s" for variable in variables)
        given = [item.value for item in arguments if item.direction == "in"]
        head = "SELECT {}({}) AS result" if function else "CALL {}({})"
        statement = filled(self._connection.literal, head.format(place, marks), given)
        with self.typed():
            for variable, item in zip(variables, arguments, strict=True):
                if variable:
                    value = None if item.direction == "out" else item.value
                    with self._connection.cursor() as setting:
                        setting.execute(filled(self._connection.literal, f"SET {variable} = %s", [value]))
            with unbuffered(self._connection) as cursor:
                cursor.execute(statement)
                call = Call(sets=_sets(cursor))
                yield call
        call.outputs.update(self._outputs(variables, arguments))

    def _outputs(self, variables: Sequence[str], arguments: Sequence[Argument]) -> dict[str, Any]:
        wanted = [(variable, item.name) for variable, item in zip(variables, arguments, strict=True) if variable]
        if not wanted:
            return {}
        row = self.run(f"SELECT {', '.join(variable for variable, _ in wanted)}")[0]
        return {name: value for (_, name), value in zip(wanted, row, strict=True)}

    def in_transaction(self) -> bool:
        return bool(self._connection.server_status & _IN_TRANSACTION)


def _sets(cursor: Any) -> Iterator[ResultSet]:
    while True:
        if cursor.description:
            columns = [column[0] for column in cursor.description]
            yield ResultSet(columns=columns, batches=iter(lambda: list(cursor.fetchmany(_BATCH)), []))
        if not cursor.nextset():
            return
