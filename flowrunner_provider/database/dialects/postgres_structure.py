"""Schemas and maintenance in PostgreSQL, where DDL is transactional."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import TYPE_CHECKING

from flowrunner_provider.core.errors import AccessDenied, ConfigError, NotFound
from flowrunner_provider.database.dialects.postgres_call import PostgresCalls
from flowrunner_provider.database.dialects.postgres_swap import HERE, belongings_lost, grants
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.dialects.structure import ColumnShape, Shape, TableSpec
from flowrunner_provider.database.identifiers import Identifier, TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Table

__all__ = ["PostgresStructure"]

_KIND = "SELECT c.relkind::text FROM pg_class c WHERE c.oid = to_regclass($1)"
_COLUMNS = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
  CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated <> '' THEN 'generated ' ELSE '' END
    || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_INDEXES = """
SELECT c.relname::text, i.indisprimary, (SELECT array_agg(pg_get_indexdef(i.indexrelid, k, true) ORDER BY k)
    FROM generate_series(1, i.indnkeyatts) k),
  CASE WHEN i.indisunique THEN 'unique ' ELSE '' END || m.amname || ' (' ||
  (SELECT string_agg(pg_get_indexdef(i.indexrelid, k, true) ||
      CASE WHEN i.indoption[k - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY k)
    FROM generate_series(1, i.indnkeyatts) k) || ')' ||
  coalesce((SELECT ' include (' || string_agg(pg_get_indexdef(i.indexrelid, k, true), ', ' ORDER BY k) || ')'
    FROM generate_series(i.indnkeyatts + 1, i.indnatts) k), '') ||
  coalesce(' where ' || pg_get_expr(i.indpred, i.indrelid), '') ||
  CASE WHEN i.indisvalid THEN '' ELSE ' (not valid)' END
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = to_regclass($1) ORDER BY 1
"""
_PRIMARY = """
SELECT a.attname::text FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k(number, place), pg_attribute a
WHERE c.conrelid = to_regclass($1) AND c.contype = 'p' AND a.attrelid = c.conrelid AND a.attnum = k.number
ORDER BY k.place
"""
_FOREIGN = """
SELECT pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = to_regclass($1) AND contype = 'f' AND conparentid = 0 ORDER BY 1
"""
_PARTITION = """
SELECT p.oid::regclass::text, pn.nspname::text, pc.relname::text, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
JOIN pg_class pc ON pc.oid = p.oid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
WHERE c.oid = to_regclass($1) AND c.relispartition
"""


class PostgresStructure(PostgresCalls):
    """The part of a session for schemas."""

    @abstractmethod
    def warnings(self) -> AbstractContextManager[list[str]]:
        """Collect the codes of the warnings that the server sends meanwhile."""

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        if isinstance(value, str) and "\\" in value:
            return "E" + super().literal(value.replace("\\", "\\\\"))
        return super().literal(value)

    def shape(self, name: TableName) -> Shape | None:
        quoted = [self.sql(name)]
        found = self.run(_KIND, quoted)
        if not found or found[0][0] not in "rpfvm":
            return None
        columns = {
            column: ColumnShape(type=kind, nullable=nullable, default=default or None)
            for column, kind, nullable, default in self.run(_COLUMNS, quoted)
        }
        return Shape(
            columns=columns,
            primary_key=[row[0] for row in self.run(_PRIMARY, quoted)],
            indexes={row[0]: row[3] for row in self.run(_INDEXES, quoted) if not row[1]},
            foreign_keys=[row[0] for row in self.run(_FOREIGN, quoted)],
        )

    def expected_shape(self, spec: TableSpec, near: TableName) -> Shape:
        name = TableName.of("flowrunner_sketch", "pg_temp")
        self.run(f"CREATE TEMP TABLE {self.sql(name.name)} ({', '.join(self.definitions(spec))}) ON COMMIT DROP")
        for index in spec.indexes:
            self.run(self.index_statement(name, index))
        shape = self.shape(name)
        self.run(f"DROP TABLE {self.sql(name)}")
        return shape or Shape(columns={})

    def recreate_from_spec(self, table: Table, spec: TableSpec, name: str, creator: str) -> TableName:
        del name
        self.lock_exclusively(table.name)
        if lost := belongings_lost(self, table.name):
            raise unsuitable(table.name, lost)
        again = grants(self, table.name)
        self.run(f"DROP TABLE {self.sql(table.name)}")
        self.create_from_spec(table.name, spec, creator)
        for grant in again:
            self.run(grant.replace(HERE, self.sql(table.name)))
        return table.name

    def lock_exclusively(self, name: TableName) -> None:
        self.run(f"LOCK TABLE {self.sql(name)} IN ACCESS EXCLUSIVE MODE")

    def clear(self, name: TableName) -> int:
        self.lock_exclusively(name)
        rows = int(self.run(f"SELECT count(*) FROM {self.sql(name)}")[0][0])  # noqa: S608 - the name is quoted
        self.run(f"TRUNCATE TABLE {self.sql(name)}")
        return rows

    def drop(self, tables: Sequence[TableName], old_names: Sequence[TableName]) -> None:
        del old_names
        self.run(f"DROP TABLE {', '.join(map(self.sql, tables))}")

    def analyze(self, name: TableName) -> None:
        self._run_maintenance("ANALYZE", name)

    def vacuum(self, name: TableName | None) -> None:
        if name is None:
            raise ConfigError("vacuum needs tables here", field="tables", remedy="name the tables")
        self._run_maintenance("VACUUM (ANALYZE)", name)

    def reindex(self, name: TableName) -> None:
        self._run_maintenance("REINDEX TABLE", name)

    def _run_maintenance(self, command: str, name: TableName) -> None:
        """Run a command that only warns and skips a table if the login may not maintain it; raise then."""
        with self.warnings() as codes:
            self.run(f"{command} {self.sql(name)}")
        if codes:
            raise AccessDenied(
                f"{command} skipped {name} ({', '.join(sorted(set(codes)))})",
                remedy="run it as the owner of the table, or grant MAINTAIN on it (PostgreSQL 17)",
            )

    def refresh(self, name: TableName, *, concurrently: bool) -> None:
        found = self.run(_KIND, [self.sql(name)])
        if not found:
            raise NotFound(f"the materialized view {name} does not exist", remedy="create it, or correct its name")
        if found[0][0] != "m":
            raise ConfigError(f"{name} is not a materialized view", field="tables", remedy="name a materialized view")
        self.run(f"REFRESH MATERIALIZED VIEW {'CONCURRENTLY ' if concurrently else ''}{self.sql(name)}")

    def swap_partition(self, partition: TableName, replacement: TableName, old_name: str) -> None:
        found = self.run(_PARTITION, [self.sql(partition)])
        if not found:
            raise ConfigError(f"{partition} is not a partition", field="tables", remedy="name a partition of a table")
        _, schema, name, bound = found[0]
        if partition.schema != replacement.schema:
            raise ConfigError(
                "the partition and its replacement are in different schemas",
                field="replacement",
                remedy="create the replacement beside the partition",
            )
        parent, old, new = TableName.of(name, schema), self.sql(partition), self.sql(replacement)
        middle = partition.beside(old_name)
        self.run(f"LOCK TABLE {self.sql(parent)} IN ACCESS EXCLUSIVE MODE")
        self.run(f"ALTER TABLE {self.sql(parent)} DETACH PARTITION {old}")
        self._rename(old, middle.name)
        self._rename(new, partition.name)
        self._rename(self.sql(middle), replacement.name)
        self.run(f"ALTER TABLE {self.sql(parent)} ATTACH PARTITION {old} {bound}")

    def _rename(self, table: str, name: Identifier) -> None:
        self.run(f"ALTER TABLE {table} RENAME TO {self.sql(name)}")
