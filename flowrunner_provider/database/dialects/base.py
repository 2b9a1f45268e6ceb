"""The interface of a database session: one connection with at most one open transaction.

The SQL here is what SQLite and PostgreSQL share; the other dialects override what differs. Names arrive as
:class:`TableName` and :class:`Identifier` and values as parameters: nothing else gets into a statement.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, Self

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, Rejected
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.dialects.model import (
    Column,
    Copier,
    CsvFile,
    Merge,
    Merged,
    OnBlock,
    Params,
    Row,
    Table,
)
from flowrunner_provider.database.dialects.refusals import duplicate_keys
from flowrunner_provider.database.dialects.structure import SchemaOperations
from flowrunner_provider.database.dialects.syncing import SyncOperations
from flowrunner_provider.database.identifiers import TableName

__all__ = ["Session"]


class Session(SchemaOperations, SyncOperations, ABC):
    """A connection. Its methods raise errors of :mod:`flowrunner_provider.core.errors`, which contain no row values."""

    placeholder: ClassVar[str]
    """The placeholder of the n-th parameter in our own statements; ``{}`` is n."""
    user_placeholder: ClassVar[str] = "?"
    """A positional placeholder in users' statements."""
    user_named_placeholder: ClassVar[str] = ":{}"
    """A named placeholder in users' statements; ``{}`` is the name."""
    return_to_pool: Callable[[Session], None] | None = None
    """Returns the connection to the pool that lent it; None if no pool did."""
    count_sql: ClassVar[str] = "count(*)"
    """The SQL that counts rows without overflow."""
    now_sql: ClassVar[str] = "CURRENT_TIMESTAMP"
    """The SQL for the current time in UTC."""
    has_arrays: ClassVar[bool] = False
    """Whether a column can be an array, so that a list is not always JSON."""
    row_errors: ClassVar[tuple[str, ...]]
    """Prefixes of the error codes that concern a single row."""
    key_errors: ClassVar[frozenset[str]] = frozenset()
    """Error codes of a duplicate key; empty where ``INSERT ... ON CONFLICT`` handles it."""

    @abstractmethod
    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        """Begin the transaction.

        :param read_only: refuse writes; with ``repeatable read``, read everything from one snapshot.
        """

    def acquire_lock(self, key: str) -> None:
        """Acquire the advisory lock ``key``; needed where the server commits in the middle of the work."""
        del key

    @abstractmethod
    def column_types(self, query: str, params: Params) -> dict[str, str]:
        """Return the columns of a query without running it: name -> dataset type, or empty if it has none.

        :raises ConfigError: if it is not a query, or two columns have the same name.
        """

    def decimal_precisions(self, query: str, params: Params) -> dict[str, tuple[int, int]]:
        """Return precision and scale of the decimal columns of a query that declare them."""
        del query, params
        return {}

    @abstractmethod
    def stream(self, query: str, params: Params, *, batch_rows: int) -> AbstractContextManager[Iterator[list[Row]]]:
        """Return the rows of a query in batches, from a server-side cursor."""

    def copy_out(
        self, query: str, params: Params, *, block_limit: Callable[[], int], on_block: OnBlock, shared_columns: int = 0
    ) -> int | None:
        """Pass on the rows of a query as CSV without a header, where the database itself writes CSV.

        :param block_limit: returns the row limit of the next block.
        :param on_block: receives each block of complete rows, their number, and the values that they share.
        :param shared_columns: the number of trailing columns to keep out of the blocks; a block shares their values.
        :return: the row count that the database reports; None if it does not write CSV.
        """
        del query, params, block_limit, on_block, shared_columns
        return None

    def select_for_format(self, kind: str, name: str, target: str) -> str:
        """Return the SQL that selects a column for a file of the format ``target``.

        :param kind: the column's type, from :meth:`column_types`.
        :param name: its quoted name.
        """
        del kind, target
        return name

    def sort_key(self, kind: str, name: str) -> str:
        """Return the SQL that sorts by a column, and texts by their code points."""
        del kind
        return name

    def user_text(self, text: str) -> str:
        """Escape a text without placeholders for a statement that has some."""
        return text

    @abstractmethod
    def commit(self) -> None:
        """Commit the transaction.

        :raises OutcomeUnknown: if the connection broke before the server answered.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Roll the transaction back; when the connection is lost, the server does so itself."""

    def close(self) -> None:
        """End the connection, or return it to its pool."""
        return_to_pool, self.return_to_pool = self.return_to_pool, None
        if return_to_pool is None:
            self.end()
        else:
            return_to_pool(self)

    @abstractmethod
    def end(self) -> None:
        """End the connection."""

    def reset(self) -> bool:
        """Roll back and reset the session for reuse; return whether the connection can be reused."""
        return False

    def prepare(self, deadline: Deadline) -> None:
        """Prepare a parked connection for use.

        :raises TransientError: if it ended in the meantime.
        """
        del deadline

    @abstractmethod
    def locate(self, name: TableName) -> TableName:
        """Return ``name`` with its schema; of a table that does not exist, where it would be created."""

    @abstractmethod
    def table(self, name: TableName) -> Table | None:
        """Return the table's columns and unique keys; None if it does not exist."""

    @abstractmethod
    def copy(self, table: TableName, columns: Sequence[str]) -> AbstractContextManager[Copier]:
        """Return a context that appends rows in bulk."""

    def copy_file(
        self, table: TableName, columns: Sequence[str], file: CsvFile, passed: Callable[[int], None]
    ) -> tuple[int, int] | None:
        """Append all columns of a CSV file, sent as it is.

        :param passed: called after each block with its number of lines.
        :return: how many rows the database stored and the file has; None, with nothing stored, if the file must be
            parsed instead.
        """
        del table, columns, file, passed
        return None

    @abstractmethod
    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        """Create an empty staging table with these columns of ``table`` and without its constraints."""

    @abstractmethod
    def create_replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        """Create an empty table to be swapped with ``table``, whose rows stay visible until then.

        :param columns: the new columns; None for those of ``table``.
        :param name: its name before the swap.
        :raises ConfigError: if ``table`` has something that the new table would lack.
        """

    def try_replacement(self, table: Table, name: str) -> TableName | None:
        """Call :meth:`create_replacement` with the same columns; return None if the new table would lack something."""
        self.savepoint()
        try:
            new = self.create_replacement(table, None, name)
        except ConfigError:
            self.rollback_to_savepoint()
            return None
        self.release_savepoint()
        return new

    @abstractmethod
    def swap(self, table: Table, replacement: TableName, old_name: TableName) -> None:
        """Give the replacement the name of the table, and drop the table.

        :param old_name: the name for the old table where it cannot be dropped in the same step.
        """

    def drop_leftovers(self, *tables: TableName) -> None:
        """Drop tables that a killed attempt may have left, where its rollback does not."""
        del tables

    def check_constraints(self) -> None:
        """Check the constraints that the database defers to the commit."""

    @abstractmethod
    def describe(self) -> str:
        """Return the server's name and version, and whether this login may create tables."""

    def create(
        self, name: TableName, columns: Sequence[Column], *, keys: Sequence[str] = (), may_exist: bool = False
    ) -> None:
        """Create a table.

        :param keys: the primary key.
        """
        parts = [f"{self.sql(column.name)} {self.types[column.type]}" for column in columns]
        if keys:
            parts.append(f"PRIMARY KEY ({self.names(keys)})")
        guard = "IF NOT EXISTS " if may_exist else ""
        self.run(f"CREATE TABLE {guard}{self.sql(name)} ({', '.join(parts)})")

    def create_shared(self, name: TableName, columns: Sequence[Column], keys: Sequence[str]) -> None:
        """Create a table outside of a transaction unless it exists; safe while others do the same."""
        self.create(name, columns, keys=keys, may_exist=True)

    def insert_once(self, table: TableName, row: Mapping[str, Any], key: str) -> bool:
        """Insert a row; return False if its key exists, after waiting for a transaction that is inserting it."""
        marks = ", ".join(self.placeholder.format(n) for n in range(1, len(row) + 1))
        insert = f"INSERT INTO {self.sql(table)} ({self.names(list(row))}) VALUES ({marks})"
        if not self.key_errors:
            return bool(self.run(f"{insert} ON CONFLICT ({self.sql(key)}) DO NOTHING RETURNING 1", list(row.values())))
        try:
            self.run(insert, list(row.values()))
        except Rejected as error:
            if error.code in self.key_errors:
                return False
            raise
        return True

    def count(self, table: TableName) -> int:
        """Return the number of rows of a table."""
        return int(self.run(f"SELECT {self.count_sql} FROM {self.sql(table)}")[0][0])

    def empty(self, table: TableName) -> None:
        """Delete every row; other transactions see them until the commit."""
        self.run(f"DELETE FROM {self.sql(table)}")

    def savepoint(self, name: str = "flowrunner") -> None:
        """Create a savepoint."""
        self.run(f"SAVEPOINT {self.sql(name)}")

    def release_savepoint(self, name: str = "flowrunner") -> None:
        """Release a savepoint and keep what followed it."""
        self.run(f"RELEASE SAVEPOINT {self.sql(name)}")

    def rollback_to_savepoint(self, name: str = "flowrunner") -> None:
        """Roll back to a savepoint and release it."""
        self.run(f"ROLLBACK TO SAVEPOINT {self.sql(name)}")
        self.release_savepoint(name)

    def limit_rows(self, query: str, rows: int) -> str:
        """Limit a query that begins with SELECT to so many rows."""
        return f"{query} LIMIT {rows}"

    def nth_row(self, query: str, order: str, skipped: int) -> str:
        """Limit a query to the one row that follows ``skipped`` others in that order."""
        return f"{query} ORDER BY {order} LIMIT 1 OFFSET {skipped}"

    def has_null(self, table: TableName, keys: Sequence[str]) -> bool:
        """Return whether a row has NULL in one of ``keys``."""
        condition = " OR ".join(f"{self.sql(key)} IS NULL" for key in keys)
        return bool(self.run(self.limit_rows(f"SELECT 1 AS one FROM {self.sql(table)} WHERE {condition}", 1)))

    def duplicates(self, table: TableName, keys: Sequence[str]) -> int:
        """Return how many rows have the keys of another row."""
        names = self.names(keys)
        found = self.run(
            f"SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM {self.sql(table)}"
            f" GROUP BY {names} HAVING count(*) > 1) AS d"
        )
        return int(found[0][0])

    @abstractmethod
    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        """Delete the staged rows that a later row with the same keys supersedes; return how many."""

    def check_unique(self, stage: TableName, keys: Sequence[str]) -> None:
        """Raise if two staged rows have the same keys.

        :raises IntegrityError: with their number.
        """
        if count := self.duplicates(stage, keys):
            raise duplicate_keys(keys, count)

    def count_known(self, stage: TableName, table: TableName, keys: Sequence[str]) -> int:
        """Return how many staged rows have keys that exist in the table."""
        exists = f"EXISTS (SELECT 1 FROM {self.sql(table)} AS t WHERE {self.same(keys)})"
        return int(self.run(f"SELECT count(*) FROM {self.sql(stage)} AS s WHERE {exists}")[0][0])

    @abstractmethod
    def merge(self, merge: Merge) -> Merged:
        """Insert the staged rows, and update the rows whose keys exist.

        :raises IntegrityError: if two staged rows have the same keys.
        """

    def upsert_clause(self, keys: Sequence[str], updates: Sequence[str]) -> str:
        """Return the ``ON CONFLICT`` clause of an upsert."""
        if not updates:
            return f"ON CONFLICT ({self.names(keys)}) DO NOTHING"
        sets = ", ".join(f"{self.sql(column)} = excluded.{self.sql(column)}" for column in updates)
        return f"ON CONFLICT ({self.names(keys)}) DO UPDATE SET {sets}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
