"""Calls of stored procedures and functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.speaking import Speaking

if TYPE_CHECKING:
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Argument", "Call", "Calling", "Direction", "ResultSet", "check_directions"]

Direction = Literal["in", "out", "inout", "return"]


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument.

    :param name: of an output in the result, where the database does not name it; in SQL Server one that begins with
        ``@`` is the parameter's.
    :param direction: ``return`` is the return code of a procedure of SQL Server.
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


def check_directions(arguments: Sequence[Argument]) -> None:
    """Refuse what only SQL Server has.

    :raises ConfigError: if a return code is asked for.
    """
    if any(item.direction == "return" for item in arguments):
        raise ConfigError(
            "procedures of this connection's database have no return code", field="arguments", remedy="leave it away"
        )


class Calling(Speaking):
    """A part of every session."""

    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> AbstractContextManager[Call]:
        """Call it, in the transaction if one is open."""
        raise ConfigError(
            "this connection's database has no stored procedures",
            field="conn_id",
            remedy="use a connection to PostgreSQL, MySQL or SQL Server, or sql.transaction with the statements",
        )

    def in_transaction(self) -> bool:
        """Whether the transaction is still open; a procedure may have ended it."""
        return True
