"""Checks, parameters and column types of user statements in SQL Server.

Transact-SQL needs no separator between statements, the server runs as many as a text has, and it has no read-only
transactions. So a text is split into tokens as the server does. It is refused if its keywords may begin another
statement or change the transaction; these keywords are reserved, and as names they stand in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flowrunner_provider.core.errors import ConfigError, Rejected
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.dialects.values import as_json

__all__ = [
    "LEVELS",
    "SETTINGS",
    "bound",
    "check_query",
    "check_statement",
    "declared",
    "digits_of",
    "kind_of",
    "tokens",
]

LEVELS: Mapping[Isolation, str] = MappingProxyType(
    {
        "read committed": "READ COMMITTED",
        "repeatable read": "REPEATABLE READ",
        "serializable": "SERIALIZABLE",
    }
)
SETTINGS = (
    "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON",
    "SET CURSOR_CLOSE_ON_COMMIT, IMPLICIT_TRANSACTIONS, NOCOUNT, NUMERIC_ROUNDABORT, XACT_ABORT OFF",
    "SET DATEFORMAT ymd",
)
"""What indexes on computed columns need, and what keeps a failed row from rolling back the others."""

_TOKEN = re.compile(
    r"""
    (?P<space>[\s]+|--[^\r\n\u0085\u2028\u2029]*(?:\r?\n|\Z)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)
  | (?P<quoted>N?'(?:[^']|'')*'|"(?:[^"]|"")*"|\[(?:[^\]]|\]\])*\])
  | (?P<word>[^\W\d][\w@$\#]*|[@\#][\w@$\#]*)
  | (?P<number>\d[\w.]*)
  | (?P<mark>['"\[]|/\*|--|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_HEADS = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "EXEC", "EXECUTE", "TRUNCATE"})
_VERBS = _HEADS - {"WITH"}
_OTHER = frozenset(
    {
        "ADD", "ALTER", "BACKUP", "BEGIN", "BREAK", "BULK", "CHECKPOINT", "CLOSE", "COMMIT", "CONTINUE", "CREATE",
        "DBCC", "DEALLOCATE", "DECLARE", "DENY", "DROP", "DUMP", "FETCH", "GOTO", "GRANT", "IF", "KILL", "LOAD", "OPEN",
        "PRINT", "RAISERROR", "READTEXT", "RECONFIGURE", "RESTORE", "RETURN", "REVERT", "REVOKE", "ROLLBACK", "SAVE",
        "SETUSER", "SHUTDOWN", "TRAN", "TRANSACTION", "UPDATETEXT", "USE", "WAITFOR", "WHILE", "WRITETEXT",
        "OPENDATASOURCE", "OPENQUERY", "OPENROWSET",
    }
)  # fmt: skip
_DIGITS = re.compile(r"(?:decimal|numeric)\((\d+), ?(\d+)\)")
_JOINERS = frozenset({"UNION", "ALL", "EXCEPT", "INTERSECT"})
_MOST_PARAMETERS = 2_098  # of 2,100; sp_executesql takes two itself
_PLACEHOLDER = re.compile(r"%(?:%|s|\((?P<name>[^)]*)\)s|(?P<odd>.|\Z))", re.DOTALL)

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "tinyint": "integer", "smallint": "integer", "int": "integer", "bigint": "integer", "bit": "boolean",
        "real": "number", "float": "number", "decimal": "decimal", "numeric": "decimal", "money": "decimal",
        "smallmoney": "decimal", "date": "date", "time": "time", "datetime": "timestamp", "datetime2": "timestamp",
        "smalldatetime": "timestamp", "datetimeoffset": "timestamptz", "char": "string", "varchar": "string",
        "text": "string", "nchar": "string", "nvarchar": "string", "ntext": "string", "xml": "string",
        "uniqueidentifier": "string", "sysname": "string", "binary": "binary", "varbinary": "binary",
        "image": "binary", "timestamp": "binary",
    }
)  # fmt: skip


def kind_of(declaration: str) -> str:
    """Return the dataset type for a server type; empty if there is none."""
    return _KINDS.get(declaration.partition("(")[0].lower(), "")


def digits_of(declaration: str) -> tuple[int, int] | None:
    """Return precision and scale of a decimal type; None for any other type."""
    found = _DIGITS.fullmatch(declaration.lower())
    return (int(found[1]), int(found[2])) if found else {"money": (19, 4), "smallmoney": (10, 4)}.get(declaration)


def tokens(text: str, field: str) -> Iterator[tuple[str, str, int]]:
    """Yield the tokens of a text as the server splits it, each with its kind and line.

    :raises ConfigError: if a quotation or comment does not end.
    """
    line = 1
    for found in _TOKEN.finditer(text):
        kind, word = str(found.lastgroup), found[0]
        if kind == "mark" and word in ("'", '"', "[", "/*", "--"):
            raise _refused(field, "has an unterminated quotation or comment, or a nested comment")
        yield word, kind, line
        line += word.count("\n")


def _words(text: str, field: str) -> Iterator[tuple[str, int]]:
    """Yield the words and marks outside of quotes and comments, with the depth of parentheses."""
    depth = 0
    for word, kind, _ in tokens(text, field):
        depth -= word == ")"
        if depth < 0:
            raise _refused(field, "closes a parenthesis that is not open")
        if kind != "space":
            yield (word.upper() if kind == "word" else word if kind == "mark" else "?"), depth
        depth += word == "("
    if depth:
        raise _refused(field, "does not close a parenthesis")


def _refused(field: str, why: str, remedy: str = "write a single statement") -> ConfigError:
    return ConfigError(f"the SQL {why}", field=field, remedy=remedy)


def _one(text: str, field: str) -> list[tuple[str, int]]:
    words = list(_words(text, field))
    while words and words[-1] == (";", 0):
        words.pop()
    if not words:
        raise _refused(field, "is empty")
    if any(word == ";" for word, _ in words):
        raise Rejected("the SQL has more than one statement", remedy="write a single statement")
    for place, (word, _) in enumerate(words):
        if word in _OTHER and not _is_a_window([word for word, _ in words[max(0, place - 1) : place + 3]]):
            raise _refused(
                field,
                f"has the word {word}, which may change the transaction or begin another statement",
                "remove it; write a name of this kind in brackets: [open]",
            )
    return words


def _is_a_window(words: list[str]) -> bool:
    """Return whether it is ``OFFSET ... ROWS FETCH NEXT 5 ROWS ONLY`` and not a cursor."""
    before, word, *after = [*words, "", "", ""][:4]
    return (
        before in ("ROW", "ROWS") and word == "FETCH" and after[0] in ("NEXT", "FIRST") and after[1] not in ("FROM", "")
    )


def check_query(text: str) -> None:
    """Raise unless the text is a single query that only reads.

    :raises ConfigError: naming the offending word.
    """
    words = _one(text, "sql")
    if words[0][0] not in ("SELECT", "WITH", "("):
        raise _refused("sql", "is not a query", "write a SELECT")
    writes = (_VERBS - {"SELECT"}) | {"INTO"}
    if found := next((word for word, _ in words if word in writes), None):
        raise _refused(
            "sql", f"has the word {found}: it may write", "write a SELECT, and names of this kind in brackets"
        )
    _check_verbs(words, "sql")


def check_statement(text: str) -> None:
    """Raise unless the text is a single statement that does not change the transaction.

    :raises ConfigError: naming the offending word.
    """
    words = _one(text, "statements")
    if words[0][0] not in _HEADS and words[0][0] != "(":
        raise _refused("statements", f"begins with {words[0][0]}", f"begin it with {', '.join(sorted(_HEADS))}")
    _check_verbs(words, "statements")


def _check_verbs(words: list[tuple[str, int]], field: str) -> None:
    """Raise if a second statement may begin: outside of parentheses a statement has one verb, with few exceptions."""
    top = [word for word, depth in words if depth == 0]
    main, sets = "", 0
    for place, word in enumerate(top):
        before = top[place - 1] if place else ""
        sets += word == "SET"
        if word not in _VERBS:
            continue
        if not main:
            main = word
        elif word == "SELECT" and before in _JOINERS:
            continue
        elif main == "INSERT" and word in ("SELECT", "EXEC", "EXECUTE"):
            main = "INSERT ... SELECT"
        elif main == "MERGE" and before == "THEN":
            sets -= word == "UPDATE"
        else:
            raise _refused(field, f"has the word {word} where another statement may begin")
    if sets > (main == "UPDATE"):
        raise _refused(field, "has the word SET where another statement may begin")


def bound(text: str, params: Params) -> tuple[str, dict[str, Any]]:
    """Replace ``%s`` and ``%(name)s`` by parameters of the server; return the statement and their values."""
    if params is None:
        return text, {}
    named = params if isinstance(params, Mapping) else None
    waiting = [] if isinstance(params, Mapping) else list(params)
    values: dict[str, Any] = {}
    known: dict[str, str] = {}
    misfit = Rejected(
        "the parameters do not fit the placeholders",
        remedy="one value for each %s, or an object for %(name)s; % itself is %%",
    )

    def put(value: Any) -> str:
        if value is None:
            return "NULL"
        name = f"@P{len(values) + 1}"
        values[name] = _value(value)
        return name

    def replace(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if found["odd"] is not None or (found["name"] is None) != (named is None):
            raise misfit
        if named is None:
            if not waiting:
                raise misfit
            return put(waiting.pop(0))
        name = found["name"]
        if name not in named:
            raise misfit
        if name not in known:
            known[name] = put(named[name])
        return known[name]

    written = _PLACEHOLDER.sub(replace, text)
    if waiting:
        raise misfit
    if len(values) > _MOST_PARAMETERS:
        raise Rejected(
            f"the statement has {len(values)} parameters, and SQL Server takes {_MOST_PARAMETERS}",
            remedy="load the values into a table, and join it",
        )
    return written, values


def _value(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return as_json(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return value


def declared(value: Any) -> str:
    """Return the server type of a parameter."""
    kinds: list[tuple[type, str]] = [
        (bool, "bit"), (int, "bigint"), (float, "float"), (datetime, "datetime2(6)"), (date, "date"),
        (time, "time(6)"), (bytes, "varbinary(max)"), (UUID, "uniqueidentifier"),
    ]  # fmt: skip
    if isinstance(value, datetime) and value.tzinfo is not None:
        return "datetimeoffset(6)"
    if isinstance(value, Decimal):
        digits, exponent = value.as_tuple().digits, value.as_tuple().exponent
        if not isinstance(exponent, int) or max(len(digits), -exponent, len(digits) + exponent) > 38:
            raise Rejected("a parameter is a decimal of more than 38 digits", remedy="pass it as text")
        scale = max(0, -exponent)
        return f"decimal({max(len(digits) + max(0, exponent), scale, 1)}, {scale})"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return "decimal(38, 0)"
    return next((name for kind, name in kinds if isinstance(value, kind)), "nvarchar(max)")
