"""One connection with at most one transaction, in the words that a load needs.

The SQL here is what SQLite and PostgreSQL share; another dialect overrides what it says otherwise.
Names come in as :class:`TableName` and :class:`Identifier` and values as parameters: nothing else is ever
put into a statement.
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
    Params,
    Passed,
    Row,
    Table,
)
from flowrunner_provider.database.dialects.refusals import duplicate_keys
from flowrunner_provider.database.dialects.structure import Structured
from flowrunner_provider.database.dialects.syncing import Syncing
from flowrunner_provider.database.identifiers import TableName

__all__ = ["Session"]


class Session(Structured, Syncing, ABC):
    """One connection. Every method raises errors of :mod:`flowrunner_provider.core.errors`, without values of rows."""

    placeholder: ClassVar[str]
    """Of the n-th parameter; ``{}`` is n."""
    mark: ClassVar[str] = "?"
    """A placeholder by place, in the style of users' statements."""
    named_mark: ClassVar[str] = ":{}"
    """One by name."""
    home: Callable[[Session], None] | None = None
    """Who takes the connection back when it is closed."""
    counts: ClassVar[str] = "count(*)"
    """The number of rows, however large."""
    moment: ClassVar[str] = "CURRENT_TIMESTAMP"
    """Now, in UTC."""
    row_errors: ClassVar[tuple[str, ...]]
    """How the codes begin of errors that are about a single row."""
    key_errors: ClassVar[frozenset[str]] = frozenset()
    """The codes of a key that is there already; none where an INSERT itself can say what to do then."""

    @abstractmethod
    def begin(self, isolation: Isolation = "read committed", *, read_only: bool = False) -> None:
        """Open the transaction.

        :param read_only: nothing can be written; with ``repeatable read`` all is read from one snapshot.
        """

    def hold(self, key: str) -> None:
        """Wait until no other connection holds ``key``, then hold it; needed where the server commits in between."""
        del key

    @abstractmethod
    def described(self, query: str, params: Params) -> dict[str, str]:
        """The columns of a query that is not run yet: name -> type in the words of a dataset, or empty.

        :raises ConfigError: if it is no query, or two columns have one name.
        """

    def digits(self, query: str, params: Params) -> dict[str, tuple[int, int]]:
        """Precision and scale of the columns of a query that are decimals and have them declared."""
        del query, params
        return {}

    @abstractmethod
    def stream(self, query: str, params: Params, *, batch_rows: int) -> AbstractContextManager[Iterator[list[Row]]]:
        """The rows of a query in batches, from a cursor of the server."""

    def copy_out(
        self, query: str, params: Params, *, most: Callable[[], int], passed: Passed, apart: int = 0
    ) -> int | None:
        """Hand over the rows of a query as CSV without a header, where the database writes such itself.

        :param most: asked before each block how many rows it may have.
        :param passed: called with each block, of whole rows, their number, and what they have in common.
        :param apart: how many of the last columns are not in the blocks: all rows of a block have the same there.
        :return: how many rows the database says there were; None if it does not write CSV.
        """
        del query, params, most, passed, apart
        return None

    def castable(self, kind: str, name: str, target: str) -> str:
        """A column as it is to be selected for a file of the format ``target``.

        :param kind: from :meth:`described`.
        :param name: quoted.
        """
        del kind, target
        return name

    def sort_key(self, kind: str, name: str) -> str:
        """A column to sort by, so that texts come in the order of their code points."""
        del kind
        return name

    def user_text(self, text: str) -> str:
        """A text without placeholders as a part of a statement that has some."""
        return text

    @abstractmethod
    def commit(self) -> None:
        """Make everything since :meth:`begin` durable.

        :raises OutcomeUnknown: when the connection broke before the answer came.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Undo everything since :meth:`begin`; a connection that is gone has done so itself."""

    def close(self) -> None:
        """Let go of the connection: it ends, or goes back to where it was lent."""
        home, self.home = self.home, None
        if home is None:
            self.end()
        else:
            home(self)

    @abstractmethod
    def end(self) -> None:
        """End the connection."""

    def park(self) -> bool:
        """Undo what is not committed and forget all settings, to be used again; False where that cannot be."""
        return False

    def resume(self, deadline: Deadline) -> None:
        """Begin again after :meth:`park`.

        :raises TransientError: if the connection has ended meanwhile.
        """
        del deadline

    @abstractmethod
    def locate(self, name: TableName) -> TableName:
        """``name`` with its schema: of the table if it is there, else where it would be created."""

    @abstractmethod
    def table(self, name: TableName) -> Table | None:
        """What is known of the table; None when there is none."""

    @abstractmethod
    def copy(self, table: TableName, columns: Sequence[str]) -> AbstractContextManager[Copier]:
        """Append rows in bulk."""

    def copy_file(
        self, table: TableName, columns: Sequence[str], file: CsvFile, passed: Callable[[int], None]
    ) -> tuple[int, int] | None:
        """Append the rows of a file, all of its columns; None, and nothing stored, if it must be parsed instead.

        :param passed: called after each block with the number of its lines.
        :return: how many rows the database has stored, and how many the file has.
        """
        del table, columns, file, passed
        return None

    @abstractmethod
    def stage(self, table: TableName, columns: Sequence[str]) -> TableName:
        """An empty temporary table with these columns of ``table``, without its constraints."""

    @abstractmethod
    def replacement(self, table: Table, columns: Sequence[Column] | None, name: str) -> TableName:
        """An empty table that is to take the place of ``table``; its old rows stay visible to others.

        :param columns: its columns; None for those of ``table``.
        :param name: a name that it may have until then.
        """

    def stand_in(self, table: Table, name: str) -> TableName | None:
        """:meth:`replacement` with the same columns; None if the new table would lack something."""
        self.savepoint()
        try:
            new = self.replacement(table, None, name)
        except ConfigError:
            self.back()
            return None
        self.keep()
        return new

    @abstractmethod
    def swap(self, table: Table, replacement: TableName, aside: TableName) -> None:
        """The replacement takes the place and the name of the table.

        :param aside: where the table goes if it cannot be dropped in the same step.
        """

    def tidy(self, *tables: TableName) -> None:
        """Drop tables that a killed attempt may have left, where the end of its transaction does not."""
        del tables

    def check_constraints(self) -> None:
        """Check now what the database would only check when it commits: nothing, where each goes with its row."""

    @abstractmethod
    def describe(self) -> str:
        """Name and version of the server, and whether this login may create tables."""

    def create(
        self, name: TableName, columns: Sequence[Column], *, keys: Sequence[str] = (), may_exist: bool = False
    ) -> None:
        """Create a table.

        :param keys: its primary key.
        """
        parts = [f"{self.sql(column.name)} {self.types[column.type]}" for column in columns]
        if keys:
            parts.append(f"PRIMARY KEY ({self.names(keys)})")
        guard = "IF NOT EXISTS " if may_exist else ""
        self.run(f"CREATE TABLE {guard}{self.sql(name)} ({', '.join(parts)})")

    def create_shared(self, name: TableName, columns: Sequence[Column], keys: Sequence[str]) -> None:
        """Create a table outside of the transaction unless it is there, whoever else does the same now."""
        self.create(name, columns, keys=keys, may_exist=True)

    def insert_once(self, table: TableName, row: Mapping[str, Any], key: str) -> bool:
        """Insert one row; False if its key is there already, after waiting for whoever is inserting it."""
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
        """How many rows the table has."""
        return int(self.run(f"SELECT {self.counts} FROM {self.sql(table)}")[0][0])

    def empty(self, table: TableName) -> None:
        """Delete every row; others see the old ones until the commit."""
        self.run(f"DELETE FROM {self.sql(table)}")

    def savepoint(self, name: str = "flowrunner") -> None:
        """Mark a place to go back to."""
        self.run(f"SAVEPOINT {self.sql(name)}")

    def keep(self, name: str = "flowrunner") -> None:
        """Forget the place: what came after it stays."""
        self.run(f"RELEASE SAVEPOINT {self.sql(name)}")

    def back(self, name: str = "flowrunner") -> None:
        """Undo what came after the place, and forget it."""
        self.run(f"ROLLBACK TO SAVEPOINT {self.sql(name)}")
        self.keep(name)

    def limited(self, query: str, rows: int) -> str:
        """A query that begins with SELECT, of which no more than so many rows come."""
        return f"{query} LIMIT {rows}"

    def nth(self, query: str, order: str, skipped: int) -> str:
        """A query of which one row comes, in that order behind so many others."""
        return f"{query} ORDER BY {order} LIMIT 1 OFFSET {skipped}"

    def has_null(self, table: TableName, keys: Sequence[str]) -> bool:
        """Whether a row has no value in one of ``keys``."""
        condition = " OR ".join(f"{self.sql(key)} IS NULL" for key in keys)
        return bool(self.run(self.limited(f"SELECT 1 AS one FROM {self.sql(table)} WHERE {condition}", 1)))

    def duplicates(self, table: TableName, keys: Sequence[str]) -> int:
        """How many rows share their keys with an earlier one."""
        names = self.names(keys)
        found = self.run(
            f"SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM {self.sql(table)}"
            f" GROUP BY {names} HAVING count(*) > 1) AS d"
        )
        return int(found[0][0])

    @abstractmethod
    def keep_last(self, stage: TableName, keys: Sequence[str]) -> int:
        """Delete the staged rows that a later one with the same keys replaces; return how many."""

    def check_unique(self, stage: TableName, keys: Sequence[str]) -> None:
        """Look whether staged rows share their keys.

        :raises IntegrityError: if they do.
        """
        if count := self.duplicates(stage, keys):
            raise duplicate_keys(keys, count)

    def known(self, stage: TableName, table: TableName, keys: Sequence[str]) -> int:
        """How many of the staged rows have keys that are there."""
        exists = f"EXISTS (SELECT 1 FROM {self.sql(table)} AS t WHERE {self.same(keys)})"
        return int(self.run(f"SELECT count(*) FROM {self.sql(stage)} AS s WHERE {exists}")[0][0])

    @abstractmethod
    def merge(self, merge: Merge) -> Merged:
        """Insert the staged rows, and update those whose keys are there.

        :raises IntegrityError: if staged rows share their keys.
        """

    def upsert_clause(self, keys: Sequence[str], updates: Sequence[str]) -> str:
        """What to do about a row whose keys are there."""
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
