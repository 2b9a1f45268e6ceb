"""Scripts in SQLite, statement by statement; its own tokenizer finds where one ends, also for triggers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.database.dialects.scripts import Scripts, failed_at
from flowrunner_provider.database.dialects.sqlite import SqliteSession

__all__ = ["SqliteScripts", "divided"]


class SqliteScripts(Scripts[SqliteSession]):
    """DDL is transactional, so a script and its history row commit together."""

    dialect = "sqlite"

    def exclusive(self) -> None:
        """Do nothing: the write transaction of each script locks the file, and reads the history first."""

    def run(self, script: str) -> None:
        for line, statement in divided(script):
            with failed_at(f"line {line}"):
                self.session.execute(statement)
                if not self.session._connection.in_transaction:
                    raise IntegrityError("a statement has ended the transaction")

    @classmethod
    def literal(cls, text: str) -> str:
        return "'" + text.replace("'", "''") + "'"


def divided(script: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with its first line."""
    start = end = 0
    while (found := script.find(";", end)) >= 0:
        end = found + 1
        if sqlite3.complete_statement(script[start:end]):
            yield _placed(script, start, end)
            start = end
    if script[start:].strip():
        yield _placed(script, start, len(script))


def _placed(script: str, start: int, end: int) -> tuple[int, str]:
    blank = len(script[start:end]) - len(script[start:end].lstrip())
    return script.count("\n", 0, start + blank) + 1, script[start:end]
