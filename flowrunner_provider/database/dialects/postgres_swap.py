"""Table swaps in PostgreSQL, in one transaction: others see the old table until the commit."""

from __future__ import annotations

from collections.abc import Sequence

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, Table
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.dialects.structure import SchemaOperations
from flowrunner_provider.database.identifiers import Identifier, TableName

__all__ = ["HERE", "belongings_lost", "create_replacement", "grants", "put_in_place"]

_LOST = """
WITH t AS (SELECT to_regclass($1)::oid AS oid)
SELECT 'another owner' FROM pg_class c, t WHERE c.oid = t.oid AND c.relowner <> current_user::regrole
UNION SELECT 'triggers' FROM pg_trigger g, t WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
UNION SELECT 'foreign keys' FROM pg_constraint c, t WHERE c.contype = 'f' AND t.oid IN (c.conrelid, c.confrelid)
UNION SELECT 'rules' FROM pg_rewrite r, t WHERE r.ev_class = t.oid
UNION SELECT 'row security' FROM pg_policy p, t WHERE p.polrelid = t.oid
UNION SELECT 'partitions or inheritance' FROM pg_inherits i, t WHERE t.oid IN (i.inhrelid, i.inhparent)
UNION SELECT 'partitions or inheritance' FROM pg_class c, t WHERE c.oid = t.oid AND c.relkind <> 'r'
UNION SELECT 'privileges on columns' FROM pg_attribute a, t WHERE a.attrelid = t.oid AND a.attacl IS NOT NULL
UNION SELECT 'publications' FROM pg_publication_rel p, t WHERE p.prrelid = t.oid
UNION SELECT 'a serial or identity column' FROM pg_depend d JOIN pg_class c ON c.oid = d.objid, t
  WHERE d.refobjid = t.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
UNION SELECT 'views' FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid, t
  WHERE d.refobjid = t.oid AND d.classid = 'pg_rewrite'::regclass AND r.ev_class <> t.oid
"""
_GRANTS = """
SELECT g.rolname::text, a.privilege_type, a.is_grantable
FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
WHERE c.oid = to_regclass($1) AND a.grantee <> c.relowner
"""
_INDEXES = """
SELECT c.relname::text, i.indkey::text, i.indisunique FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) ORDER BY i.indexrelid
"""
HERE = "\0"
"""Placeholder for the name of a table; names contain no NUL."""

_PRIVILEGES = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"})


def belongings_lost(session: SchemaOperations, name: TableName) -> list[str]:
    """Return what belongs to the table and would be lost with it."""
    return sorted(row[0] for row in session.run(_LOST, [session.sql(name)]))


def grants(session: SchemaOperations, name: TableName) -> list[str]:
    """Return the statements that grant the table's privileges on the table at :data:`HERE`.

    :raises ConfigError: for an unknown privilege.
    """
    statements = []
    for role, privilege, grantable in session.run(_GRANTS, [session.sql(name)]):
        if privilege not in _PRIVILEGES:
            raise unsuitable(name, ["a privilege of a newer server"])
        whom = "PUBLIC" if role is None else session.sql(role)
        option = " WITH GRANT OPTION" if grantable else ""
        statements.append(f"GRANT {privilege} ON TABLE {HERE} TO {whom}{option}")
    return statements


def create_replacement(session: Session, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
    """Create an empty table with the columns, defaults, checks, indexes and grants of ``table``.

    :param columns: other columns instead, without defaults, checks and indexes.
    :raises ConfigError: if something that belongs to the table would be lost.
    """
    quoted = session.sql(table.name)
    if lost := belongings_lost(session, table.name):
        raise unsuitable(table.name, lost)
    new = table.name.beside(name)
    if columns is None:
        session.run(f"CREATE TABLE {session.sql(new)} (LIKE {quoted} INCLUDING ALL)")
    else:
        session.create(new, columns)
    for grant in grants(session, table.name):
        session.run(grant.replace(HERE, session.sql(new)))
    return new


def put_in_place(session: Session, table: Table, replacement: TableName) -> None:
    """Drop the old table and rename the new one and its indexes; readers wait only for this step."""
    old = session.run(_INDEXES, [session.sql(table.name)])
    new = session.run(_INDEXES, [session.sql(replacement)])
    if new and [row[1:] for row in old] != [row[1:] for row in new]:
        raise IntegrityError(
            f"the indexes of {table.name} changed during the load", remedy="retry while nobody alters the table"
        )
    session.run(f"DROP TABLE {session.sql(table.name)}")
    session.run(f"ALTER TABLE {session.sql(replacement)} RENAME TO {session.sql(table.name.name)}")
    for (before, *_), (now, *_) in zip(old if new else [], new, strict=True):
        index = TableName(Identifier(now), table.name.schema)
        session.run(f"ALTER INDEX {session.sql(index)} RENAME TO {session.sql(before)}")
