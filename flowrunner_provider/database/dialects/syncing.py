"""What a sync asks of a session besides the words of a load: rows in a form that two databases share, and deletes."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.speaking import Speaking

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Column, Params
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Flag", "Form", "Sink", "Syncing"]

Form = Literal["pg-binary", "pg-text", "mysql-text"]
"""A form of rows that a database reads in bulk and another one may write."""


@dataclass(frozen=True)
class Flag:
    """What says in a column that a row is deleted, as SQL.

    :param deleted: the value that says so.
    :param alive: the value that says no.
    :param says_so: the condition; ``{}`` is the column.
    """

    deleted: str
    alive: str
    says_so: str


class Sink(Protocol):
    """Takes blocks of bytes; ``rows`` is what the database says it has stored, once the context has ended."""

    rows: int

    def write(self, data: bytes) -> None:
        """Store a block, which may end within a row."""


class Syncing(Speaking):
    """A part of every session. The SQL is what PostgreSQL and SQLite share; the others override it."""

    takes: ClassVar[tuple[Form, ...]] = ()
    """The forms that it reads, the quickest first."""
    delete_from: ClassVar[str] = "DELETE FROM {} AS t"
    update_from: ClassVar[str] = "UPDATE {} AS t SET {}"

    def wire_types(self, query: str, params: Params) -> list[int]:
        """The server's own numbers of the types of a query's columns; none where it has none."""
        del query, params
        return []

    def wanted(self, table: TableName, columns: Sequence[str]) -> list[str]:
        """How a column that is no text must arrive in this database's form; empty for one that is."""
        del table
        return [""] * len(columns)

    def expressed(self, form: Form, codes: Sequence[int], wanted: Sequence[str], target: Sequence[int]) -> list[str]:
        """How each column is to be selected for ``form``, with ``{}`` for its name; nothing if that cannot be.

        :param codes: :meth:`wire_types` of the columns.
        :param wanted: :meth:`wanted` of their targets.
        :param target: :meth:`wire_types` of their targets.
        """
        del form, codes, wanted, target
        return []

    def give(self, query: str, params: Params, form: Form) -> Generator[tuple[bytes, int], None, None]:
        """The rows of a query in blocks, each with the number of its rows; at last no bytes and the server's count."""
        raise ConfigError(f"{type(self).__name__} does not write {form}", field="form")

    def take(self, table: TableName, columns: Sequence[str], form: Form) -> AbstractContextManager[Sink]:
        """Append rows of that form."""
        raise ConfigError(f"{type(self).__name__} does not read {form}", field="form")

    def interrupt(self) -> None:
        """End what the connection is doing, and perhaps the connection; called from another thread."""

    def exact(self, kind: str, name: str) -> str:
        """A column in the precision that its values have in Python: what :meth:`bounded` compares.

        :param kind: of the column, in the words of a dataset.
        """
        del kind
        return name

    def bounded(self, kind: str, name: str, sign: str, value: Callable[[], str]) -> str:
        """The condition that a column is on one side of a value.

        :param sign: one of ``<``, ``<=``, ``>``, ``>=``.
        :param value: a placeholder for the value, a new one at each call.
        """
        del kind
        return f"{name} {sign} {value()}"

    def summed(self, kind: str, name: str) -> str:
        """The sum of a column, however large."""
        del kind
        return f"sum({name})"

    def insert_all(self, source: TableName, table: TableName, columns: Sequence[str]) -> None:
        """Append these columns of one table to another one."""
        names = self.names(columns)
        self.run(f"INSERT INTO {self.sql(table)} ({names}) SELECT {names} FROM {self.sql(source)}")

    def add_column(self, table: TableName, column: Column) -> None:
        """Add a column, which is empty in the rows that are there."""
        self.run(f"ALTER TABLE {self.sql(table)} ADD COLUMN {self.sql(column.name)} {self.types[column.type]}")

    def drop_stage(self, stage: TableName) -> None:
        """Drop a temporary table."""
        self.run(f"DROP TABLE {self.sql(stage)}")

    def unlisted(self, listing: TableName, keys: Sequence[str]) -> str:
        """The condition that the keys of a row of ``t`` are not in ``listing``; good for a few statements."""
        return f"NOT EXISTS (SELECT 1 FROM {self.sql(listing)} AS s WHERE {self.same(keys)})"

    def flag_of(self, kind: str) -> Flag | None:
        """How a column of that type says that a row is deleted; None for a type that cannot."""
        kind = kind.lower()
        if "bool" in kind:
            return Flag("TRUE", "FALSE", "coalesce({}, FALSE)")
        if kind.startswith(("timestamp", "date")):
            return Flag("CURRENT_TIMESTAMP", "NULL", "{} IS NOT NULL")
        return None
