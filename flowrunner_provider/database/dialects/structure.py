"""The part of a session for schemas: describing, creating, replacing and maintaining tables.

The SQL is what PostgreSQL and SQLite share; the others override it. What a database lacks is refused.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are literals of `literal`
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.calling import RoutineCalls

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Table, Type
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["NOW", "ColumnShape", "ColumnSpec", "IndexSpec", "SchemaOperations", "Shape", "TableSpec"]

NOW = "now"
"""The default of a date or time column: the time of the insert."""


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column to create.

    :param default: its default value; None for no default.
    """

    name: str
    type: Type
    nullable: bool = True
    default: str | int | float | Decimal | bool | None = None


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """An index to create."""

    name: str
    columns: Sequence[str]
    unique: bool = False


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table to create.

    :param keys: the primary key.
    """

    columns: Sequence[ColumnSpec]
    keys: Sequence[str] = ()
    indexes: Sequence[IndexSpec] = ()

    def indexed(self) -> frozenset[str]:
        """Return the columns of all indexes and the primary key."""
        return frozenset(self.keys).union(*(index.columns for index in self.indexes))


@dataclass(frozen=True, kw_only=True)
class ColumnShape:
    """An existing column, as its database describes it."""

    type: str
    nullable: bool
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The structure of an existing table or view.

    :param indexes: name -> definition, without the primary key.
    :param foreign_keys: the definitions.
    """

    columns: dict[str, ColumnShape]
    primary_key: list[str] = field(default_factory=list)
    indexes: dict[str, str] = field(default_factory=dict)
    foreign_keys: list[str] = field(default_factory=list)


class SchemaOperations(RoutineCalls):
    """The schema part of every session."""

    now: ClassVar[Mapping[str, str]] = {
        "timestamp": "CURRENT_TIMESTAMP", "date": "CURRENT_DATE", "time": "CURRENT_TIME",
    }  # fmt: skip

    may_be_empty: ClassVar[str] = ""
    """The SQL that makes a column nullable, where it is not the default."""

    @abstractmethod
    def lock(self, name: TableName) -> None:
        """Block other writers of the table, not its readers, until the transaction ends."""

    def shape(self, name: TableName) -> Shape | None:
        """Return the structure of a table or view; None if it does not exist."""
        raise self.unknown("describing tables")

    def unknown(self, what: str, field: str = "operation") -> ConfigError:
        """Return the error for a feature that this database lacks."""
        return ConfigError(
            f"the database of this connection ({self.kind}) does not support {what}",
            field=field,
            remedy="remove the task for this connection",
        )

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        """Return a value as SQL, where no parameter is allowed."""
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        return str(value)

    def column_type(self, column: ColumnSpec, *, indexed: bool) -> str:
        """Return the database's type for a column to create."""
        del indexed
        return self.types[column.type]

    def definitions(self, spec: TableSpec) -> list[str]:
        """Return the column and constraint definitions of ``CREATE TABLE``."""
        indexed, parts = spec.indexed(), []
        for column in spec.columns:
            part = f"{self.sql(column.name)} {self.column_type(column, indexed=column.name in indexed)}"
            if column.default is not None:
                moment = self.now.get(column.type) if column.default == NOW else None
                part += f" DEFAULT {moment or self.literal(column.default)}"
            empty = column.nullable and column.name not in spec.keys
            parts.append(part + (self.may_be_empty if empty else " NOT NULL"))
        return [*parts, f"PRIMARY KEY ({self.names(spec.keys)})"] if spec.keys else parts

    def create_from_spec(self, name: TableName, spec: TableSpec, creator: str) -> None:
        """Create a table with its indexes.

        :param creator: identifies the creating task; stored where :meth:`creator_of` has to return it.
        """
        del creator
        self.run(f"CREATE TABLE {self.sql(name)} ({', '.join(self.definitions(spec))})")
        for index in spec.indexes:
            self.run(self.index_statement(name, index))

    def index_statement(self, name: TableName, index: IndexSpec) -> str:
        """Return the statement that creates an index."""
        unique = "UNIQUE " if index.unique else ""
        return f"CREATE {unique}INDEX {self.sql(index.name)} ON {self.sql(name)} ({self.names(index.columns)})"

    def creator_of(self, name: TableName) -> str | None:
        """Return the table's creator where ``CREATE TABLE`` commits; None elsewhere."""
        del name
        return None

    def expected_shape(self, spec: TableSpec, near: TableName) -> Shape:
        """Return the structure that such a table would have, by creating a temporary one.

        :param near: a table whose schema it is created in, where a temporary table needs one.
        """
        raise self.unknown("creating tables")

    def recreate_from_spec(self, table: Table, spec: TableSpec, name: str, creator: str) -> TableName:
        """Replace ``table`` by an empty one: at once, or under ``name`` for a later swap.

        :raises ConfigError: if something that belongs to the table would be lost.
        """
        raise self.unknown("replacing tables")

    def lock_exclusively(self, name: TableName) -> None:
        """Lock the table exclusively until the transaction ends, where the database can."""
        self.lock(name)

    def clear(self, name: TableName) -> int:
        """Delete every row in the fastest way that can be rolled back; return how many there were."""
        return self.execute(f"DELETE FROM {self.sql(name)}")

    def drop(self, tables: Sequence[TableName], old_names: Sequence[TableName]) -> None:
        """Drop the tables in the transaction.

        :param old_names: a name for each, to rename it to where a drop cannot be rolled back.
        """
        del old_names
        for table in tables:
            self.run(f"DROP TABLE {self.sql(table)}")

    def analyze(self, name: TableName) -> None:
        """Update the statistics of a table."""
        self.run(f"ANALYZE {self.sql(name)}")

    def vacuum(self, name: TableName | None) -> None:
        """Reclaim the space of deleted rows; None for the whole database."""
        raise self.unknown("vacuum")

    def reindex(self, name: TableName) -> None:
        """Rebuild the indexes of a table."""
        raise self.unknown("reindex")

    def refresh(self, name: TableName, *, concurrently: bool) -> None:
        """Refresh a materialized view."""
        raise self.unknown("materialized views")

    def swap_partition(self, partition: TableName, replacement: TableName, old_name: str) -> None:
        """Exchange a partition and another table; each gets the name of the other."""
        raise self.unknown("swapping partitions in a transaction")
