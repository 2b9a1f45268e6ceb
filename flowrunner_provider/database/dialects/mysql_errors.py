"""Errors of MySQL and MariaDB as our own. The server's messages contain row values and are never passed on."""

from __future__ import annotations

import re
import ssl

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

__all__ = ["LOST", "OF_A_ROW", "classified", "connect_failed", "number_of", "refused_row", "tls_refused"]

LOST = frozenset({1053, 1077, 1079, 1152, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 2055, 4031})
"""Numbers of a lost connection."""

OF_A_ROW: tuple[str, ...] = (
    "1048", "1062", "1136", "1169", "1216", "1217", "1231", "1261", "1262", "1263", "1264", "1265", "1292", "1300",
    "1364", "1365", "1366", "1367", "1406", "1411", "1416", "1451", "1452", "1526", "1586", "1592", "1644", "1690",
    "1748", "3140", "3819", "3903", "4025", "4078", "22021",
)  # fmt: skip
"""Numbers about a single row: a missing value, a duplicate, a missing parent, out of range, too long, unreadable."""

_ROW = re.compile(r"at row (\d+)")
_MEANING = {
    1048: "a required column has no value", 1263: "a required column has no value",
    1062: "its key already exists", 1169: "its key already exists", 1586: "its key already exists",
    1216: "it refers to a row that does not exist", 1452: "it refers to a row that does not exist",
    1264: "a number is out of range", 1690: "a number is out of range", 1406: "a value is too long",
    1261: "it has too few values", 1262: "it has too many values", 1265: "a value would be truncated",
    1292: "a value cannot be read as the column's type", 1366: "a value cannot be read as the column's type",
    3819: "it violates a check", 4025: "it violates a check", 1300: "a text is not valid UTF-8",
}  # fmt: skip

_NO_LOCAL_DATA = "takes no local data", "retry; with local_infile=ON on the server, rows are loaded faster"
_NO_KEY = "requires a primary key in every table", "create the table with a primary key, then load into it"
_BINARY_LOG = (
    "cannot write this into its binary log",
    "set binlog_format=ROW on the server (with GTIDs: MySQL 8.0.13 or newer)",
)
_OF_THE_SERVER = {
    1148: _NO_LOCAL_DATA, 3948: _NO_LOCAL_DATA, 4166: _NO_LOCAL_DATA, 1173: _NO_KEY, 3750: _NO_KEY,
    1665: _BINARY_LOG, 1785: _BINARY_LOG, 1786: _BINARY_LOG, 1787: _BINARY_LOG, 3748: _BINARY_LOG,
}  # fmt: skip
"""Numbers of statements that a server setting forbids -> problem and remedy."""

_WRONG_SQL = frozenset({1052, 1054, 1055, 1056, 1064, 1066, 1111, 1149, 1222, 1241, 1305, 1582, 1630})
"""Syntax error; ambiguous or unknown column, alias or function; wrong use of groups, unions or arguments."""


def connect_failed(number: int, where: str) -> FlowRunnerError:
    """Return the error of a failed connection attempt."""
    if number in (1044, 1045, 1130, 1251, 1698, 1862, 3118, 3955, 4151, 2059):
        return AccessDenied(f"{where} refused the login ({number})", remedy="check login, password and ssl_mode")
    if number == 3159:
        return AccessDenied(
            f"{where} accepts no connections without TLS ({number})",
            remedy="remove ssl_mode=DISABLED from the extra, or switch TLS on at the server",
        )
    if number == 1049:
        return NotFound(f"{where}: no such database", remedy="correct the schema of the connection")
    if number in (1040, 1047, 1129, 1203, 1226):
        return Unavailable(f"{where} accepts no connections now ({number})", remedy="run fewer tasks at once")
    if number == 2026:
        return AccessDenied(
            f"{where}: the certificate or TLS of the server does not match the connection",
            remedy="check ssl_mode and ssl in the extra",
        )
    return ConnectionLost(
        f"{where} cannot be reached ({number})", remedy="check host, port and network of the connection"
    )


def refused_row(number: int, text: str) -> Rejected:
    """Return the error for a row that the server would have skipped, truncated or changed."""
    found = _ROW.search(text)
    line = f", near row {found[1]} of its batch" if found else ""
    return Rejected(
        f"a row does not fit the table: {_MEANING.get(number, 'the server warns')} ({number}){line}",
        code=str(number),
        remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
    )


def classified(number: int, text: str, where: str, *, broken: bool, deadline: Deadline) -> FlowRunnerError:
    """Return the error of a failed statement.

    :param broken: whether the connection has ended.
    """
    if number in (1969, 3024, 1317) or (broken and deadline.expired):
        return TimedOut(
            f"a statement at {where} took too long ({number})",
            remedy="raise `timeout`, or the connection's statement_timeout",
        )
    if broken or number in LOST:
        return ConnectionLost(f"the connection to {where} broke ({number})")
    if number in (1205, 1213, 1020, 3058, 3101, 3572):
        why = {1205: "lock timeout", 1213: "deadlock"}.get(number, "conflict with another transaction")
        return Conflict(f"{where}: {why} ({number}); nothing was stored", remedy="the retry starts over")
    if number in (1290, 1836):
        return Unavailable(f"{where} is read-only ({number}); nothing was stored", remedy="connect to the primary")
    if number in (1021, 1037, 1038, 1041, 1047, 1114, 1206):
        return Unavailable(f"{where} ran out of a resource ({number}); nothing was stored", remedy="check the server")
    if number in _OF_THE_SERVER:
        problem, remedy = _OF_THE_SERVER[number]
        return ConfigError(f"{where} {problem} ({number})", field="conn_id", remedy=remedy)
    if number in (1044, 1045, 1142, 1143, 1227, 1370, 1820):
        return AccessDenied(f"{where}: the login may not do that ({number})", remedy="grant it the privilege")
    if number in (1146, 1051, 1049, 1109):
        return NotFound(
            f"{where}: a table or database does not exist ({number})", remedy="create it, or pass create_table=True"
        )
    if number == 1792:
        return ConfigError(f"{where}: sql writes in a read-only transaction", field="sql", remedy="write a SELECT")
    if number == 1060:
        return ConfigError(
            "sql has two columns of the same name", field="sql", remedy="give each a different name with AS"
        )
    if number in (3100, 1399, 1180):
        return IntegrityError(f"{where}: the transaction failed ({number})", remedy="check the server's log")
    if str(number) in OF_A_ROW:
        return refused_row(number, text)
    remedy = "check the table"
    if number in _WRONG_SQL:
        remedy = "correct the SQL; each placeholder such as %(day)s needs its value in `parameters`"
    return Rejected(f"{where}: the server refused a statement ({number})", code=str(number), remedy=remedy)


def number_of(error: Exception) -> int:
    """Return the error number of the server or the driver; 0 if there is none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def tls_refused(error: Exception | None) -> bool:
    """Return whether TLS itself failed, and not the network."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
