"""The types that sessions and their callers share: rows, columns, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flowrunner_provider.core.errors import Unavailable
from flowrunner_provider.database.identifiers import TableName

__all__ = [
    "Column",
    "Conflict",
    "Copier",
    "CsvFile",
    "Merge",
    "Merged",
    "OnBlock",
    "Params",
    "Row",
    "Table",
    "Type",
]  # fmt: skip

Row = tuple[Any, ...]

Params = Sequence[Any] | Mapping[str, Any] | None
"""Values for the placeholders of a user's statement, positional or named; None if it has none."""

OnBlock = Callable[[bytes, int, tuple[str | None, ...]], None]
"""Receives a block of rows, their number, and the text of the values that they share."""

Type = Literal[
    "string", "integer", "number", "decimal", "boolean", "object", "array", "date", "time", "timestamp", "binary"
]  # fmt: skip
"""A dataset type; ``null`` and ``mixed`` count as ``string``."""


class Conflict(Unavailable):
    """The transaction lost against another one (deadlock, serialization failure) and must be repeated."""


@dataclass(frozen=True)
class Column:
    """A column to create."""

    name: str
    type: Type


@dataclass(frozen=True, kw_only=True)
class Table:
    """An existing table.

    :param columns: name -> the database's own type name, without generated columns.
    :param unique: the sets of unique columns, without partial and deferrable indexes.
    """

    name: TableName
    columns: dict[str, str]
    unique: list[frozenset[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """How many staged rows an upsert inserted, used for updates, or skipped."""

    inserted: int
    updated: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Merge:
    """An upsert of staged rows.

    :param updates: the columns to update when the keys exist; None for all other than the keys, empty to skip the row.
    """

    stage: TableName
    table: TableName
    columns: Sequence[str]
    keys: Sequence[str]
    updates: Sequence[str] | None = None

    @property
    def rest(self) -> list[str]:
        """The columns to update."""
        if self.updates is None:
            return [column for column in self.columns if column not in self.keys]
        return list(self.updates)

    def done(self, *, inserted: int, known: int) -> Merged:
        """Return the counts.

        :param known: how many rows had keys that existed.
        """
        return Merged(inserted=inserted, updated=known if self.rest else 0, skipped=0 if self.rest else known)


@dataclass(frozen=True, kw_only=True)
class CsvFile:
    """A CSV file with a header, for a database that reads CSV itself.

    :param width: the number of columns; set by the load.
    :param null_text: the text that means NULL, quoted or not; None if there is none.
    """

    path: str
    width: int = 0
    delimiter: str
    encoding: str
    null_text: str | None


class Copier(Protocol):
    """Takes rows in bulk; ``rows`` is the count that the database reports after the context has ended."""

    rows: int

    def write(self, rows: Sequence[Row]) -> None:
        """Store a batch."""
