"""The part of a session that calls stored procedures and functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.statements import StatementRunner

if TYPE_CHECKING:
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["Argument", "Call", "Direction", "ResultSet", "RoutineCalls", "check_directions"]

Direction = Literal["in", "out", "inout", "return"]


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument of a call.

    :param name: names an output in the result where the database does not; with ``@``, a parameter of SQL Server.
    :param direction: ``return`` is the return code of a SQL Server procedure.
    """

    name: str
    direction: Direction
    value: Any


@dataclass(frozen=True, kw_only=True)
class ResultSet:
    """A result set of a call; its rows must be read before the next set is."""

    columns: list[str]
    batches: Iterator[list[tuple[Any, ...]]]


@dataclass(kw_only=True)
class Call:
    """A call in progress.

    :param sets: the result sets; ``outputs`` is filled when all of them have been read.
    """

    sets: Iterator[ResultSet]
    outputs: dict[str, Any] = field(default_factory=dict)


def check_directions(arguments: Sequence[Argument]) -> None:
    """Raise if an argument asks for a return code, which only SQL Server has.

    :raises ConfigError: naming ``arguments``.
    """
    if any(item.direction == "return" for item in arguments):
        raise ConfigError(
            "procedures of this connection's database have no return code", field="arguments", remedy="remove it"
        )


class RoutineCalls(StatementRunner):
    """The call part of every session."""

    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> AbstractContextManager[Call]:
        """Call a procedure or function, in the transaction if one is open."""
        raise ConfigError(
            "this connection's database has no stored procedures",
            field="conn_id",
            remedy="use a connection to PostgreSQL, MySQL or SQL Server, or sql.transaction with the statements",
        )

    def in_transaction(self) -> bool:
        """Return whether the transaction is still open; a procedure may have ended it."""
        return True
