"""What a session and those who work with it talk about: rows, columns, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flowrunner_provider.core.errors import Unavailable
from flowrunner_provider.database.identifiers import TableName

__all__ = [
    "Column", "Conflict", "Copier", "CsvFile", "Merge", "Merged", "Params", "Passed", "Row", "Table", "Type",
]  # fmt: skip

Row = tuple[Any, ...]

Params = Sequence[Any] | Mapping[str, Any] | None
"""Values for the placeholders of a user's statement, by place or by name; None: it has none."""

Passed = Callable[[bytes, int, tuple[str | None, ...]], None]
"""Takes a block of rows, their number, and the text of what they have in common."""

Type = Literal[
    "string", "integer", "number", "decimal", "boolean", "object", "array", "date", "time", "timestamp", "binary"
]  # fmt: skip
"""What a column holds, in the words of a dataset; ``null`` and ``mixed`` count as ``string``."""


class Conflict(Unavailable):
    """The database undid the transaction because of another one (deadlock, serialization failure): do it again."""


@dataclass(frozen=True)
class Column:
    """A column to create."""

    name: str
    type: Type


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that is there.

    :param columns: name -> its type as the database calls it, without columns that it fills itself.
    :param unique: the sets of columns that are unique, without partial and deferrable indexes.
    """

    name: TableName
    columns: dict[str, str]
    unique: list[frozenset[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What an upsert did with the staged rows."""

    inserted: int
    updated: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Merge:
    """An upsert of staged rows.

    :param updates: what is updated of a row whose keys are there; None for every column that is no key, nothing to
        skip the row.
    """

    stage: TableName
    table: TableName
    columns: Sequence[str]
    keys: Sequence[str]
    updates: Sequence[str] | None = None

    @property
    def rest(self) -> list[str]:
        """What is updated."""
        if self.updates is None:
            return [column for column in self.columns if column not in self.keys]
        return list(self.updates)

    def done(self, *, inserted: int, known: int) -> Merged:
        """What came of it.

        :param known: how many rows had keys that were there.
        """
        return Merged(inserted=inserted, updated=known if self.rest else 0, skipped=0 if self.rest else known)


@dataclass(frozen=True, kw_only=True)
class CsvFile:
    """A CSV file with a header, for a database that reads such files itself.

    :param width: how many columns it has; the load sets it.
    :param null_text: the text that is NULL, quoted or not; None for none.
    """

    path: str
    width: int = 0
    delimiter: str
    encoding: str
    null_text: str | None


class Copier(Protocol):
    """Takes rows in bulk; ``rows`` is what the database says it has stored, once the context has ended."""

    rows: int

    def write(self, rows: Sequence[Row]) -> None:
        """Store a batch."""
