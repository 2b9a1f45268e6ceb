"""Schemas and maintenance in SQLite, where DDL is transactional."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are literals
from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.dialects.structure import ColumnShape, IndexSpec, SchemaOperations, Shape, TableSpec
from flowrunner_provider.database.identifiers import Identifier, TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Table

__all__ = ["SqliteStructure", "belongings", "key_collations", "referenced"]


class SqliteStructure(SchemaOperations):
    """The part of a session for schemas."""

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        return str(int(value)) if isinstance(value, bool) else super().literal(value)

    def shape(self, name: TableName) -> Shape | None:
        schema, text = self.sql(name.schema or "main"), name.name.text
        table = self.sql(name.name)
        master = "temp.sqlite_temp_master" if schema == '"temp"' else f"{schema}.sqlite_master"
        if not self.run(f"SELECT 1 FROM {master} WHERE type IN ('table', 'view') AND name = ?1", [text]):
            return None
        rows = self.run(f"PRAGMA {schema}.table_xinfo({table})")
        columns = {
            row[1]: ColumnShape(
                type=str(row[2]).upper(), nullable=not row[3], default="generated" if row[6] in (2, 3) else row[4]
            )
            for row in rows
        }
        keys = [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]
        indexes = {}
        for _, index, unique, origin, *_ in self.run(f"PRAGMA {schema}.index_list({table})"):
            if origin != "pk":
                indexes[index] = self._index(schema, master, index, unique=bool(unique))
        foreign: dict[int, list[tuple[str, str]]] = {}
        for number, _, parent, column, referred, *_ in self.run(f"PRAGMA {schema}.foreign_key_list({table})"):
            foreign.setdefault(number, []).append((column, f"{parent}.{referred or ''}"))
        keys_out = sorted(", ".join(f"{column} -> {to}" for column, to in pairs) for pairs in foreign.values())
        return Shape(columns=columns, primary_key=keys, indexes=indexes, foreign_keys=keys_out)

    def _index(self, schema: str, master: str, index: str, *, unique: bool) -> str:
        parts = self.run(f"PRAGMA {schema}.index_xinfo({self.sql(index)})")
        shown = [f"{row[2] or 'expression'}{' DESC' if row[3] else ''}" for row in parts if row[5]]
        text = f"{'unique ' if unique else ''}({', '.join(shown)})"
        found = self.run(f"SELECT sql FROM {master} WHERE type = 'index' AND name = ?1", [index])
        _, where, condition = str(found[0][0] if found else "").partition(" WHERE ")
        return f"{text} where {condition}" if where else text

    def index_statement(self, name: TableName, index: IndexSpec) -> str:
        unique = "UNIQUE " if index.unique else ""
        place = TableName(Identifier(index.name), name.schema)
        return f"CREATE {unique}INDEX {self.sql(place)} ON {self.sql(name.name)} ({self.names(index.columns)})"

    def expected_shape(self, spec: TableSpec, near: TableName) -> Shape:
        name = TableName.of("flowrunner_sketch", "temp")
        self.create_from_spec(name, spec, "")
        shape = self.shape(name)
        self.run(f"DROP TABLE {self.sql(name)}")
        return shape or Shape(columns={})

    def recreate_from_spec(self, table: Table, spec: TableSpec, name: str, creator: str) -> TableName:
        del name
        if any(kind == "trigger" for kind, _ in belongings(self, table.name)):
            raise unsuitable(table.name, ["triggers"])
        if self.run("PRAGMA foreign_keys")[0][0] and referenced(self, table.name):
            raise unsuitable(table.name, ["foreign keys of other tables"])
        self.run(f"DROP TABLE {self.sql(table.name)}")
        self.create_from_spec(table.name, spec, creator)
        return table.name

    def vacuum(self, name: TableName | None) -> None:
        if name is not None:
            raise ConfigError("SQLite vacuums the whole file only", field="tables", remedy="remove tables")
        self.run("VACUUM")

    def reindex(self, name: TableName) -> None:
        self.run(f"REINDEX {self.sql(name)}")


def belongings(session: SchemaOperations, name: TableName) -> list[tuple[str, str]]:
    """Return type and statement of the table and of everything that belongs to it."""
    master = f"{session.sql(name.schema or 'main')}.sqlite_master"
    found = session.run(
        f"SELECT type, sql FROM {master} WHERE lower(tbl_name) = lower(?1) AND sql IS NOT NULL", [name.name.text]
    )
    return [(str(kind), str(statement)) for kind, statement in found]


def referenced(session: SchemaOperations, name: TableName) -> bool:
    """Return whether a foreign key refers to the table."""
    tables = session.run("SELECT name FROM sqlite_master WHERE type = 'table'")
    return any(
        row[2].lower() == name.name.text.lower()
        for (table,) in tables
        for row in session.run(f"PRAGMA foreign_key_list({session.sql(table)})")
    )


def key_collations(session: SchemaOperations, name: TableName) -> dict[str, str]:
    """Return column -> ``COLLATE ...`` for the columns of unique indexes that do not compare byte by byte."""
    schema = session.sql(name.schema or "main")
    collations = {}
    for _, index, unique, *_ in session.run(f"PRAGMA {schema}.index_list({session.sql(name.name)})"):
        for _, _, column, _, collation, key in session.run(f"PRAGMA {schema}.index_xinfo({session.sql(index)})"):
            if unique and key and column is not None and collation != "BINARY":
                collations[column] = f"COLLATE {session.sql(collation)}"
    return collations
