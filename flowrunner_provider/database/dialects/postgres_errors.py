"""What PostgreSQL says, told as what to do. The server's texts hold values of rows: they are never passed on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.database.dialects.model import Conflict

if TYPE_CHECKING:
    import psycopg

__all__ = ["classified", "connect_failed"]

_PLACE = re.compile(r"COPY .*?, line (\d+)")


def connect_failed(error: psycopg.Error, where: str) -> FlowRunnerError:
    """Why there is no connection. The driver tells no SQLSTATE here, so the server's words must do."""
    text = str(error)
    if "authentication failed" in text or "no pg_hba.conf entry" in text or "no password supplied" in text:
        return AccessDenied(f"{where} refused the login", remedy="check login, password and sslmode of the connection")
    if "does not exist" in text and "FATAL" in text:
        return NotFound(
            f"{where}: there is no such database or role",
            remedy="correct login and schema (the database) of the connection",
        )
    if "invalid connection option" in text or "invalid sslmode" in text or "invalid integer value" in text:
        return ConfigError(
            f"{where}: the driver does not take the connection's extra",
            field="extra",
            remedy="correct the driver parameters in the extra",
        )
    if "certificate" in text or "root.crt" in text or "SSL was required" in text:
        return AccessDenied(
            f"{where}: the server's certificate or its TLS does not fit the connection",
            remedy="check sslmode and sslrootcert in the extra",
        )
    if "FATAL" in text:
        return Unavailable(f"{where} takes no connections now", remedy="look at the server's log")
    return ConnectionLost(f"{where} cannot be reached", remedy="check host, port and network of the connection")


def classified(error: psycopg.Error, where: str, *, broken: bool, deadline: Deadline) -> FlowRunnerError:
    """The error of a statement.

    :param broken: the connection has ended.
    """
    code = error.sqlstate or ""
    if code == "57014" or (broken and deadline.expired):
        return TimedOut(
            f"a statement at {where} took too long ({code or 'no answer'})",
            remedy="raise `timeout`, or the connection's statement_timeout",
        )
    if broken or code.startswith(("08", "57P")):
        return ConnectionLost(f"the connection to {where} broke ({code or 'no SQLSTATE'})")
    if code in ("40001", "40P01"):
        why = "deadlock" if code == "40P01" else "serialization failure"
        return Conflict(f"{where}: {why} ({code}); nothing was stored", remedy="the retry starts afresh")
    if code == "55P03" or code.startswith("53"):
        why = "lock time-out" if code == "55P03" else "out of a resource"
        return Unavailable(f"{where}: {why} ({code}); nothing was stored", remedy="the retry starts afresh")
    return _refused(error, code, where)


def _refused(error: psycopg.Error, code: str, where: str) -> FlowRunnerError:
    what = type(error).__name__
    if code == "42501":
        return AccessDenied(
            f"{where}: the login may not do that ({_subject(error)}42501)",
            remedy="grant it the privilege, also CREATE on the schema for a new table",
        )
    if code in ("42P01", "3F000"):
        return NotFound(
            f"{where}: a table or schema is not there ({code})", remedy="create it, or pass create_table=True"
        )
    if code == "25006":
        return ConfigError(f"{where}: a statement that only reads would write", field="sql", remedy="write a SELECT")
    if code == "21000":
        return IntegrityError("rows of the source share their keys")
    if code == "":
        return Rejected(f"{where}: the driver refused ({what})", remedy="check the source for NUL characters")
    found = _PLACE.search(error.diag.context or "")
    line = f", near row {found[1]} of its batch" if found else ""
    if code.startswith(("22", "23")):
        return Rejected(
            f"a row does not fit the table: {what} ({_subject(error)}{code}){line}",
            code=code,
            remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
        )
    return Rejected(f"{where}: {what} ({_subject(error)}{code})", code=code, remedy="check the table")


def _subject(error: psycopg.Error) -> str:
    """The names of what the error is about, as the server reports them apart from its text."""
    diag = error.diag
    named = {"table": diag.table_name, "column": diag.column_name, "constraint": diag.constraint_name}
    parts = [f"{kind} {name}" for kind, name in named.items() if name]
    return ", ".join([*parts, ""])
