"""Errors of PostgreSQL as our own. The server's messages contain row values and are never passed on."""

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
_WRONG_SQL = ("42601", "42702", "42703", "42883", "42P02")
"""Syntax error; ambiguous or unknown column, function or parameter."""
_UNREADABLE_TIMES = ("date too ", "timestamp too ", "time not supported", "can't parse date", "can't parse time")
"""How the driver's messages begin for values that Python cannot hold."""


def connect_failed(error: psycopg.Error, where: str) -> FlowRunnerError:
    """Return the error of a failed connection attempt, by its text: the driver reports no SQLSTATE here."""
    text = str(error)
    if "authentication failed" in text or "no pg_hba.conf entry" in text or "no password supplied" in text:
        return AccessDenied(f"{where} refused the login", remedy="check login, password and sslmode of the connection")
    if "does not exist" in text and "FATAL" in text:
        return NotFound(
            f"{where}: no such database or role",
            remedy="correct login and schema (the database) of the connection",
        )
    if "invalid connection option" in text or "invalid sslmode" in text or "invalid integer value" in text:
        return ConfigError(
            f"{where}: the driver rejects the extra of the connection",
            field="extra",
            remedy="correct the driver parameters in the extra",
        )
    if "certificate" in text or "root.crt" in text or "SSL was required" in text:
        return AccessDenied(
            f"{where}: the certificate or TLS of the server does not match the connection",
            remedy="check sslmode and sslrootcert in the extra",
        )
    if "FATAL" in text:
        return Unavailable(f"{where} accepts no connections now", remedy="check the server's log")
    return ConnectionLost(f"{where} cannot be reached", remedy="check host, port and network of the connection")


def classified(error: psycopg.Error, where: str, *, broken: bool, deadline: Deadline) -> FlowRunnerError:
    """Return the error of a failed statement.

    :param broken: whether the connection has ended.
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
        return Conflict(f"{where}: {why} ({code}); nothing was stored", remedy="the retry starts over")
    if code == "55P03" or code.startswith("53"):
        why = "lock timeout" if code == "55P03" else "out of a resource"
        return Unavailable(f"{where}: {why} ({code}); nothing was stored", remedy="the retry starts over")
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
            f"{where}: a table or schema does not exist ({code})", remedy="create it, or pass create_table=True"
        )
    if code == "25006":
        return ConfigError(f"{where}: sql writes in a read-only transaction", field="sql", remedy="write a SELECT")
    if code == "21000":
        return IntegrityError("rows of the source have the same keys")
    if code == "":
        return _refused_by_driver(error, where)
    found = _PLACE.search(error.diag.context or "")
    line = f", near row {found[1]} of its batch" if found else ""
    if code.startswith(("22", "23")):
        return Rejected(
            f"a row does not fit the table: {what} ({_subject(error)}{code}){line}",
            code=code,
            remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
        )
    remedy = "check the table"
    if code in _WRONG_SQL:
        remedy = "correct the SQL; each placeholder such as %(day)s needs its value in `parameters`"
    return Rejected(f"{where}: {what} ({_subject(error)}{code})", code=code, remedy=remedy)


def _refused_by_driver(error: psycopg.Error, where: str) -> Rejected:
    """Return the error for a value that the driver cannot convert; its own message may contain the value."""
    if str(error).startswith(_UNREADABLE_TIMES):
        return Rejected(
            f"{where}: a date or time is infinite, BC, after the year 9999, or 24:00",
            remedy="cast the column to text in `sql`, or exclude such rows",
        )
    what = type(error).__name__
    return Rejected(f"{where}: the driver refused ({what})", remedy="check the source for NUL characters")


def _subject(error: psycopg.Error) -> str:
    """Return the names of table, column and constraint, which the server reports apart from its message."""
    diag = error.diag
    named = {"table": diag.table_name, "column": diag.column_name, "constraint": diag.constraint_name}
    parts = [f"{kind} {name}" for kind, name in named.items() if name]
    return ", ".join([*parts, ""])
