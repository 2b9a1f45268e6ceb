"""Scripts in MySQL and MariaDB: one message of several statements, which the server splits itself.

The server parses procedure bodies, so ``DELIMITER`` is not needed. DDL commits implicitly: a script is not one
transaction.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Unavailable
from flowrunner_provider.database.dialects.mysql import MysqlSession
from flowrunner_provider.database.dialects.mysql_errors import number_of
from flowrunner_provider.database.dialects.scripts import Scripts, failed_at, tokens

__all__ = ["MysqlScripts"]

_SET_OPTION = 0x1B
_EMPTY_QUERY = 1065
_IN_TRANSACTION = 1
_DELIMITER = re.compile(r"^[ \t]*DELIMITER\b", re.IGNORECASE | re.MULTILINE)


class MysqlScripts(Scripts[MysqlSession]):
    """Runs scripts; the history records one that was interrupted after DDL."""

    transactional = False
    dialect = "mysql"

    def exclusive(self) -> None:
        try:
            self.session.acquire_lock("migrations:" + str(self.session.run("SELECT DATABASE()")[0][0])[:40])
        except Unavailable as error:
            error.message = f"{self.session._where}: another run of migrations is active"
            raise

    def run(self, script: str) -> None:
        session, done = self.session, 0
        with _several(session._connection):
            try:
                with session._connection.cursor() as cursor:
                    cursor.execute(_without_end(script))
                    done = 1
                    while cursor.nextset():
                        done += 1
            except session._driver.Error as error:
                if number_of(error) != _EMPTY_QUERY or not done:
                    with failed_at(f"statement {done + 1}"), session.typed():
                        raise
                raise IntegrityError(
                    "a statement is empty, and the statements after it did not run",
                    remedy="remove the superfluous semicolon",
                ) from None
        if not session._connection.server_status & _IN_TRANSACTION:
            session._begin_again()

    def run_alone(self, statement: str) -> None:
        with self.session.typed(), self.session._connection.cursor() as cursor:
            cursor.execute(statement)

    @classmethod
    def literal(cls, text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"

    @classmethod
    def check(cls, script: str, file: str) -> None:
        """Raise for commands of the ``mysql`` client; transaction statements are allowed."""
        tokens(script, cls.dialect)  # so that a missing package fails before anything runs
        if _DELIMITER.search(script):
            raise ConfigError(
                f"{file}: DELIMITER is a command of the mysql client",
                field="location",
                remedy="remove it, and end procedures with ';': the server finds their end",
            )


def _without_end(script: str) -> str:
    """Strip comments and semicolons after the last statement, which the server would take for another one."""
    found = tokens(script, "mysql")
    while found and found[-1].token_type.name == "SEMICOLON":
        found.pop()
    end = found[-1].end + 1 if found else len(script)
    return script if any(mark in script[end:] for mark in ("/*!", "/*M!")) else script[:end]


@contextmanager
def _several(connection: Any) -> Iterator[None]:
    """Allow several statements in one message meanwhile."""
    _set_option(connection, 0)
    try:
        yield
    finally:
        if connection.open:
            _set_option(connection, 1)


def _set_option(connection: Any, number: int) -> None:
    connection._execute_command(_SET_OPTION, struct.pack("<H", number))
    connection._read_packet()
