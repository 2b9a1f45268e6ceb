"""Table swaps and merges in MySQL and MariaDB.

DDL commits implicitly here. So the replacement is filled under another name, and one ``RENAME TABLE`` swaps it and
moves the old table aside under a name of this load. Later attempts tell by that name whether the swap took place
(:mod:`flowrunner_provider.database.ledger`).
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Sequence

from flowrunner_provider.core.errors import Rejected
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, Conflict, Merge, Merged, Table
from flowrunner_provider.database.dialects.mysql_tables import sees_triggers
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.identifiers import TableName

__all__ = ["ROW", "belongings_lost", "create_replacement", "delete_superseded", "merged", "swap_statement"]

ROW = "flowrunner_row"
"""The column that numbers the rows of a staging table."""

_LAST = TableName.of("flowrunner_last")

_LOST = (
    "SELECT 'triggers' FROM information_schema.TRIGGERS"
    " WHERE EVENT_OBJECT_SCHEMA = \x001\0 AND EVENT_OBJECT_TABLE = \x002\0"
    " UNION SELECT 'foreign keys' FROM information_schema.REFERENTIAL_CONSTRAINTS"
    " WHERE CONSTRAINT_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0"
    " OR UNIQUE_CONSTRAINT_SCHEMA = \x001\0 AND REFERENCED_TABLE_NAME = \x002\0"
)


def belongings_lost(session: Session, name: TableName) -> list[str]:
    """Return what belongs to the table and would be lost with it.

    A login without the TRIGGER privilege sees no triggers, so there may be some.
    """
    where = [name.schema.text if name.schema else "", name.name.text]
    lost = sorted(row[0] for row in session.run(_LOST, where))
    if "triggers" not in lost and not sees_triggers(session, name):
        lost.append("perhaps triggers (the login needs the TRIGGER privilege to see them)")
    return lost


def create_replacement(session: Session, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
    """Create an empty table with the columns, defaults, checks, indexes and partitions of ``table``.

    :param columns: other columns instead, without defaults, checks and indexes.
    :raises ConfigError: if something that belongs to the table would be lost.
    """
    if lost := belongings_lost(session, table.name):
        raise unsuitable(table.name, lost)
    new = table.name.beside(name)
    session.drop_leftovers(new)
    if columns is not None:
        session.create(new, columns)
        return new
    session.create_like(new, table.name)  # type: ignore[attr-defined]
    return new


def swap_statement(session: Session, table: TableName, replacement: TableName, old_name: TableName) -> str:
    """Return the statement that renames both tables atomically."""
    old, new, place = session.sql(table), session.sql(replacement), session.sql(old_name)
    return f"RENAME TABLE {old} TO {place}, {new} TO {old}"


def delete_superseded(session: Session, stage: TableName, keys: Sequence[str]) -> int:
    """Delete the staged rows that a later row with the same keys supersedes; return how many."""
    last, row = TableName(_LAST.name, stage.schema), session.sql(ROW)
    session.run(f"DROP TEMPORARY TABLE IF EXISTS {session.sql(last)}")
    session.run(
        f"CREATE TEMPORARY TABLE {session.sql(last)} (PRIMARY KEY ({row})) ENGINE=InnoDB"
        f" AS SELECT max({row}) AS {row} FROM {session.sql(stage)} GROUP BY {session.names(keys)}"
    )
    return session.execute(
        f"DELETE s FROM {session.sql(stage)} AS s LEFT JOIN {session.sql(last)} AS l ON l.{row} = s.{row}"
        f" WHERE l.{row} IS NULL"
    )


def merged(session: Session, merge: Merge) -> Merged:
    """Update the rows whose keys exist, then insert the others.

    ``ON DUPLICATE KEY UPDATE`` would also update a row that matches another unique index, and ``REPLACE`` deletes
    rows. A row that another transaction inserts in between is a conflict.
    """
    session.check_unique(merge.stage, merge.keys)
    target, staged = session.sql(merge.table), session.sql(merge.stage)
    same = session.same(merge.keys)
    if merge.rest:
        sets = ", ".join(f"t.{session.sql(column)} = s.{session.sql(column)}" for column in merge.rest)
        session.run(f"UPDATE {target} AS t JOIN {staged} AS s ON {same} SET {sets}")
    known = session.execute(f"DELETE s FROM {staged} AS s JOIN {target} AS t ON {same}")
    names = session.names(merge.columns)
    try:
        inserted = session.execute(
            f"INSERT INTO {target} ({names}) SELECT {names} FROM {staged} ORDER BY {session.sql(ROW)}"
        )
    except Rejected as error:
        if error.code == "1062" and session.run(f"SELECT 1 FROM {staged} AS s JOIN {target} AS t ON {same} LIMIT 1"):
            raise Conflict(
                "another transaction inserted rows with the same keys", remedy="the retry starts over"
            ) from None
        raise
    session.run(f"DROP TEMPORARY TABLE {staged}")
    return merge.done(inserted=inserted, known=known)
