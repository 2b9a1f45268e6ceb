"""Running SQL scripts, for migrations.

Nothing here parses SQL. PostgreSQL and MySQL take a script as one message and split it themselves; SQLite's own
tokenizer finds where a statement ends. ``sqlglot`` only reads the first words, to refuse what cannot work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, PermanentError
from flowrunner_provider.core.extras import load
from flowrunner_provider.database.dialects.base import Session

__all__ = ["Scripts", "failed_at", "statements", "tokens"]

S = TypeVar("S", bound=Session)

_CONTROL = frozenset({"ABORT", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "START"})


class Scripts(ABC, Generic[S]):
    """Runs scripts in a session.

    :param session: used by nothing else meanwhile.
    """

    transactional: ClassVar[bool] = True
    """Whether a script with DDL commits together with its history row."""
    dialect: ClassVar[str]
    """The name of the dialect in ``sqlglot``."""

    def __init__(self, session: S) -> None:
        self.session = session

    @abstractmethod
    def exclusive(self) -> None:
        """Acquire the migration lock of the database, until the session ends.

        :raises Unavailable: if another run holds it for longer than the connection's lock_timeout.
        """

    @abstractmethod
    def run(self, script: str) -> None:
        """Run the statements of a script in the open transaction.

        :raises IntegrityError: if one of them has ended the transaction.
        """

    def run_alone(self, statement: str) -> None:
        """Run one statement outside of a transaction; several are refused."""
        self.session.execute(statement)

    @classmethod
    @abstractmethod
    def literal(cls, text: str) -> str:
        """Return a text as an SQL literal."""

    @classmethod
    def check(cls, script: str, file: str) -> None:
        """Raise if a script would end the transaction that it runs in.

        :raises ConfigError: naming file and line.
        """
        for number, word in statements(script, cls.dialect):
            if word in _CONTROL:
                raise ConfigError(
                    f"{file}, line {number}: {word} would change the transaction of the script",
                    field="location",
                    remedy="remove it: each script runs in its own transaction",
                )


def statements(script: str, dialect: str) -> Iterator[tuple[int, str]]:
    """Yield line and first word of each statement, as far as ``sqlglot`` can split the script."""
    first = True
    for token in tokens(script, dialect):
        if token.token_type.name == "SEMICOLON":
            first = True
        elif first:
            first = False
            yield token.line, str(token.text).upper()


def tokens(script: str, dialect: str) -> list[Any]:
    """Return the tokens of a script; none if ``sqlglot`` cannot read it, and the database decides."""
    sqlglot = load("sqlglot", extra="migrate", needed_for="sql.migrate")
    try:
        return list(sqlglot.tokenize(script, read=dialect))
    except sqlglot.errors.SqlglotError:
        return []


@contextmanager
def failed_at(place: str) -> Iterator[None]:
    """Add the place in the script to errors, and replace remedies about source rows.

    :param place: the file or line; may be empty.
    """
    try:
        yield
    except FlowRunnerError as error:
        error.message = f"{place}{': ' if place else ''}{error.message}"
        if isinstance(error, PermanentError):
            error.remedy = "correct the script"
        raise
