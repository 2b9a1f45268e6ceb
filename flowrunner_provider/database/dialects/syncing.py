"""The part of a session for syncs: rows in a wire format that two databases share, watermarks, and deletes."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.statements import StatementRunner

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Column, Params
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Flag", "Form", "Sink", "SyncOperations"]

Form = Literal["pg-binary", "pg-text", "mysql-text"]
"""A wire format of rows that one database writes and another one reads in bulk."""


@dataclass(frozen=True)
class Flag:
    """The SQL by which a column marks a row as deleted.

    :param deleted: the value of a deleted row.
    :param alive: the value of any other row.
    :param says_so: the condition for a deleted row; ``{}`` is the column.
    """

    deleted: str
    alive: str
    says_so: str


class Sink(Protocol):
    """Takes blocks of bytes; ``rows`` is the count that the database reports after the context has ended."""

    rows: int

    def write(self, data: bytes) -> None:
        """Store a block, which may end within a row."""


class SyncOperations(StatementRunner):
    """The sync part of every session. The SQL is what PostgreSQL and SQLite share; the others override it."""

    readable_forms: ClassVar[tuple[Form, ...]] = ()
    """The wire formats that the database reads, fastest first."""
    delete_from: ClassVar[str] = "DELETE FROM {} AS t"
    update_from: ClassVar[str] = "UPDATE {} AS t SET {}"

    def wire_types(self, query: str, params: Params) -> list[int]:
        """Return the server's type numbers of a query's columns; empty where it has none."""
        del query, params
        return []

    def wire_encodings(self, table: TableName, columns: Sequence[str]) -> list[str]:
        """Return for each column how its values must be encoded in the wire format; empty for plain text."""
        del table
        return [""] * len(columns)

    def select_patterns(
        self, form: Form, codes: Sequence[int], encodings: Sequence[str], target: Sequence[int]
    ) -> list[str]:
        """Return the SQL that selects each column for ``form``, with ``{}`` for its name; empty if there is none.

        :param codes: :meth:`wire_types` of the source columns.
        :param encodings: :meth:`wire_encodings` of the target columns.
        :param target: :meth:`wire_types` of the target columns.
        """
        del form, codes, encodings, target
        return []

    def read_blocks(self, query: str, params: Params, form: Form) -> Generator[tuple[bytes, int], None, None]:
        """Yield the rows of a query in blocks with their row counts; finally no bytes and the server's total."""
        raise ConfigError(f"{type(self).__name__} does not write {form}", field="form")

    def open_sink(self, table: TableName, columns: Sequence[str], form: Form) -> AbstractContextManager[Sink]:
        """Return a context that appends rows in that format."""
        raise ConfigError(f"{type(self).__name__} does not read {form}", field="form")

    def interrupt(self) -> None:
        """Cancel what the connection is doing, from another thread; this may end the connection."""

    def exact(self, kind: str, name: str) -> str:
        """Return the SQL for a column in the precision that Python keeps; :meth:`bounded` compares the same.

        :param kind: the column's dataset type.
        """
        del kind
        return name

    def bounded(self, kind: str, name: str, sign: str, value: Callable[[], str]) -> str:
        """Return the condition that compares a column with a value.

        :param sign: ``<``, ``<=``, ``>`` or ``>=``.
        :param value: returns a new placeholder for the value at each call.
        """
        del kind
        return f"{name} {sign} {value()}"

    def summed(self, kind: str, name: str) -> str:
        """Return the SQL that sums a column without overflow."""
        del kind
        return f"sum({name})"

    def insert_all(self, source: TableName, table: TableName, columns: Sequence[str]) -> None:
        """Append these columns of one table to another."""
        names = self.names(columns)
        self.run(f"INSERT INTO {self.sql(table)} ({names}) SELECT {names} FROM {self.sql(source)}")

    def add_column(self, table: TableName, column: Column) -> None:
        """Add a column, which is NULL in existing rows."""
        self.run(f"ALTER TABLE {self.sql(table)} ADD COLUMN {self.sql(column.name)} {self.types[column.type]}")

    def drop_stage(self, stage: TableName) -> None:
        """Drop a temporary table."""
        self.run(f"DROP TABLE {self.sql(stage)}")

    def unlisted(self, listing: TableName, keys: Sequence[str]) -> str:
        """Return the condition that the keys of a row of ``t`` are not in ``listing``, to be used repeatedly."""
        return f"NOT EXISTS (SELECT 1 FROM {self.sql(listing)} AS s WHERE {self.same(keys)})"

    def flag_of(self, kind: str) -> Flag | None:
        """Return how a column of this type marks deleted rows; None if the type cannot."""
        kind = kind.lower()
        if "bool" in kind:
            return Flag("TRUE", "FALSE", "coalesce({}, FALSE)")
        if kind.startswith(("timestamp", "date")):
            return Flag("CURRENT_TIMESTAMP", "NULL", "{} IS NOT NULL")
        return None
