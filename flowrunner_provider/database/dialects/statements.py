"""The base of all parts of a session: quoting names and running statements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Params, Row, Type

__all__ = ["StatementRunner"]


class StatementRunner(ABC):
    """The base of all parts of a session."""

    kind: ClassVar[str]
    quoting: ClassVar[Quoting]
    types: ClassVar[Mapping[Type, str]]

    def sql(self, name: TableName | Identifier | str) -> str:
        """Quote a name; a text is a single name."""
        return (Identifier(name) if isinstance(name, str) else name).quoted(self.quoting)

    def names(self, columns: Sequence[str], prefix: str = "") -> str:
        """Return a quoted, comma-separated list of column names."""
        return ", ".join(prefix + self.sql(column) for column in columns)

    def same(self, keys: Sequence[str], alias: str = "t", other_alias: str = "s") -> str:
        """Return the condition that rows of two tables have the same keys."""
        return " AND ".join(f"{alias}.{self.sql(key)} = {other_alias}.{self.sql(key)}" for key in keys)

    @abstractmethod
    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run one of our own statements and return its rows, if any."""

    @abstractmethod
    def execute(self, statement: str, params: Params = None) -> int:
        """Run one user statement, with the driver's placeholders; return its row count.

        The count is of the rows that were changed or, by a query, returned; 0 if there are none. A text with several
        statements is refused.
        """
