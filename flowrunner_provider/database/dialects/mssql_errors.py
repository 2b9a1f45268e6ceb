"""Errors of SQL Server as our own. The server's messages contain row values and are never passed on."""

from __future__ import annotations

import ssl

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.database.dialects.model import Conflict

__all__ = ["OF_A_ROW", "classified", "connect_failed", "refused_row"]

_MEANING = {
    515: "a required column has no value", 2601: "its key already exists", 2627: "its key already exists",
    547: "it violates a check, or refers to a row that does not exist", 2628: "a value is too long",
    8152: "a value is too long", 220: "a number is out of range", 232: "a number is out of range",
    8115: "a number is out of range", 241: "a value cannot be read as the column's type",
    242: "a date is out of range", 245: "a value cannot be read as the column's type",
    8114: "a value cannot be read as the column's type", 8169: "a value is no uniqueidentifier",
    248: "a number is out of range", 1946: "its key is too long", 1105: "the file group is full",
    2113: "a text has characters that the column's code page lacks", 4819: "it does not fit the table",
    4863: "a value is too long", 4864: "a value cannot be read as the column's type", 550: "it violates a view's check",
    3609: "a trigger has ended the transaction", 50000: "a trigger or procedure rejects it",
}  # fmt: skip

OF_A_ROW: tuple[str, ...] = (
    "220", "22021", "232", "241", "242", "245", "248", "2113", "2601", "2627", "2628", "4863", "4864", "515", "547",
    "550", "8114", "8115", "8152", "8169", "1946", "50000",
)  # fmt: skip
"""Numbers about a single row: a missing value, a duplicate, a violated check, out of range, too long, unreadable."""

_LOGIN = frozenset({4064, 18401, 18452, 18456, 18470, 18486, 18487, 18488, 40532, 40615})
_RESOURCES = frozenset(
    {
        615, 701, 802, 921, 922, 976, 983, 1101, 1105, 1204, 3967, 4221, 8645, 8651, 9002, 10928, 10929, 10936, 40197,
        40501, 40544, 40549, 40550, 40551, 40552, 40553, 40613, 49918, 49919, 49920,
    }
)  # fmt: skip
"""Out of a resource, busy, or failing over; mostly Azure's list of transient faults."""
_DENIED = frozenset({229, 230, 262, 297, 300, 916, 1088, 2760, 3906, 3930, 15151, 15247, 18456})
_LOST = frozenset({64, 121, 233, 596, 1236, 6005, 10053, 10054, 10060, 40143})

_WRONG_SQL = frozenset({102, 103, 105, 107, 137, 145, 156, 170, 174, 195, 205, 207, 209, 319, 4104, 4121, 8120, 8155})
"""Syntax error; ambiguous or unknown column, function or variable; wrong use of groups, unions or arguments."""


def connect_failed(error: Exception, number: int, where: str, *, expired: bool) -> FlowRunnerError:
    """Return the error of a failed connection attempt."""
    if number in _LOGIN:
        return AccessDenied(f"{where} refused the login ({number})", remedy="check login, password and database")
    if number in (4060, 911):
        return AccessDenied(
            f"{where}: the database does not exist, or the login may not use it ({number})",
            remedy="correct the schema of the connection, or grant the login access",
        )
    if number in _RESOURCES:
        return Unavailable(f"{where} accepts no connections now ({number})", remedy="the retry tries again")
    if isinstance(error, ssl.SSLCertVerificationError):
        return AccessDenied(
            f"{where}: the server's certificate is not valid; no login was sent",
            remedy="give ca_file (its authority) or host_name_in_certificate under 'flowrunner' in the extra",
        )
    if isinstance(error, ssl.SSLError):
        return AccessDenied(f"{where}: TLS failed; no login was sent", remedy="check the server's TLS (1.2 is needed)")
    if isinstance(error, TimeoutError) or expired:
        return TimedOut(f"{where} does not answer", remedy="check host, port and network of the connection")
    return ConnectionLost(
        f"{where} cannot be reached ({number or type(error).__name__})",
        remedy="check host, port and network of the connection",
    )


def refused_row(number: int, where: str = "") -> Rejected:
    """Return the error for a row that does not fit the table."""
    at = f" ({where})" if where else ""
    return Rejected(
        f"a row does not fit the table: {_MEANING.get(number, 'the server refuses it')} ({number}){at}",
        code=str(number),
        remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
    )


def classified(number: int, where: str, *, broken: bool, deadline: Deadline) -> FlowRunnerError:
    """Return the error of a failed statement.

    :param number: the server's error number.
    :param broken: whether the connection has ended.
    """
    if number == -2 or (broken and deadline.expired):
        return TimedOut(
            f"a statement at {where} took too long", remedy="raise `timeout`, or the connection's statement_timeout"
        )
    if broken or number in _LOST:
        return ConnectionLost(f"the connection to {where} broke ({number})")
    if number in (1205, 1222, 3960, 3961, 3958, 3635, 41302, 41305, 41325):
        why = {1205: "deadlock", 1222: "lock timeout"}.get(number, "conflict with another transaction")
        return Conflict(f"{where}: {why} ({number}); nothing was stored", remedy="the retry starts over")
    if number in _RESOURCES:
        return Unavailable(
            f"{where}: out of a resource, or not available ({number}); nothing was stored", remedy="check the server"
        )
    if number in (208, 911, 2760, 4902, 3701, 15225):
        return NotFound(
            f"{where}: a table, schema or database does not exist, or the login may not see it ({number})",
            remedy="create it, or pass create_table=True",
        )
    if number in _DENIED:
        return AccessDenied(f"{where}: the login may not do that ({number})", remedy="grant it the privilege")
    if number in (2714, 15335):
        return AlreadyExists(f"{where}: an object of this name already exists ({number})", remedy="drop or rename it")
    if number in (3951, 3952):
        return ConfigError(
            f"{where}: the database does not allow snapshot isolation ({number})",
            field="isolation",
            remedy="ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON",
        )
    if str(number) in OF_A_ROW:
        return refused_row(number)
    remedy = "check the table"
    if number in _WRONG_SQL:
        remedy = "correct the SQL; each placeholder such as %(day)s needs its value in `parameters`"
    return Rejected(f"{where}: the server refused a statement ({number})", code=str(number), remedy=remedy)
