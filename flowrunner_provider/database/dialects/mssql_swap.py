"""Table swaps and merges in SQL Server, in one transaction."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, Merge, Merged, Table
from flowrunner_provider.database.dialects.mssql_tables import identity_insert, object_text
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.identifiers import Identifier, TableName

__all__ = [
    "BOUND",
    "ROW",
    "belongings_lost",
    "create_replacement",
    "indexes_of",
    "merged",
    "put_in_place",
    "stage_statement",
]

ROW = "flowrunner_row"
"""The column that numbers the rows of a staging table."""

_HOLD = "WITH (UPDLOCK, HOLDLOCK)"
"""Locks the keys that a query looks up, existing or not, until the transaction ends."""

_DEPENDENT = (
    "FROM sys.sql_expression_dependencies WHERE referenced_id = OBJECT_ID(\x001\0) AND is_schema_bound_reference = 1"
    " AND referencing_id <> referenced_id"
    " AND referencing_id NOT IN (SELECT object_id FROM sys.objects WHERE parent_object_id = OBJECT_ID(\x001\0))"
)
BOUND = f"SELECT 1 {_DEPENDENT}"
"""Schema-bound views and functions of a table, without its own checks and computed columns."""

_OWN = "object_id = OBJECT_ID(\x001\0)"
_OF_COLUMNS = " UNION ".join(
    [
        "SELECT 'checks' AS what FROM sys.check_constraints WHERE parent_object_id = OBJECT_ID(\x001\0)",
        "SELECT 'defaults' FROM sys.default_constraints WHERE parent_object_id = OBJECT_ID(\x001\0)",
        f"SELECT 'computed columns' FROM sys.columns WHERE {_OWN} AND is_computed = 1",
        f"SELECT 'an identity column' FROM sys.columns WHERE {_OWN} AND is_identity = 1",
        f"SELECT 'a version column' FROM sys.columns WHERE {_OWN} AND system_type_id = 189",
        f"SELECT 'masked columns' FROM sys.columns WHERE {_OWN} AND is_masked = 1",
        f"SELECT 'filtered, disabled or special indexes' FROM sys.indexes WHERE {_OWN}"
        " AND (type NOT IN (0, 1, 2) OR has_filter = 1 OR is_disabled = 1)",
        f"SELECT 'compression' FROM sys.partitions WHERE {_OWN} AND data_compression <> 0",
    ]
)
"""What a copy of the columns would lack."""
_LOST = " UNION ".join(
    [
        "SELECT 'triggers' AS what FROM sys.triggers WHERE parent_id = OBJECT_ID(\x001\0)",
        "SELECT 'foreign keys' FROM sys.foreign_keys"
        " WHERE parent_object_id = OBJECT_ID(\x001\0) OR referenced_object_id = OBJECT_ID(\x001\0)",
        f"SELECT 'partitions' FROM sys.partitions WHERE {_OWN} AND partition_number > 1",
        "SELECT 'privileges' FROM sys.database_permissions WHERE class = 1 AND major_id = OBJECT_ID(\x001\0)",
        f"SELECT 'views or functions bound to it' {_DEPENDENT}",
        f"SELECT 'a history, or a place in memory' FROM sys.tables WHERE {_OWN}"
        " AND (temporal_type <> 0 OR is_memory_optimized = 1)",
        f"SELECT 'change tracking' FROM sys.change_tracking_tables WHERE {_OWN}",
        f"SELECT 'replication' FROM sys.tables WHERE {_OWN} AND (is_tracked_by_cdc = 1 OR is_published = 1)",
        "SELECT 'descriptions' FROM sys.extended_properties WHERE class = 1 AND major_id = OBJECT_ID(\x001\0)",
        "SELECT 'row security' FROM sys.security_predicates WHERE target_object_id = OBJECT_ID(\x001\0)",
        f"SELECT 'a full-text index' FROM sys.fulltext_indexes WHERE {_OWN}",
    ]
)
"""What a newly created table would lack."""
_INDEXES = (
    "SELECT i.index_id, i.name, i.type, i.is_unique, i.is_primary_key, i.is_unique_constraint, c.name,"
    " k.is_descending_key, k.is_included_column"
    " FROM sys.indexes AS i"
    " JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id"
    " JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id"
    " WHERE i.object_id = OBJECT_ID(\x001\0) AND i.type <> 0"
    " ORDER BY i.type, i.index_id, k.key_ordinal, k.index_column_id"
)


def belongings_lost(session: Session, table: TableName, *, with_columns: bool = True) -> list[str]:
    """Return what belongs to the table and would be lost with it.

    :param with_columns: whether the new table is to have the same columns and indexes.
    """
    queries = [_LOST, _OF_COLUMNS] if with_columns else [_LOST]
    return sorted(str(row[0]) for query in queries for row in session.run(query, [object_text(session, table)]))


def indexes_of(session: Session, table: TableName, new: TableName) -> Iterator[tuple[str, str, str, bool]]:
    """Yield for each index of ``table``: the statement for ``new``, both names (new, old), and if it is a constraint.

    Names of constraints are unique in the schema, so they differ until the old table is dropped.
    """
    found: dict[int, list[tuple[object, ...]]] = {}
    for row in session.run(_INDEXES, [object_text(session, table)]):
        found.setdefault(int(row[0]), []).append(row)
    for number, rows in found.items():
        _, name, kind, unique, primary, constraint, *_ = rows[0]
        keys = ", ".join(f"{session.sql(str(row[6]))}{' DESC' if row[7] else ''}" for row in rows if not row[8])
        extra = session.names([str(row[6]) for row in rows if row[8]])
        clustered = "CLUSTERED" if kind == 1 else "NONCLUSTERED"
        if primary or constraint:
            own = f"{new.name.text}_{number}"
            what = "PRIMARY KEY" if primary else "UNIQUE"
            alter = f"ALTER TABLE {session.sql(new)} ADD CONSTRAINT {session.sql(own)}"
            yield f"{alter} {what} {clustered} ({keys})", own, str(name), True
        else:
            head = f"CREATE {'UNIQUE ' if unique else ''}{clustered} INDEX {session.sql(str(name))}"
            include = f" INCLUDE ({extra})" if extra else ""
            yield f"{head} ON {session.sql(new)} ({keys}){include}", str(name), str(name), False


def create_replacement(session: Session, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
    """Create an empty table with the columns and indexes of ``table``.

    :param columns: other columns instead, without indexes.
    :raises ConfigError: if something that belongs to the table would be lost.
    """
    if lost := belongings_lost(session, table.name):
        raise unsuitable(table.name, lost)
    new = table.name.beside(name)
    if columns is not None:
        session.create(new, columns)
        return new
    session.run(f"SELECT TOP (0) * INTO {session.sql(new)} FROM {session.sql(table.name)}")
    for statement, *_ in indexes_of(session, table.name, new):
        session.run(statement)
    return new


def put_in_place(session: Session, table: Table, replacement: TableName) -> None:
    """Drop the old table and rename the new one and its constraints; others wait only for this step."""
    old = list(indexes_of(session, table.name, replacement))
    new = list(indexes_of(session, replacement, replacement))
    if new and len(old) != len(new):
        raise IntegrityError(
            f"the indexes of {table.name} changed during the load", remedy="retry while nobody alters the table"
        )
    session.run(f"DROP TABLE {session.sql(table.name)}")
    _rename(session, session.sql(replacement), table.name.name, "OBJECT")
    for _, own, name, constraint in old if new else []:
        if constraint:
            _rename(session, session.sql(TableName(Identifier(own), table.name.schema)), Identifier(name), "OBJECT")


def _rename(session: Session, old: str, new: Identifier, kind: str) -> None:
    session.run("EXEC sp_rename \x001\0, \x002\0, \x003\0", [old, new.text, kind])


def stage_statement(session: Session, stage: TableName, table: TableName, columns: Sequence[str]) -> str:
    """Return the statement that creates an empty staging table; the outer join removes identity and NOT NULL."""
    return (
        f"SELECT TOP (0) IDENTITY(bigint, 1, 1) AS {session.sql(ROW)}, {session.names(columns, 't.')}"
        f" INTO {session.sql(stage)} FROM (SELECT 1 AS one) AS x LEFT JOIN {session.sql(table)} AS t ON 1 = 0"
    )


def merged(session: Session, merge: Merge) -> Merged:
    """Update the rows whose keys exist, then insert the others.

    Not by MERGE: without HOLDLOCK two of them insert the same key, and its counts include those of triggers. Here the
    first statement locks all keys, so that the later ones see the same rows.
    """
    session.check_unique(merge.stage, merge.keys)
    target, staged = session.sql(merge.table), session.sql(merge.stage)
    same = session.same(merge.keys)
    if merge.rest:
        sets = ", ".join(f"{session.sql(column)} = s.{session.sql(column)}" for column in merge.rest)
        session.run(f"UPDATE t SET {sets} FROM {target} AS t {_HOLD}, {staged} AS s WHERE {same}")
    there = session.same(merge.keys, "t", staged)
    known = session.execute(f"DELETE FROM {staged} WHERE EXISTS (SELECT 1 FROM {target} AS t {_HOLD} WHERE {there})")
    names = session.names(merge.columns)
    new = session.count(merge.stage)
    with identity_insert(session, merge.table, merge.columns):
        session.run(f"INSERT INTO {target} ({names}) SELECT {names} FROM {staged} ORDER BY {session.sql(ROW)}")
    stored = session.run(f"SELECT COUNT_BIG(*) FROM {staged} AS s JOIN {target} AS t ON {same}")[0][0]
    if int(stored) != new:
        raise IntegrityError(
            f"the database stored {stored} of {new} rows; everything was rolled back",
            remedy="check for a trigger that drops or redirects rows",
        )
    session.run(f"DROP TABLE {staged}")
    return merge.done(inserted=new, known=known)
