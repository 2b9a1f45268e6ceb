"""Session settings, checks and parameters of user statements, and column types of MySQL and MariaDB."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, Rejected
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.config import MysqlConfig
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.dialects.values import as_json

__all__ = ["DECODERS", "LEVELS", "check_statement", "decimal_digits", "filled", "kind_of", "settings"]

LEVELS: Mapping[Isolation, str] = MappingProxyType(
    {
        "read committed": "READ COMMITTED",
        "repeatable read": "REPEATABLE READ",
        "serializable": "SERIALIZABLE",
    }
)
_MODES = (
    "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION"
)
_ALLOWED = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "TABLE", "DO", "CALL", "EXPLAIN", "SHOW"}
)
_HEAD = re.compile(r"(?:[\s;(]+|--(?=[\s\x00-\x1f])[^\n]*(?:\n|$)|\#[^\n]*(?:\n|$)|/\*(?![!M])(?:[^*]|\*(?!/))*\*/)*+")
_WORD = re.compile(r"[A-Za-z]+")
_MAJOR = re.compile(r"\d+")
_LONGEST_WAIT = 2_147_483  # seconds; the largest wait_timeout of a server on Windows
_BINARY = 63  # the number of the character set of bytes
_UNSIGNED = 32  # of a column's flags
_NUMBERS = {1: "integer", 2: "integer", 3: "integer", 8: "integer", 9: "integer", 13: "integer", 16: "integer"}
_KINDS: Mapping[int, str] = MappingProxyType(
    {
        **_NUMBERS, 0: "decimal", 246: "decimal", 4: "number", 5: "number", 7: "timestamptz", 12: "timestamp",
        10: "date", 11: "string", 245: "string", 247: "string", 248: "string",
    }
)  # fmt: skip
_TEXTS = frozenset({15, 249, 250, 251, 252, 253, 254})


def check_statement(statement: str) -> None:
    """Raise for a statement that may commit implicitly, as all DDL does.

    :raises ConfigError: unless the statement begins with an allowed keyword.
    """
    found = _HEAD.match(statement)
    word = _WORD.match(statement, found.end() if found else 0)
    if word is None or word[0].upper() not in _ALLOWED:
        raise ConfigError(
            f"a statement that begins with {word[0].upper() if word else 'no keyword'} may commit the transaction",
            field="statements",
            remedy=f"in MySQL and MariaDB use {', '.join(sorted(_ALLOWED))} only, and run DDL in a migration",
        )


def settings(config: MysqlConfig, deadline: Deadline, silence: float, *, version: str) -> str:
    """Return the statement that makes a session strict, its time zone UTC, and its waits finite.

    The server's own limits on silence are too short for us: within ``net_read_timeout`` (30 seconds) it gives up a
    load whose source pauses, within ``net_write_timeout`` a query whose reader does, and after ``wait_timeout`` the
    session that holds the lock of a migration.

    :param silence: seconds after which the server is to end a session that sends and takes nothing.
    :param version: the server's.
    """
    wait = max(1, int(deadline.limit(config.lock_timeout.total_seconds())))
    longest = deadline.remaining()
    if config.statement_timeout is not None:
        longest = min(longest, config.statement_timeout.total_seconds())
    idle = min(int(silence) + 1, _LONGEST_WAIT)
    chosen = [
        f"sql_mode = '{_MODES}'", "time_zone = '+00:00'", "sql_notes = 0", f"innodb_lock_wait_timeout = {wait}",
        f"lock_wait_timeout = {wait}", "unique_checks = 1", "foreign_key_checks = 1",
        f"wait_timeout = {idle}", f"net_read_timeout = {idle}", f"net_write_timeout = {idle}",
    ]  # fmt: skip
    if "mariadb" in version.lower():
        chosen.append(f"max_statement_time = {max(0.001, longest):.3f}")
    else:
        chosen.append(f"max_execution_time = {max(1, int(longest * 1000))}")
        if (found := _MAJOR.match(version)) and int(found[0]) >= 8:
            chosen.append("information_schema_stats_expiry = 0")  # or AUTO_INCREMENT may be a day old
    return f"SET SESSION {', SESSION '.join(chosen)}"


def filled(literal: Callable[[Any], str], statement: str, params: Params) -> str:
    """Return the statement with its parameters as literals; objects become JSON.

    :param literal: the driver's function that escapes a value.
    """
    if params is None:
        return statement
    try:
        if isinstance(params, Mapping):
            return str(statement % {name: literal(_value(value)) for name, value in params.items()})
        return str(statement % tuple(literal(_value(value)) for value in params))
    except (TypeError, ValueError, KeyError, IndexError):
        raise Rejected(
            "the parameters do not fit the placeholders",
            remedy="one value for each %s, or an object for %(name)s; % itself is %%",
        ) from None


def _value(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return as_json(value) if isinstance(value, dict) else value


def decimal_digits(length: int, scale: int, flags: int) -> int:
    """Return the precision of a decimal from its display width, which includes point and sign."""
    return length - (scale > 0) - (not flags & _UNSIGNED)


def kind_of(type_code: int, charset: int) -> str:
    """Return the dataset type of a column; empty if it has none."""
    if type_code in _TEXTS:
        return "binary" if charset == _BINARY else "string"
    return _KINDS.get(type_code, "")


def _parse_date(text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError:
        raise Rejected(
            "the query returned a date with a zero part",
            code="22007",
            remedy="write NULLIF(column, 0), or CAST(column AS CHAR), in sql",
        ) from None


DECODERS: Mapping[int, Callable[[Any], Any]] = MappingProxyType(
    {
        7: lambda text: _parse_date(text, datetime.fromisoformat).replace(tzinfo=UTC),
        10: lambda text: _parse_date(text, date.fromisoformat),
        11: str,
        12: lambda text: _parse_date(text, datetime.fromisoformat),
        16: lambda data: int.from_bytes(data, "big"),
    }
)
"""Decoders by type code, for values that the driver's own would truncate."""
