"""What the server knows of tables, and how one is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column
from flowrunner_provider.database.identifiers import TableName

__all__ = [
    "KEYS",
    "UNIQUE_COLUMNS",
    "Described",
    "catalogue_of",
    "create_statement",
    "described_columns",
    "find",
    "identity_insert",
    "object_text",
]

UNIQUE_COLUMNS = (
    "SELECT i.index_id, c.name FROM sys.indexes AS i"
    " JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id"
    " JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id"
    " WHERE i.object_id = OBJECT_ID(\x001\0) AND i.is_unique = 1 AND i.is_disabled = 0 AND i.has_filter = 0"
    " AND k.is_included_column = 0"
)
"""The columns of the unique indexes."""

_FIND = (
    "SELECT s.name, o.name, o.type FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " WHERE o.object_id = OBJECT_ID(\x001\0)"
)
_COLUMNS = (
    "SELECT c.name, TYPE_NAME(c.system_type_id), c.max_length, c.precision, c.scale, c.is_identity, c.is_computed,"
    " CONVERT(int, COLLATIONPROPERTY(c.collation_name, 'CodePage'))"
    " FROM {}.columns AS c WHERE c.object_id = OBJECT_ID(\x001\0) ORDER BY c.column_id"
)
KEYS = {"string": "nvarchar(450)", "object": "nvarchar(450)", "array": "nvarchar(450)", "binary": "varbinary(900)"}
"""The types of columns in an index, whose keys are limited to 900 bytes."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A column of a table.

    :param kind: its type without length or precision; empty for a .NET type.
    :param size: in bytes; -1 for ``max``.
    :param code_page: the code page of its texts; 65001 is UTF-8, None for other types.
    """

    name: str
    kind: str
    size: int
    precision: int
    scale: int
    identity: bool
    computed: bool
    code_page: int | None

    @property
    def declaration(self) -> str:
        """The type as written in SQL."""
        length = "max" if self.size == -1 else str(self.size // 2 if self.kind in ("nchar", "nvarchar") else self.size)
        if self.kind in ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary"):
            return f"{self.kind}({length})"
        if self.kind in ("decimal", "numeric"):
            return f"{self.kind}({self.precision}, {self.scale})"
        if self.kind in ("time", "datetime2", "datetimeoffset"):
            return f"{self.kind}({self.scale})"
        return self.kind


def object_text(session: Session, name: TableName) -> str:
    """Return the name for ``OBJECT_ID``; a temporary table needs its database."""
    text = session.sql(name)
    return f"tempdb..{text}" if name.name.text.startswith("#") else text


def catalogue_of(name: TableName) -> str:
    """Return the schema of the catalogue views that describe the table."""
    return "tempdb.sys" if name.name.text.startswith("#") else "sys"


def find(session: Session, name: TableName) -> tuple[TableName, str] | None:
    """Return the object's name as stored, and its type; None if it does not exist."""
    rows = session.run(_FIND, [object_text(session, name)])
    return (TableName.of(rows[0][1], rows[0][0]), str(rows[0][2]).strip()) if rows else None


def described_columns(session: Session, name: TableName) -> list[Described]:
    """Return the columns; also of a temporary table."""
    rows = session.run(_COLUMNS.format(catalogue_of(name)), [object_text(session, name)])
    return [
        Described(
            name=row[0],
            kind=str(row[1] or ""),
            size=int(row[2]),
            precision=int(row[3]),
            scale=int(row[4]),
            identity=bool(row[5]),
            computed=bool(row[6]) or row[1] == "timestamp",
            code_page=row[7],
        )
        for row in rows
    ]


@contextmanager
def identity_insert(session: Session, table: TableName, columns: Sequence[str]) -> Iterator[None]:
    """Allow inserts into an identity column meanwhile, if it is one of ``columns``."""
    own = any(column.identity and column.name in columns for column in described_columns(session, table))
    if own:
        session.run(f"SET IDENTITY_INSERT {session.sql(table)} ON")
    yield
    if own:
        session.run(f"SET IDENTITY_INSERT {session.sql(table)} OFF")


def create_statement(session: Session, name: TableName, columns: Sequence[Column], keys: Sequence[str]) -> str:
    """Return the statement that creates a table; texts in a key have 450 characters, the limit of an index."""
    parts = []
    for column in columns:
        kind = f"{session.types[column.type]} NULL"
        if column.name in keys:
            kind = f"{KEYS.get(column.type, session.types[column.type])} NOT NULL"
        parts.append(f"{session.sql(column.name)} {kind}")
    if keys:
        parts.append(f"PRIMARY KEY ({session.names(keys)})")
    return f"CREATE TABLE {session.sql(name)} ({', '.join(parts)})"
