"""The sync part of a MySQL session: rows in the wire format of ``LOAD DATA``, and deletes."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.mysql_load import TEXT_FORMAT, MysqlBulkLoad
from flowrunner_provider.database.dialects.mysql_tables import described_columns, wire_encodings
from flowrunner_provider.database.dialects.syncing import Flag, Form, Sink
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Column, Table

__all__ = ["MysqlSync"]

_PREFIX = "(191)"  # characters of a long text in an index


class MysqlSync(MysqlBulkLoad):
    """The part of a session for syncs."""

    readable_forms: ClassVar[tuple[Form, ...]] = ("mysql-text",)
    delete_from: ClassVar[str] = "DELETE t FROM {} AS t"

    @abstractmethod
    def _shut_socket(self) -> None:
        """Shut the socket down below the driver."""

    @abstractmethod
    def _begin_again(self) -> None:
        """Begin a new transaction after an implicit commit."""

    def interrupt(self) -> None:
        self._shut_socket()

    def wire_encodings(self, table: TableName, columns: Sequence[str]) -> list[str]:
        return wire_encodings(self, table, columns)

    @contextmanager
    def open_sink(self, table: TableName, columns: Sequence[str], form: Form) -> Iterator[Sink]:
        del form
        with self._bulk_stream(table, columns, TEXT_FORMAT, wire_encodings(self, table, columns)) as stream:
            sink = _BulkSink(stream.write)
            yield sink
        sink.rows = stream.affected

    def try_replacement(self, table: Table, name: str) -> TableName | None:
        try:
            return self.create_replacement(table, None, name)
        except ConfigError:
            return None

    def add_column(self, table: TableName, column: Column) -> None:
        """Add a column, which commits the transaction."""
        super().add_column(table, column)
        self._begin_again()

    def drop_stage(self, stage: TableName) -> None:
        self.run(f"DROP TEMPORARY TABLE {self.sql(stage)}")

    def unlisted(self, listing: TableName, keys: Sequence[str]) -> str:
        """Copy the keys into a table with an index, which is the difference between seconds and hours."""
        known = listing.beside("flowrunner_listed")
        long = {name for name, kind, _ in described_columns(self, listing) if kind.endswith(("text", "blob"))}
        index = f"PRIMARY KEY ({self.names(keys)})"
        if long.intersection(keys):  # MariaDB has unique indexes on them, but they can be in an index by a prefix only
            index = f"INDEX ({', '.join(self.sql(key) + (_PREFIX if key in long else '') for key in keys)})"
        self.run(f"DROP TEMPORARY TABLE IF EXISTS {self.sql(known)}")
        self.run(
            f"CREATE TEMPORARY TABLE {self.sql(known)} ({index}) ENGINE=InnoDB"
            f" AS SELECT DISTINCT {self.names(keys)} FROM {self.sql(listing)}"
        )
        return super().unlisted(known, keys)

    def flag_of(self, kind: str) -> Flag | None:
        if kind.lower() in ("tinyint(1)", "bit(1)"):
            return Flag("1", "0", "coalesce({}, 0)")
        return super().flag_of(kind)


class _BulkSink:
    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write, self.rows = write, 0
