"""What actions on the structure of a database ask of a session: tables as they are, tables to make, upkeep.

The SQL is what PostgreSQL and SQLite share; the others override it. What a database does not know is refused.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are literals of `literal`
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.calling import Calling

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import Table, Type
    from flowrunner_provider.database.identifiers import TableName

__all__ = ["NOW", "ColumnShape", "ColumnSpec", "IndexSpec", "Shape", "Structured", "TableSpec"]

NOW = "now"
"""The default of a date or time: when the row is inserted."""


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column to create.

    :param default: a value; None for none.
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

    :param keys: its primary key.
    """

    columns: Sequence[ColumnSpec]
    keys: Sequence[str] = ()
    indexes: Sequence[IndexSpec] = ()

    def indexed(self) -> frozenset[str]:
        """The columns that some index has."""
        return frozenset(self.keys).union(*(index.columns for index in self.indexes))


@dataclass(frozen=True, kw_only=True)
class ColumnShape:
    """A column that is there, in the words of its database."""

    type: str
    nullable: bool
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A table or view that is there.

    :param indexes: name -> definition, without the primary key.
    :param foreign_keys: their definitions.
    """

    columns: dict[str, ColumnShape]
    primary_key: list[str] = field(default_factory=list)
    indexes: dict[str, str] = field(default_factory=dict)
    foreign_keys: list[str] = field(default_factory=list)


class Structured(Calling):
    """A part of every session."""

    now: ClassVar[Mapping[str, str]] = {
        "timestamp": "CURRENT_TIMESTAMP", "date": "CURRENT_DATE", "time": "CURRENT_TIME",
    }  # fmt: skip

    may_be_empty: ClassVar[str] = ""
    """What says so of a column."""

    @abstractmethod
    def lock(self, name: TableName) -> None:
        """Until the transaction ends nobody else writes into the table; readers go on."""

    def shape(self, name: TableName) -> Shape | None:
        """The structure of a table or view; None when there is none."""
        raise self.unknown("looking at structures")

    def unknown(self, what: str, field: str = "operation") -> ConfigError:
        """What this database does not know."""
        return ConfigError(
            f"{what} is nothing that this connection's database ({self.kind}) knows",
            field=field,
            remedy="leave the task away for this connection",
        )

    def literal(self, value: str | int | float | Decimal | bool) -> str:
        """A value as SQL, where no parameter can stand."""
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        return str(value)

    def column_type(self, column: ColumnSpec, *, indexed: bool) -> str:
        """The database's type for a column to create."""
        del indexed
        return self.types[column.type]

    def definitions(self, spec: TableSpec) -> list[str]:
        """What stands between the parentheses of ``CREATE TABLE``."""
        indexed, parts = spec.indexed(), []
        for column in spec.columns:
            part = f"{self.sql(column.name)} {self.column_type(column, indexed=column.name in indexed)}"
            if column.default is not None:
                moment = self.now.get(column.type) if column.default == NOW else None
                part += f" DEFAULT {moment or self.literal(column.default)}"
            empty = column.nullable and column.name not in spec.keys
            parts.append(part + (self.may_be_empty if empty else " NOT NULL"))
        return [*parts, f"PRIMARY KEY ({self.names(spec.keys)})"] if spec.keys else parts

    def make(self, name: TableName, spec: TableSpec, mark: str) -> None:
        """Create a table with its indexes.

        :param mark: who makes it; kept where :meth:`maker` has to tell it later.
        """
        del mark
        self.run(f"CREATE TABLE {self.sql(name)} ({', '.join(self.definitions(spec))})")
        for index in spec.indexes:
            self.run(self.index_statement(name, index))

    def index_statement(self, name: TableName, index: IndexSpec) -> str:
        """The statement that creates an index."""
        unique = "UNIQUE " if index.unique else ""
        return f"CREATE {unique}INDEX {self.sql(index.name)} ON {self.sql(name)} ({self.names(index.columns)})"

    def maker(self, name: TableName) -> str | None:
        """The mark of who made the table, where creating one commits by itself; None elsewhere."""
        del name
        return None

    def sketched(self, spec: TableSpec, near: TableName) -> Shape:
        """The structure that such a table would have, by a temporary one.

        :param near: in the schema of this table, where it cannot be elsewhere.
        """
        raise self.unknown("creating tables")

    def remake(self, table: Table, spec: TableSpec, name: str, mark: str) -> TableName:
        """An empty table that is to take the place of ``table``: already there, or under ``name`` for a swap.

        :raises ConfigError: if something would be lost that belongs to the table.
        """
        raise self.unknown("replacing tables")

    def seclude(self, name: TableName) -> None:
        """Until the transaction ends nobody else uses the table, where the database knows that."""
        self.lock(name)

    def clear(self, name: TableName) -> int:
        """Delete every row in the quickest way that a transaction can undo; return how many there were."""
        return self.execute(f"DELETE FROM {self.sql(name)}")

    def drop(self, tables: Sequence[TableName], asides: Sequence[TableName]) -> None:
        """Drop the tables in the transaction.

        :param asides: where each goes if that cannot be.
        """
        del asides
        for table in tables:
            self.run(f"DROP TABLE {self.sql(table)}")

    def analyze(self, name: TableName) -> None:
        """Renew the statistics of a table."""
        self.run(f"ANALYZE {self.sql(name)}")

    def vacuum(self, name: TableName | None) -> None:
        """Give the room of deleted rows back; None for the whole database."""
        raise self.unknown("vacuum")

    def reindex(self, name: TableName) -> None:
        """Build the indexes of a table anew."""
        raise self.unknown("reindex")

    def refresh(self, name: TableName, *, concurrently: bool) -> None:
        """Fill a materialized view anew."""
        raise self.unknown("a materialized view")

    def swap_partition(self, partition: TableName, replacement: TableName, aside: str) -> None:
        """The replacement becomes the partition, under its name, and the former one gets the replacement's name."""
        raise self.unknown("swapping a partition in a transaction")
