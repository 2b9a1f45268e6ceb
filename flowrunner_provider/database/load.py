"""Load the rows of a file into a table, once.

Everything happens in one transaction of the target's database: the ledger row, the rows, the checks. A kill at any
point therefore leaves either all of it or nothing, and the ledger tells the next attempt which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, cast, get_args

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, CsvFile, Merge, Row, Table, Type
from flowrunner_provider.database.dialects.values import types_of
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import Counts, new_table_name, old_table_name
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.plan import LoadPlan
from flowrunner_provider.database.rejects import Rejects, store_fitting
from flowrunner_provider.database.results import LoadResult

__all__ = ["Rows", "Source", "column_type", "load"]

_TYPES: dict[str, Type] = {
    "str": "string", "int": "integer", "float": "number", "Decimal": "decimal", "bool": "boolean",
    "dict": "object", "list": "array", "date": "date", "time": "time", "datetime": "timestamp", "bytes": "binary",
}  # fmt: skip


class Rows(Protocol):
    """An open source."""

    columns: list[str]

    def __iter__(self) -> Iterator[list[Row]]:
        """Yield batches of rows."""


Source = Callable[[], AbstractContextManager[Rows]]
"""Opens the rows from their beginning, in the same order each time."""


def load(
    source: Source,
    plan: LoadPlan,
    connect: Callable[[], Session],
    run: Run,
    *,
    fingerprint: str,
    types: Mapping[str, str] | None = None,
    total: int | None = None,
    csv: CsvFile | None = None,
    action: str = "sql.load",
) -> LoadResult:
    """Load the rows into the table and record this in the ledger, in a single commit.

    A killed or repeated load stores the rows exactly once: a later attempt finds the ledger row and returns its counts,
    or finds nothing and does all of it. One batch is in memory at a time.

    :param source: opens the rows; called again when a conflict forces the transaction to be repeated.
    :param connect: opens a connection; called again then, and when a connection broke at COMMIT.
    :param fingerprint: of the load; another fingerprint under the same key is rejected.
    :param types: the column types that the dataset declares, for a table to create.
    :param total: the number of rows, if known.
    :param csv: the source as a file, for a database that parses CSV itself.
    :param action: the action's name, which prefixes its failpoints.
    :raises OutcomeUnknown: if the connection broke at COMMIT and the ledger cannot be read now; the retry reads it.
    """
    with source() as rows:
        names = list(rows.columns)
    target = TableName.parse(plan.table)
    csv = None if csv is None else replace(csv, width=len(names))
    work = _Load(source=source, names=names, plan=plan, run=run, types=types or {}, total=total, csv=csv, action=action)
    once = Once(
        action=action,
        target=target,
        fingerprint=fingerprint,
        connect=connect,
        body=work.fill,
        run=run,
        failpoint=work.failpoint,
        other_work=f"loaded other data into {target}",
        check_target=work.check_target,
        publish=work.publish,
        remove_leftovers=work.remove_leftovers,
    )
    counts = Counts(**once.perform())
    return LoadResult(table=str(work.target), **asdict(counts))


@dataclass(kw_only=True)
class _Load:
    source: Source
    names: list[str]
    plan: LoadPlan
    run: Run
    types: Mapping[str, str]
    total: int | None
    csv: CsvFile | None
    action: str
    target: TableName = field(init=False)

    def __post_init__(self) -> None:
        self.target = TableName.parse(self.plan.table)
        self.key = self.run.effects.key(self.action)
        self.mapping = self.plan.columns(self.names)
        self.columns = [name for _, name in self.mapping]
        self._pending_swap: tuple[Table, TableName] | None = None

    def failpoint(self, name: str) -> None:
        """Pass a failpoint of the action."""
        failpoint(f"{self.action}.{name}")

    def check_target(self, session: Session, target: TableName) -> None:
        """Check the target table before anything is written."""
        self.target = target
        self._find_target(session, target)

    def fill(self, session: Session) -> dict[str, Any]:
        """Load all rows in the open transaction and return the counts."""
        self._pending_swap = None
        with self.source() as rows:
            return asdict(self._fill(session, self.target, rows))

    def publish(self, session: Session) -> None:
        """Swap the new table in."""
        if self._pending_swap is not None:
            self.run.lease.check()
            session.swap(*self._pending_swap, old_table_name(self.target, self.key))
            self.failpoint("after_swap")

    def remove_leftovers(self, session: Session, target: TableName, done: bool) -> None:
        """Drop what a replacement left behind; the old table only when the new one is known to be in its place."""
        if self.plan.mode == "replace":
            new, old = target.beside(new_table_name(self.key)), old_table_name(target, self.key)
            session.drop_leftovers(*((new, old) if done else (new,)))

    def _find_target(self, session: Session, target: TableName) -> Table | None:
        """Return the target table, or None if it is to be created."""
        table = session.table(target)
        if table is None:
            if not self.plan.create_table:
                raise NotFound(f"the table {target} does not exist", remedy="create it, or pass create_table=True")
            return None
        if self.plan.mode == "replace" and self.plan.create_table:
            return table
        if unknown := [name for name in self.columns if name not in table.columns]:
            raise ConfigError(
                f"{target} has no column {unknown[0]!r} that can be loaded",
                field="column_map",
                remedy=f"map it to null or to one of {', '.join(table.columns)}, which exclude generated columns",
            )
        if self.plan.keys and frozenset(self.plan.keys) not in table.unique:
            raise ConfigError(
                f"{target} has no primary key or unique index on exactly {', '.join(self.plan.keys)}",
                field="keys",
                remedy="create a unique index on these columns, or pass the columns of an existing one",
            )
        return table

    def _fill(self, session: Session, target: TableName, rows: Rows) -> Counts:
        batches = self._batches(rows)
        first = next(batches, [])
        table = self._find_target(session, target)
        created = self._new_columns(first) if self.plan.create_table else []
        if table is None:
            session.create(target, created, keys=self.plan.keys)
            table = Table(name=target, columns={})
            self.failpoint("after_create")
        batches = chain([first] if first else [], batches)
        if self.plan.mode == "upsert":
            counts = self._upsert(session, table.name, batches)
        elif self.plan.mode == "replace" and table.columns:
            counts = self._replace(session, table, created or None, batches)
        else:
            if self.plan.mode == "truncate":
                session.lock(table.name)
                session.empty(table.name)
                self.failpoint("after_empty")
            counts = self._insert(session, table.name, batches)
        self._check_counts(counts)
        return counts

    def _new_columns(self, batch: Sequence[Row]) -> list[Column]:
        """Return the columns of a new table, with the types that the dataset declares or those of the first batch."""
        found = types_of(batch) if batch else [set() for _ in self.columns]
        return [
            Column(name, column_type(self.types.get(self.names[source_index]), found[index]))
            for index, (source_index, name) in enumerate(self.mapping)
        ]

    def _batches(self, rows: Rows) -> Iterator[list[Row]]:
        indexes = [source_index for source_index, _ in self.mapping]
        unchanged = indexes == list(range(len(self.names)))
        progress = self.run.progress("load", unit="rows", total=self.total)
        for batch in rows:
            self.run.deadline.check("the load")
            yield batch if unchanged else [tuple([row[source_index] for source_index in indexes]) for row in batch]
            progress.advance(len(batch))
            self.failpoint("after_batch")
        progress.finish()

    def _insert(self, session: Session, table: TableName, batches: Iterable[list[Row]]) -> Counts:
        if self.plan.reject_path is not None:
            return self._insert_with_rejects(session, table, batches)
        if (copied := self._copy_file(session, table)) is not None:
            stored, read = copied
            self._check_stored(stored, read)
            self._check_source_rows(read)
            return Counts(rows=read, inserted=stored)
        read = 0
        with session.copy(table, self.columns) as copier:
            for batch in batches:
                copier.write(batch)
                read += len(batch)
        self._check_stored(copier.rows, read)
        return Counts(rows=read, inserted=read)

    def _copy_file(self, session: Session, table: TableName) -> tuple[int, int] | None:
        """Send the bytes of the file, the fastest way; return None if the database cannot parse this file itself."""
        if self.csv is None or len(self.mapping) != len(self.names):
            return None

        progress = self.run.progress("load", unit="lines", total=self.total)

        def on_block(lines: int) -> None:
            self.run.deadline.check("the load")
            progress.advance(lines)
            self.failpoint("after_batch")

        copied = session.copy_file(table, self.columns, self.csv, on_block)
        if copied is not None:
            progress.finish()
        return copied

    def _insert_with_rejects(self, session: Session, table: TableName, batches: Iterable[list[Row]]) -> Counts:
        rejects = Rejects(str(self.plan.reject_path), self.key[:16], self.columns, self.plan.max_failures)
        session.check_constraints()
        read = stored = 0
        try:
            for batch in batches:
                stored += store_fitting(session, table, self.columns, batch, read + 1, rejects)
                read += len(batch)
            self._check_stored(stored, read - rejects.count)
        except FlowRunnerError:
            rejects.discard()
            raise
        rejects.publish()
        return Counts(rows=read, inserted=stored, rejected=rejects.count)

    def _replace(
        self, session: Session, table: Table, columns: list[Column] | None, batches: Iterable[list[Row]]
    ) -> Counts:
        session.lock(table.name)
        new = session.create_replacement(table, columns, new_table_name(self.key))
        self.failpoint("after_replacement")
        counts = self._insert(session, new, batches)
        self._check_stored(session.count(new), counts.inserted)
        self._pending_swap = table, new
        return counts

    def _upsert(self, session: Session, table: TableName, batches: Iterable[list[Row]]) -> Counts:
        stage = session.stage(table, self.columns)
        staged = self._insert(session, stage, batches).rows
        self.failpoint("after_stage")
        if session.has_null(stage, self.plan.keys):
            raise Rejected(
                f"a row has no value in a key column ({', '.join(self.plan.keys)})",
                code="23502",
                remedy="correct the source: a NULL key matches no row, so each load would insert it again",
            )
        replaced = session.keep_last(stage, self.plan.keys) if self.plan.keep == "last" else 0
        plan = self.plan
        merge = Merge(stage=stage, table=table, columns=self.columns, keys=plan.keys, updates=plan.updates)
        merged = session.merge(merge)
        self.failpoint("after_merge")
        skipped = merged.skipped + replaced
        self._check_stored(merged.inserted + merged.updated + skipped, staged)
        return Counts(rows=staged, inserted=merged.inserted, updated=merged.updated, skipped=skipped)

    def _check_stored(self, stored: int, read: int) -> None:
        if stored != read:
            raise IntegrityError(
                f"the database stored {stored} of {read} rows; the load was rolled back",
                remedy="check for a trigger or rule that drops or redirects rows",
            )

    def _check_source_rows(self, read: int) -> None:
        if self.total not in (None, read):
            raise IntegrityError(
                f"the source has {read} rows, but its dataset declares {self.total}; nothing was stored",
                remedy="the file was replaced or truncated: run the task that wrote it again",
            )

    def _check_counts(self, counts: Counts) -> None:
        expected, least = self.plan.expected_rows, self.plan.min_rows
        if counts.rows < least or expected not in (None, counts.rows):
            wanted = f"{expected}" if expected is not None else f"at least {least}"
            raise IntegrityError(
                f"the source has {counts.rows} rows, expected were {wanted}; nothing was stored",
                remedy="check the task that wrote the source",
            )


def column_type(declared: str | None, found: set[type]) -> Type:
    """Return the type of a column: the declared one, or the one that fits the values found."""
    declared = "timestamp" if declared == "timestamptz" else declared
    if declared in get_args(Type):
        return cast("Type", declared)
    names = {kind.__name__ for kind in found} - {"NoneType"}
    if names == {"int", "float"}:
        return "number"
    return _TYPES.get(names.pop(), "string") if len(names) == 1 else "string"
