"""Calls of stored procedures and functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError

if TYPE_CHECKING:
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Argument", "Call", "Calling", "Direction", "ResultSet"]

Direction = Literal["in", "out", "inout"]


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument.

    :param name: of an output in the result, where the database does not name it.
    """

    name: str
    direction: Direction
    value: Any


@dataclass(frozen=True, kw_only=True)
class ResultSet:
    """Rows that a call returns, which are read before the next ones come."""

    columns: list[str]
    batches: Iterator[list[tuple[Any, ...]]]


@dataclass(kw_only=True)
class Call:
    """A call under way.

    :param sets: all of them must be read to their ends; then ``outputs`` are known.
    """

    sets: Iterator[ResultSet]
    outputs: dict[str, Any] = field(default_factory=dict)


class Calling:
    """A part of every session."""

    no_calls: ClassVar[str] = "this connection's database has no stored procedures"
    """Why nothing can be called."""

    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> AbstractContextManager[Call]:
        """Call it, in the transaction if one is open."""
        raise ConfigError(
            self.no_calls,
            field="conn_id",
            remedy="use a connection to PostgreSQL or MySQL, or sql.transaction with the statements (EXEC is one)",
        )

    def in_transaction(self) -> bool:
        """Whether the transaction is still open; a procedure may have ended it."""
        return True
