"""What SQL Server refuses and SQLite, or the parser before it, would take: by the numbers of the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlglot import exp

__all__ = ["Refused", "check_text", "check_tree"]

_MOST_VALUES = 1000
_PARTS = re.compile(r"(--[^\n]*|/\*.*?\*/|N?'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[(?:[^\]]|\]\])*\])", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z_@#][\w@#$]*|\|\||::|;|\S")
_UNKNOWN = [
    ["LIMIT"], ["RETURNING"], ["ON", "CONFLICT"], ["ON", "DUPLICATE"], ["||"], [":", ":"], ["IF", "NOT", "EXISTS"],
    ["CREATE", "TEMP"], ["CREATE", "TEMPORARY"], ["ADD", "COLUMN"], ["TRUE"], ["FALSE"], ["SAVEPOINT"], ["RELEASE"],
    ["ILIKE"], ["CURRENT_DATE"], ["CURRENT_TIME"], ["REPLACE", "INTO"], ["CONCURRENTLY"], ["VACUUM"], ["ANALYZE"],
    ["BOOLEAN"], ["JSONB"], ["BYTEA"], ["SERIAL"], ["LONGTEXT"], ["TIMESTAMPTZ"],
]  # fmt: skip
_TYPES = frozenset(
    {
        "bigint", "int", "integer", "smallint", "tinyint", "bit", "decimal", "numeric", "money", "smallmoney", "float",
        "real", "date", "datetime", "datetime2", "smalldatetime", "datetimeoffset", "time", "char", "varchar", "text",
        "nchar", "nvarchar", "ntext", "binary", "varbinary", "image", "uniqueidentifier", "xml", "rowversion",
        "timestamp", "sql_variant", "double precision",
    }
)  # fmt: skip


class Refused(Exception):
    """An error of the server, by its number."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number, self.text = number, text


def check_text(text: str) -> None:
    """Words that Transact-SQL does not have, outside of quotes and comments."""
    plain = _PARTS.sub(lambda part: " " if part[0].startswith(("--", "/*")) else " ? ", text)
    words = [word.upper() for word in _WORDS.findall(plain)]
    for phrase in _UNKNOWN:
        size = len(phrase)
        if any(words[at : at + size] == phrase for at in range(len(words))):
            raise Refused(102, f"Incorrect syntax near '{' '.join(phrase)}'.")
    if words[:1] == ["MERGE"] and words[-1:] != [";"]:
        raise Refused(10713, "A MERGE statement must be terminated by a semi-colon (;).")


def check_tree(tree: exp.Expression) -> None:
    """What parses and is no Transact-SQL nonetheless."""
    target = tree.this if isinstance(tree, exp.Update | exp.Delete) else None
    named = isinstance(tree, exp.Delete) and bool(tree.args.get("tables"))
    if target is not None and not named and target.args.get("alias") is not None:
        raise Refused(102, f"Incorrect syntax near '{target.alias}'.")
    for inner in _inner(tree):
        if inner.args.get("with_") is not None:
            raise Refused(156, "Incorrect syntax near the keyword 'WITH'.")
        if inner.args.get("order") is not None and not (inner.args.get("limit") or inner.args.get("offset")):
            raise Refused(1033, "The ORDER BY clause is invalid in views, inline functions, derived tables, ...")
    for derived in tree.find_all(exp.Subquery):
        if isinstance(derived.parent, exp.From | exp.Join) and isinstance(derived.this, exp.Select):
            for number, column in enumerate(derived.this.expressions, 1):
                if not isinstance(column, exp.Alias | exp.Column | exp.Star):
                    raise Refused(8155, f"No column name was specified for column {number} of '{derived.alias}'.")
    for values in tree.find_all(exp.Values):
        if isinstance(values.parent, exp.Insert) and len(values.expressions) > _MOST_VALUES:
            raise Refused(10738, "The number of row value expressions in the INSERT statement exceeds 1000.")
    for column in tree.find_all(exp.ColumnDef):
        kind = column.kind.sql("tsql").lower().partition("(")[0] if column.kind is not None else ""
        if kind and kind not in _TYPES:
            raise Refused(2715, f"Cannot find data type {kind}.")
    offset = tree.args.get("offset")
    if offset is not None and tree.args.get("order") is None:
        raise Refused(102, "Incorrect syntax near 'OFFSET'.")


def _inner(tree: exp.Expression) -> Iterator[exp.Expression]:
    """The queries within."""
    for found in tree.find_all(exp.Subquery, exp.CTE, exp.Exists, exp.In):
        query = found.args.get("query") if isinstance(found, exp.In) else found.this
        query = query.this if isinstance(query, exp.Subquery) else query
        if isinstance(query, exp.Select | exp.SetOperation):
            yield query
