"""Schemas and maintenance in SQL Server, where DDL is transactional."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are literals or parameters
from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.mssql_swap import BOUND, belongings_lost
from flowrunner_provider.database.dialects.mssql_sync import MssqlSync
from flowrunner_provider.database.dialects.mssql_tables import KEYS, catalogue_of, described_columns, find, object_text
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.dialects.structure import ColumnShape, ColumnSpec, Shape, TableSpec
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Table

__all__ = ["MssqlStructure", "text_literal"]

_SKETCH = TableName.of("#flowrunner_sketch")
_MORE = (
    "SELECT c.name, c.is_nullable, d.definition, x.definition FROM {0}.columns AS c"
    " LEFT JOIN {0}.default_constraints AS d ON d.object_id = c.default_object_id"
    " LEFT JOIN {0}.computed_columns AS x ON x.object_id = c.object_id AND x.column_id = c.column_id"
    " WHERE c.object_id = OBJECT_ID(\x001\0)"
)
"""For each column: whether it is nullable, its default, and its computation."""
_INDEXES = (
    "SELECT i.index_id, i.name, i.type_desc, i.is_unique, i.is_primary_key, i.is_disabled, i.filter_definition, c.name,"
    " k.is_descending_key, k.is_included_column FROM {0}.indexes AS i"
    " JOIN {0}.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id"
    " JOIN {0}.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id"
    " WHERE i.object_id = OBJECT_ID(\x001\0) AND i.type <> 0 AND i.is_hypothetical = 0"
    " ORDER BY i.index_id, k.is_included_column, k.key_ordinal, k.index_column_id"
)
_FOREIGN = (
    "SELECT k.constraint_object_id, c.name, s.name, o.name, r.name, f.delete_referential_action_desc,"
    " f.update_referential_action_desc, f.is_disabled FROM sys.foreign_keys AS f"
    " JOIN sys.foreign_key_columns AS k ON k.constraint_object_id = f.object_id"
    " JOIN sys.columns AS c ON c.object_id = k.parent_object_id AND c.column_id = k.parent_column_id"
    " JOIN sys.objects AS o ON o.object_id = k.referenced_object_id"
    " JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " JOIN sys.columns AS r ON r.object_id = k.referenced_object_id AND r.column_id = k.referenced_column_id"
    " WHERE f.parent_object_id = OBJECT_ID(\x001\0) ORDER BY k.constraint_object_id, k.constraint_column_id"
)
_NEEDS_DELETE = (
    "SELECT 1 AS one FROM sys.foreign_keys WHERE referenced_object_id = OBJECT_ID(\x001\0)"
    " UNION ALL SELECT 1 FROM sys.columns WHERE object_id = OBJECT_ID(\x001\0) AND is_identity = 1"
    f" UNION ALL {BOUND}"
    " UNION ALL SELECT 1 FROM sys.tables WHERE object_id = OBJECT_ID(\x001\0)"
    " AND (temporal_type <> 0 OR is_tracked_by_cdc = 1 OR is_published = 1)"
)
"""What rules ``TRUNCATE TABLE`` out, including identity columns, which it would reset."""
_CLUSTERED = "SELECT 1 AS one FROM sys.indexes WHERE object_id = OBJECT_ID(\x001\0) AND type IN (1, 5)"


class MssqlStructure(MssqlSync):
    """The part of a session for schemas."""

    may_be_empty: ClassVar[str] = " NULL"
    now: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "timestamp": "SYSUTCDATETIME()",
            "date": "CONVERT(date, SYSUTCDATETIME())",
            "time": "CONVERT(time(6), SYSUTCDATETIME())",
        }
    )

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        if isinstance(value, bool):
            return str(int(value))
        return text_literal(value) if isinstance(value, str) else super().literal(value)

    def column_type(self, column: ColumnSpec, *, indexed: bool) -> str:
        """Return the type of a column; texts in an index have at most 450 characters."""
        return KEYS.get(column.type, self.types[column.type]) if indexed else self.types[column.type]

    def shape(self, name: TableName) -> Shape | None:
        found = find(self, name)
        return self._shape(found[0]) if found is not None and found[1] in ("U", "V") else None

    def _shape(self, name: TableName) -> Shape:
        catalogue, named = catalogue_of(name), [object_text(self, name)]
        more = {row[0]: row[1:] for row in self.run(_MORE.format(catalogue), named)}
        columns = {}
        for column in described_columns(self, name):
            nullable, default, computed = more[column.name]
            filled = "identity" if column.identity else f"computed {computed}" if computed else default
            columns[column.name] = ColumnShape(type=column.declaration, nullable=bool(nullable), default=filled)
        keys, indexes = _indexes(self.run(_INDEXES.format(catalogue), named))
        foreign = [] if name is _SKETCH else _foreign_keys(self.run(_FOREIGN, named))
        return Shape(columns=columns, primary_key=keys, indexes=indexes, foreign_keys=foreign)

    def expected_shape(self, spec: TableSpec, near: TableName) -> Shape:
        del near
        self.run(f"DROP TABLE IF EXISTS {self.sql(_SKETCH)}")
        self.create_from_spec(_SKETCH, spec, "")
        shape = self._shape(_SKETCH)
        self.run(f"DROP TABLE {self.sql(_SKETCH)}")
        return shape

    def recreate_from_spec(self, table: Table, spec: TableSpec, name: str, creator: str) -> TableName:
        del name
        self.lock_exclusively(table.name)
        if lost := belongings_lost(self, table.name, with_columns=False):
            raise unsuitable(table.name, lost)
        self.run(f"DROP TABLE {self.sql(table.name)}")
        self.create_from_spec(table.name, spec, creator)
        return table.name

    def lock_exclusively(self, name: TableName) -> None:
        self.run(f"SELECT TOP (1) 1 AS one FROM {self.sql(name)} WITH (TABLOCKX, HOLDLOCK)")

    def clear(self, name: TableName) -> int:
        """Delete row by row where the table is referenced or has an identity column, whose numbers then continue."""
        if self.run(_NEEDS_DELETE, [object_text(self, name)]):
            return super().clear(name)
        self.lock_exclusively(name)
        rows = int(self.run(f"SELECT {self.count_sql} FROM {self.sql(name)}")[0][0])
        self.run(f"TRUNCATE TABLE {self.sql(name)}")
        return rows

    def analyze(self, name: TableName) -> None:
        self.run(f"UPDATE STATISTICS {self.sql(name)}")

    def vacuum(self, name: TableName | None) -> None:
        """Reorganize the indexes online; rebuild a heap."""
        if name is None:
            raise ConfigError("vacuum needs tables here", field="tables", remedy="name the tables")
        if self.run(_CLUSTERED, [object_text(self, name)]):
            self.run(f"ALTER INDEX ALL ON {self.sql(name)} REORGANIZE")
        else:
            self.run(f"ALTER TABLE {self.sql(name)} REBUILD")

    def reindex(self, name: TableName) -> None:
        self.run(f"ALTER INDEX ALL ON {self.sql(name)} REBUILD")


def _indexes(rows: Sequence[tuple[Any, ...]]) -> tuple[list[str], dict[str, str]]:
    """Return the columns of the primary key, and the definitions of the other indexes by name."""
    keys: list[str] = []
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        if row[4] and not row[9]:
            keys.append(f"{row[7]}{' DESC' if row[8] else ''}")
        elif not row[4]:
            found.setdefault(row[1], []).append(row)
    indexes = {}
    for name, parts in found.items():
        _, _, kind, unique, _, disabled, condition, *_ = parts[0]
        shown = ", ".join(f"{row[7]}{' DESC' if row[8] else ''}" for row in parts if not row[9])
        more = ", ".join(row[7] for row in parts if row[9])
        words = ["unique"] if unique else []
        words += [] if kind == "NONCLUSTERED" else [kind.lower()]
        words += [f"({shown})"] if shown else []
        words += [f"include ({more})"] if more else []
        words += [f"where {condition}"] if condition else []
        indexes[name] = " ".join([*words, "(disabled)"] if disabled else words)
    return keys, indexes


def _foreign_keys(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    pairs: dict[int, list[str]] = {}
    ends: dict[int, str] = {}
    for number, column, schema, table, referred, on_delete, on_update, disabled in rows:
        pairs.setdefault(number, []).append(f"{column} -> {schema}.{table}.{referred}")
        actions = [f" on delete {on_delete.lower()}"] if on_delete != "NO_ACTION" else []
        actions += [f" on update {on_update.lower()}"] if on_update != "NO_ACTION" else []
        ends[number] = "".join([*actions, " (disabled)"] if disabled else actions)
    return sorted(", ".join(parts) + ends[number] for number, parts in pairs.items())


def text_literal(text: str) -> str:
    """Return a text as an SQL literal; a backslash at the end of a line would swallow the line break."""
    quoted = text.replace("'", "''")
    parts = quoted.replace("\\\r", "\\\0\r").replace("\\\n", "\\\0\n").split("\0")
    return f"N'{parts[0]}'" if len(parts) == 1 else "({})".format(" + ".join(f"N'{part}'" for part in parts))
