"""Describing and creating tables in MySQL and MariaDB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column
from flowrunner_provider.database.identifiers import TableName

__all__ = [
    "UNIQUE_COLUMNS",
    "create_like_statements",
    "create_statement",
    "described_columns",
    "find",
    "may_create",
    "sees_triggers",
    "wire_encodings",
]

UNIQUE_COLUMNS = (
    "SELECT INDEX_NAME, IF(SUB_PART IS NULL, COLUMN_NAME, NULL) FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0 AND NON_UNIQUE = 0"
)
"""The columns of the unique indexes; NULL for a prefix of a column or an expression."""

_FIND = (
    "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0"
)
_NUMBER = "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0"
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_MAY_CREATE = re.compile(r"\bALL PRIVILEGES ON|\bCREATE(?=,| ON)")
_GRANT = re.compile(r"GRANT (.*?) ON (?:\*|`((?:[^`]|``)*)`)\.(?:\*|`((?:[^`]|``)*)`) TO ")
_MEMBERSHIP = re.compile(r"GRANT `[^ ]*`(?:@`[^ ]*`)?(?:,`[^ ]*)* TO ")


def find(session: Session, name: TableName) -> tuple[TableName, str, str | None] | None:
    """Return the table's name as stored, its type and its engine; None if it does not exist."""
    schema = name.schema.text if name.schema else session.run("SELECT DATABASE()")[0][0]
    rows = session.run(_FIND, [schema, name.name.text])
    exact = [row for row in rows if row[1] == name.name.text]
    if not exact and rows and int(session.run("SELECT @@lower_case_table_names")[0][0]):
        exact = rows
    if not exact:
        return None
    return TableName.of(exact[0][1], exact[0][0]), str(exact[0][2]), exact[0][3]


def described_columns(session: Session, name: TableName) -> list[tuple[str, str, bool]]:
    """Return name and type of each column, and whether it is generated; also of a temporary table."""
    rows = session.run(f"SHOW COLUMNS FROM {session.sql(name)}")
    return [(row[0], row[1].lower(), "GENERATED" in row[5].upper().replace("DEFAULT_GENERATED", "")) for row in rows]


def create_statement(
    session: Session, name: TableName, columns: Sequence[Column], keys: Sequence[str], *, may_exist: bool
) -> str:
    """Return the statement that creates a table; texts compare by code points, and have 255 characters in a key."""
    parts = []
    for column in columns:
        kind = session.types[column.type]
        if column.name in keys:
            kind = {"string": "varchar(255)", "binary": "varbinary(255)", "object": "varchar(255)"}.get(
                column.type, kind
            )
        parts.append(f"{session.sql(column.name)} {kind}")
    if keys:
        parts.append(f"PRIMARY KEY ({session.names(keys)})")
    guard = "IF NOT EXISTS " if may_exist else ""
    style = "ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    return f"CREATE TABLE {guard}{session.sql(name)} ({', '.join(parts)}) {style}"


def create_like_statements(session: Session, name: TableName, model: TableName) -> Iterator[str]:
    """Yield the statements that create an empty table of the same structure, with the same AUTO_INCREMENT."""
    yield f"CREATE TABLE {session.sql(name)} LIKE {session.sql(model)}"
    found = session.run(_NUMBER, [model.schema.text if model.schema else "", model.name.text])
    if found and found[0][0]:
        yield f"ALTER TABLE {session.sql(name)} AUTO_INCREMENT = {int(found[0][0])}"


def wire_encodings(session: Session, table: TableName, columns: Sequence[str]) -> list[str]:
    """Return for each column ``binary``, ``bit``, or empty if it is sent as text."""
    known = {column: kind.partition("(")[0] for column, kind, _ in described_columns(session, table)}
    names = {**dict.fromkeys(_BYTES, "binary"), "bit": "bit"}
    return [names.get(known.get(column, ""), "") for column in columns]


def may_create(session: Session) -> bool:
    """Return whether the login may create tables, by its grants."""
    return any(_MAY_CREATE.search(str(row[0])) for row in session.run("SHOW GRANTS"))


def sees_triggers(session: Session, name: TableName) -> bool:
    """Return whether the login may see the triggers of a table; assumed for a login with roles."""
    lines = [str(row[0]) for row in session.run("SHOW GRANTS")]
    return any(_MEMBERSHIP.match(line) or _grants_trigger(line, name) for line in lines)


def _grants_trigger(line: str, name: TableName) -> bool:
    found = _GRANT.match(line)
    if found is None or not {"ALL PRIVILEGES", "TRIGGER"}.intersection(found[1].split(", ")):
        return False
    _, schema, table = found.groups()
    of_schema = schema is None or (name.schema is not None and _like(schema).fullmatch(name.schema.text) is not None)
    return of_schema and table in (None, name.name.text.replace("`", "``"))


def _like(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a name in a grant, in which ``_`` and ``%`` are wildcards unless escaped."""
    parts = re.findall(r"\\[_%\\]|.", pattern.replace("``", "`"), re.DOTALL)
    wild = {"_": ".", "%": ".*"}
    return re.compile(
        "".join(wild.get(part) or re.escape(part.removeprefix("\\") or part) for part in parts), re.DOTALL
    )
