"""Scripts in SQL Server: batches separated by ``GO``, which run one by one in one transaction.

Nearly all DDL is transactional. What is not (``ALTER DATABASE``, full-text indexes) needs a separate script without
a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected, Unavailable
from flowrunner_provider.database.dialects.mssql import MssqlSession
from flowrunner_provider.database.dialects.mssql_call import STATE
from flowrunner_provider.database.dialects.mssql_query import tokens
from flowrunner_provider.database.dialects.mssql_structure import text_literal
from flowrunner_provider.database.dialects.scripts import Scripts, failed_at

__all__ = ["MssqlScripts", "divided"]

_MOST_REPEATS = 10_000
_MODULES = frozenset({"PROC", "PROCEDURE", "FUNCTION", "TRIGGER", "VIEW"})
_SILENT = frozenset({"NOEXEC", "PARSEONLY", "FMTONLY", "SHOWPLAN_ALL", "SHOWPLAN_TEXT", "SHOWPLAN_XML"})
"""Settings that keep the server from running anything, including the history row of the script."""


class MssqlScripts(Scripts[MssqlSession]):
    """DDL is transactional, so a script and its history row commit together."""

    dialect = "tsql"

    def exclusive(self) -> None:
        try:
            self.session.acquire_lock("migrations")
        except Unavailable as error:
            error.message = f"{self.session.where}: another run of migrations is active"
            raise

    def run(self, script: str) -> None:
        session = self.session
        before = session.run(STATE)
        for line, batch in divided(script):
            with failed_at(f"batch in line {line}"):
                session.run_batch(batch)
        if session.run(STATE) != before:
            raise IntegrityError("a statement has ended or begun a transaction", remedy="remove it")

    def run_alone(self, statement: str) -> None:
        """Run one statement; a text with a semicolon inside or a ``GO`` counts as several and is refused."""
        words = [word for word, kind, _ in tokens(statement, "location") if kind != "space"]
        while words and words[-1] == ";":
            words.pop()
        if ";" in words or len(list(divided(statement))) != 1:
            raise Rejected("a script without a transaction has more than one statement", remedy="write one")
        self.session.run_batch(statement)

    @classmethod
    def literal(cls, text: str) -> str:
        return text_literal(text)

    @classmethod
    def check(cls, script: str, file: str) -> None:
        for start, batch in divided(script):
            words = [
                (word.upper(), start + line - 1) for word, kind, line in tokens(batch, "location") if kind == "word"
            ]
            if _makes_a_module([word for word, _ in words]):
                continue
            following = [word for word, _ in words[1:]] + [""]
            for (word, line), after in zip(words, following, strict=True):
                if word in ("COMMIT", "ROLLBACK") or (
                    word in ("BEGIN", "SAVE") and after in ("TRAN", "TRANSACTION", "DISTRIBUTED")
                ):
                    raise ConfigError(
                        f"{file}, line {line}: {word} would change the transaction of the script",
                        field="location",
                        remedy="remove it: each script runs in its own transaction",
                    )
                if (word == "USE" and after not in ("HINT", "PLAN")) or word in _SILENT:
                    raise ConfigError(
                        f"{file}, line {line}: after {word} the history row of the script would be lost",
                        field="location",
                        remedy="remove it; the database is the schema of the connection",
                    )


def _makes_a_module(words: list[str]) -> bool:
    """Return whether a batch creates a procedure or similar module, whose body runs only when called."""
    head = [word for word in words[:4] if word not in ("OR", "ALTER", "CREATE")]
    return words[:1] in (["CREATE"], ["ALTER"]) and bool(head) and head[0] in _MODULES


def divided(script: str) -> Iterator[tuple[int, str]]:
    """Yield each batch, repeated as ``GO`` says, with its first line.

    ``GO`` must stand on its own line, alone or with a number, outside of quotes and comments.

    :raises ConfigError: if a quotation or comment does not end, or a number is invalid.
    """
    lines = script.split("\n")
    begun, found = 1, []
    for word, kind, line in tokens(script, "location"):
        if kind == "word" and word.upper() == "GO" and lines[line - 1].split("--")[0].split()[:1] == [word]:
            found.append(line)
    for line in [*found, len(lines) + 1]:
        batch, times = "\n".join(lines[begun - 1 : line - 1]), 1
        if line <= len(lines):
            more = lines[line - 1].split("--")[0].split()[1:]
            times = int(more[0]) if len(more) == 1 and more[0].isdecimal() and len(more[0]) < 6 else 0 if more else 1
            if not 1 <= times <= _MOST_REPEATS:
                raise ConfigError(
                    f"line {line}: GO must stand alone, or before a number up to {_MOST_REPEATS}",
                    field="location",
                    remedy="correct the line",
                )
        if any(kind != "space" for _, kind, _ in tokens(batch, "location")):
            blank = batch[: len(batch) - len(batch.lstrip())]
            for _ in range(times):
                yield begun + blank.count("\n"), batch.lstrip()
        begun = line + 1
