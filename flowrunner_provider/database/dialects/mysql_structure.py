"""Schemas and maintenance in MySQL and MariaDB, where DDL commits implicitly.

A table is therefore created with its indexes in one statement, and its comment identifies the creator. Tables are
dropped after one ``RENAME TABLE`` that moves them aside under names of this task.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.core.errors import ConfigError, Rejected
from flowrunner_provider.database.dialects.mysql_call import MysqlCalls
from flowrunner_provider.database.dialects.mysql_swap import belongings_lost
from flowrunner_provider.database.dialects.mysql_tables import find
from flowrunner_provider.database.dialects.refusals import unsuitable
from flowrunner_provider.database.dialects.structure import ColumnShape, ColumnSpec, Shape, TableSpec
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.base import Session
    from flowrunner_provider.database.dialects.model import Table

__all__ = ["MysqlStructure"]

_IN_KEYS = {"string": "varchar(255)", "binary": "varbinary(255)", "object": "varchar(255)", "array": "varchar(255)"}
_COMMENT = "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0"
_FOREIGN = (
    "SELECT CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME"
    " FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = \x001\0 AND TABLE_NAME = \x002\0"
    " AND REFERENCED_TABLE_NAME IS NOT NULL ORDER BY CONSTRAINT_NAME, ORDINAL_POSITION"
)
_CHILDREN = (
    "SELECT CONSTRAINT_SCHEMA, TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS"
    " WHERE UNIQUE_CONSTRAINT_SCHEMA = \x001\0 AND REFERENCED_TABLE_NAME = \x002\0"
)


class MysqlStructure(MysqlCalls):
    """The part of a session for schemas."""

    now: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"timestamp": "CURRENT_TIMESTAMP(6)", "date": "(CURRENT_DATE)", "time": "(CURRENT_TIME(6))"}
    )

    @abstractmethod
    def quoted(self, text: str) -> str:
        """Return a text as an SQL literal."""

    @abstractmethod
    def decide(self, statement: str, name: str) -> None:
        """Run the statement that takes effect irrevocably, and begin a new transaction."""

    @abstractmethod
    def _begin_again(self) -> None:
        """Begin a new transaction after an implicit commit."""

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        return f"({self.quoted(value)})" if isinstance(value, str) else super().literal(value)

    def column_type(self, column: ColumnSpec, *, indexed: bool) -> str:
        """Return the type of a column; texts in an index have at most 255 characters."""
        return _IN_KEYS.get(column.type, self.types[column.type]) if indexed else self.types[column.type]

    def shape(self, name: TableName) -> Shape | None:
        found = find(self._session, name)
        if found is None:
            return None
        return self._shape(found[0])

    @property
    def _session(self) -> Session:
        return self  # type: ignore[return-value]

    def _shape(self, name: TableName) -> Shape:
        columns = {
            row[0]: ColumnShape(
                type=row[1].lower(), nullable=row[2] == "YES", default=" ".join(filter(None, (row[4], row[5]))) or None
            )
            for row in self.run(f"SHOW COLUMNS FROM {self.sql(name)}")
        }
        parts: dict[str, list[str]] = {}
        heads: dict[str, str] = {}
        for row in self.run(f"SHOW INDEX FROM {self.sql(name)}"):
            length = f"({row[7]})" if row[7] else ""
            parts.setdefault(row[2], []).append(f"{row[4] or 'expression'}{length}{' DESC' if row[5] == 'D' else ''}")
            heads[row[2]] = ("" if row[1] else "unique ") + str(row[10]).lower()
        indexes = {index: f"{heads[index]} ({', '.join(columns)})" for index, columns in parts.items()}
        indexes.pop("PRIMARY", None)
        foreign: dict[str, list[str]] = {}
        for constraint, column, parent, referred in self.run(_FOREIGN, _where(name)):
            foreign.setdefault(constraint, []).append(f"{column} -> {parent}.{referred}")
        return Shape(
            columns=columns,
            primary_key=parts.get("PRIMARY", []),
            indexes=indexes,
            foreign_keys=sorted(", ".join(pairs) for pairs in foreign.values()),
        )

    def definitions(self, spec: TableSpec) -> list[str]:
        indexes = [
            f"{'UNIQUE ' if index.unique else ''}INDEX {self.sql(index.name)} ({self.names(index.columns)})"
            for index in spec.indexes
        ]
        return [*super().definitions(spec), *indexes]

    def create_from_spec(self, name: TableName, spec: TableSpec, creator: str) -> None:
        """Create a table, which commits the transaction."""
        self.run(
            f"CREATE TABLE {self.sql(name)} ({', '.join(self.definitions(spec))}) ENGINE=InnoDB"
            f" DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin COMMENT={self.quoted(creator)}"
        )
        self._begin_again()

    def creator_of(self, name: TableName) -> str | None:
        found = self.run(_COMMENT, _where(name))
        return str(found[0][0]) if found else None

    def expected_shape(self, spec: TableSpec, near: TableName) -> Shape:
        name = near.beside("flowrunner_sketch")
        self.run(
            f"CREATE TEMPORARY TABLE {self.sql(name)} ({', '.join(self.definitions(spec))}) ENGINE=InnoDB"
            " DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        shape = self._shape(name)
        self.run(f"DROP TEMPORARY TABLE {self.sql(name)}")
        return shape

    def recreate_from_spec(self, table: Table, spec: TableSpec, name: str, creator: str) -> TableName:
        if lost := belongings_lost(self._session, table.name):
            raise unsuitable(table.name, lost)
        new = table.name.beside(name)
        self._session.drop_leftovers(new)
        self.create_from_spec(new, spec, creator)
        return new

    def drop(self, tables: Sequence[TableName], old_names: Sequence[TableName]) -> None:
        before: set[tuple[str, ...]] = set()
        for table in tables:
            before.add(tuple(_where(table)))
            if {tuple(row) for row in self.run(_CHILDREN, _where(table))} - before:
                raise Rejected(
                    f"foreign keys of other tables refer to {table}; nothing was dropped",
                    code="1451",
                    remedy="drop those tables first, or name them before it",
                )
        moves = [f"{self.sql(table)} TO {self.sql(place)}" for table, place in zip(tables, old_names, strict=True)]
        self.decide(f"RENAME TABLE {', '.join(moves)}", "RENAME TABLE")

    def analyze(self, name: TableName) -> None:
        self._run_maintenance(f"ANALYZE TABLE {self.sql(name)}", name)

    def vacuum(self, name: TableName | None) -> None:
        if name is None:
            raise ConfigError("vacuum needs tables here", field="tables", remedy="name the tables")
        self._run_maintenance(f"OPTIMIZE TABLE {self.sql(name)}", name)

    def reindex(self, name: TableName) -> None:
        self.run(f"ALTER TABLE {self.sql(name)} FORCE")

    def _run_maintenance(self, statement: str, name: TableName) -> None:
        """Run a statement that reports failure as a row of its result."""
        if any(str(row[2]).lower() == "error" for row in self.run(statement)):
            raise Rejected(f"the server failed to maintain {name}", remedy="check the table and the server's log")


def _where(name: TableName) -> list[str]:
    return [name.schema.text if name.schema else "", name.name.text]
