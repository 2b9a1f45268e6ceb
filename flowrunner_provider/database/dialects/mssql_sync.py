"""The sync part of a SQL Server session, which comparisons and watchers use as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.mssql_tables import identity_insert
from flowrunner_provider.database.dialects.syncing import Flag

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Column
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["MssqlSync"]

_IN_PYTHON: Mapping[str, str] = MappingProxyType({"timestamp": "datetime2(6)", "timestamptz": "datetimeoffset(6)"})
"""The types with the precision of Python: ``datetime2`` has one digit more, ``datetime`` has 1/300 s."""


class MssqlSync(Session):
    """The part of a session for syncs."""

    delete_from: ClassVar[str] = "DELETE t FROM {} AS t"
    update_from: ClassVar[str] = "UPDATE t SET {1} FROM {0} AS t"
    count_sql: ClassVar[str] = "COUNT_BIG(*)"
    now_sql: ClassVar[str] = "SYSUTCDATETIME()"

    def add_column(self, table: TableName, column: Column) -> None:
        self.run(f"ALTER TABLE {self.sql(table)} ADD {self.sql(column.name)} {self.types[column.type]} NULL")

    def flag_of(self, kind: str) -> Flag | None:
        if kind.lower() == "bit":
            return Flag("1", "0", "coalesce({}, 0) = 1")
        if kind.lower().startswith(("date", "smalldatetime")):
            return Flag(self.now_sql, "NULL", "{} IS NOT NULL")
        return None

    def exact(self, kind: str, name: str) -> str:
        return f"CONVERT({_IN_PYTHON[kind]}, {name})" if kind in _IN_PYTHON else name

    def bounded(self, kind: str, name: str, sign: str, value: Callable[[], str]) -> str:
        """Return the condition; for timestamps a rough one that can use an index, and the exact one."""
        if kind not in _IN_PYTHON:
            return super().bounded(kind, name, sign, value)
        rough, second = (">=", -1) if sign.startswith(">") else ("<=", 1)
        return f"({name} {rough} DATEADD(second, {second}, {value()}) AND {self.exact(kind, name)} {sign} {value()})"

    def summed(self, kind: str, name: str) -> str:
        """Return the sum; the server would sum whole numbers as ``int``, with overflow."""
        return f"sum(CAST({name} AS decimal(38, 0)))" if kind in ("integer", "boolean") else f"sum({name})"

    def sort_key(self, kind: str, name: str) -> str:
        """Return the sort key; ``uniqueidentifier`` counts as text, but has its own order and no collation."""
        return f"CONVERT(nvarchar(max), {name}) COLLATE Latin1_General_100_BIN2" if kind == "string" else name

    def limit_rows(self, query: str, rows: int) -> str:
        return query.replace("SELECT ", f"SELECT TOP ({rows}) ", 1)

    def nth_row(self, query: str, order: str, skipped: int) -> str:
        return f"{query} ORDER BY {order} OFFSET {skipped} ROWS FETCH NEXT 1 ROWS ONLY"

    def insert_all(self, source: TableName, table: TableName, columns: Sequence[str]) -> None:
        with identity_insert(self, table, columns):
            super().insert_all(source, table, columns)
