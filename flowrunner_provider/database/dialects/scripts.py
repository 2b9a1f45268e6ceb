"""Whole scripts of SQL, as migrations run them: what each database does with them in its own way.

Nothing here parses SQL. PostgreSQL and MySQL take a script as one message and divide it themselves; SQLite's own
tokenizer says where a statement ends. ``sqlglot`` only reads the first words, to refuse what cannot go well.
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

    :param session: nobody else uses it.
    """

    transactional: ClassVar[bool] = True
    """A script with changes of structures and the record of it commit together."""
    dialect: ClassVar[str]
    """What ``sqlglot`` calls the database."""

    def __init__(self, session: S) -> None:
        self.session = session

    @abstractmethod
    def exclusive(self) -> None:
        """Wait until no other run of migrations is at work in this database; then be the one, until the end.

        :raises Unavailable: if that takes longer than the connection's lock_timeout.
        """

    @abstractmethod
    def run(self, script: str) -> None:
        """Run the statements of a script in the open transaction.

        :raises IntegrityError: if one of them has ended the transaction.
        """

    def run_alone(self, statement: str) -> None:
        """Run one statement without a transaction; several are refused."""
        self.session.execute(statement)

    @classmethod
    @abstractmethod
    def literal(cls, text: str) -> str:
        """A text as SQL."""

    @classmethod
    def check(cls, script: str, file: str) -> None:
        """Refuse a script that would end the transaction which it is to run in."""
        for number, word in statements(script, cls.dialect):
            if word in _CONTROL:
                raise ConfigError(
                    f"{file}, line {number}: {word} would act on the transaction itself",
                    field="location",
                    remedy="leave it away: each script has a transaction of its own",
                )


def statements(script: str, dialect: str) -> Iterator[tuple[int, str]]:
    """The line and the first word of each statement, as far as they can be told apart."""
    first = True
    for token in tokens(script, dialect):
        if token.token_type.name == "SEMICOLON":
            first = True
        elif first:
            first = False
            yield token.line, str(token.text).upper()


def tokens(script: str, dialect: str) -> list[Any]:
    """What ``sqlglot`` takes the script for; nothing if it cannot: then the database has the last word."""
    sqlglot = load("sqlglot", extra="migrate", needed_for="sql.migrate")
    try:
        return list(sqlglot.tokenize(script, read=dialect))
    except sqlglot.errors.SqlglotError:
        return []


@contextmanager
def failed_at(place: str) -> Iterator[None]:
    """Say in an error where in a script it was; advice about rows of a source does not apply.

    :param place: may be empty.
    """
    try:
        yield
    except FlowRunnerError as error:
        error.message = f"{place}{': ' if place else ''}{error.message}"
        if isinstance(error, PermanentError):
            error.remedy = "correct the script"
        raise
