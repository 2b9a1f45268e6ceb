"""What every part of a session speaks in: names as SQL, and statements that are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Params, Row, Type

__all__ = ["Speaking"]


class Speaking(ABC):
    """What the parts of a session are made on."""

    kind: ClassVar[str]
    quoting: ClassVar[Quoting]
    types: ClassVar[Mapping[Type, str]]

    def sql(self, name: TableName | Identifier | str) -> str:
        """A name as SQL; text is one name."""
        return (Identifier(name) if isinstance(name, str) else name).quoted(self.quoting)

    def names(self, columns: Sequence[str], prefix: str = "") -> str:
        """Names of columns as SQL, with commas."""
        return ", ".join(prefix + self.sql(column) for column in columns)

    def same(self, keys: Sequence[str], one: str = "t", other: str = "s") -> str:
        """The condition that rows of two tables have the same keys."""
        return " AND ".join(f"{one}.{self.sql(key)} = {other}.{self.sql(key)}" for key in keys)

    @abstractmethod
    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and return its rows, if it has any."""

    @abstractmethod
    def execute(self, statement: str, params: Params = None) -> int:
        """Run one statement of the user's, in the placeholder style of the driver; return its count of rows.

        The count is that of the rows that it changed or, for a query, returned; 0 where there is none.
        Several statements in one text are refused.
        """
