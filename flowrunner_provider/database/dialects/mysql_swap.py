"""A table that takes the place of another, and rows that go into those that are there.

Every change of a structure commits at once here. So a replacement is filled out of sight, and one ``RENAME TABLE``
decides: it puts the old table aside under a name of this load, in the same step. Whoever looks later sees by that
name whether it has happened (:mod:`flowrunner_provider.database.ledger`).
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

__all__ = ["ROW", "belongings_lost", "delete_superseded", "merged", "stand_in", "swap_statement"]

ROW = "flowrunner_row"
"""The column of a stage that numbers its rows."""

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


def stand_in(session: Session, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
    """An empty table with the columns, defaults, checks, indexes and partitions of ``table``.

    :param columns: other columns instead; then without its defaults, checks and indexes.
    :raises ConfigError: if the table has what a new one would not have.
    """
    if lost := belongings_lost(session, table.name):
        raise unsuitable(table.name, lost)
    new = table.name.beside(name)
    session.tidy(new)
    if columns is not None:
        session.create(new, columns)
        return new
    session.create_like(new, table.name)  # type: ignore[attr-defined]
    return new


def swap_statement(session: Session, table: TableName, replacement: TableName, aside: TableName) -> str:
    """Both renames in one step: nobody sees the table missing."""
    old, new, place = session.sql(table), session.sql(replacement), session.sql(aside)
    return f"RENAME TABLE {old} TO {place}, {new} TO {old}"


def delete_superseded(session: Session, stage: TableName, keys: Sequence[str]) -> int:
    """Delete the staged rows that a later one with the same keys replaces; return how many."""
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
    """Update the rows whose keys are there, then insert the others.

    Not ``ON DUPLICATE KEY UPDATE``: that would also update a row which another unique index finds, and
    not ``REPLACE``: that deletes. A row that somebody else inserts in between is a conflict.
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
            raise Conflict("somebody else has inserted rows with the same keys", remedy="do it again") from None
        raise
    session.run(f"DROP TEMPORARY TABLE {staged}")
    return merge.done(inserted=inserted, known=known)
