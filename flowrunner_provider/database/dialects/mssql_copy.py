"""Bulk loads: one ``INSERT BULK`` per batch, in the open transaction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.model import Copier, Row
from flowrunner_provider.database.dialects.mssql_rows import encoded, encoder, metadata
from flowrunner_provider.database.dialects.mssql_structure import MssqlStructure
from flowrunner_provider.database.dialects.mssql_tables import Described, described_columns
from flowrunner_provider.database.dialects.mssql_wire import driver
from flowrunner_provider.database.identifiers import TableName

__all__ = ["MssqlBulkLoad"]


class MssqlBulkLoad(MssqlStructure):
    """The part of a session that loads rows in bulk."""

    @abstractmethod
    def typed(self) -> AbstractContextManager[None]:
        """Turn errors of the driver into our own."""

    @abstractmethod
    def submit(self, text: str, values: Mapping[str, Any]) -> Any:
        """Run a statement; return the cursor at its first result."""

    @property
    @abstractmethod
    def _tds(self) -> Any:
        """The driver's connection."""

    @contextmanager
    def copy(self, table: TableName, columns: Sequence[str]) -> Iterator[Copier]:
        known = {column.name: column for column in described_columns(self, table)}
        missing = [name for name in columns if name not in known]
        if missing:
            raise ConfigError(f"{table} has no column {missing[0]!r}", field="column_map", remedy="correct its case")
        yield _Copier(self, table, [known[name] for name in columns])

    def bulk(self, statement: str, head: bytes, rows: bytes) -> int:
        """Run ``INSERT BULK`` with encoded rows; return the count that the server reports."""
        with self.typed():
            cursor = self.submit(statement, {})
            session = cursor._session
            with session.querying_context(driver("pytds.tds_base").PacketType.BULK):
                session._writer.write(head)
                session._writer.write(memoryview(rows))
            session.process_simple_request()
            return int(session.rows_affected)

    @property
    def collation(self) -> bytes:
        """The collation of texts in bulk loads: the server's own."""
        found = self._tds.collation
        return bytes(found.pack()) if found is not None else bytes(5)


class _Copier:
    def __init__(self, session: MssqlBulkLoad, table: TableName, columns: Sequence[Described]) -> None:
        self._session, self.rows = session, 0
        self._encoders = [encoder(column) for column in columns]
        kinds = zip(columns, self._encoders, strict=True)
        defined = ", ".join(f"{session.sql(column.name)} {coder.declaration}" for column, coder in kinds)
        options = "CHECK_CONSTRAINTS, FIRE_TRIGGERS, KEEP_NULLS"
        self._statement = f"INSERT BULK {session.sql(table)} ({defined}) WITH ({options})"
        self._head = metadata(columns, self._encoders, session.collation)

    def write(self, rows: Sequence[Row]) -> None:
        if rows:
            self.rows += self._session.bulk(self._statement, self._head, encoded(rows, self._encoders))
