"""The sync engine: copies rows of one database into a table of another exactly once, together with the watermark."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast, get_args

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.progress import Progress
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column, Merge, Params, Table, Type
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import new_table_name, old_table_name
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.pipe import Pipe, TransferCounts
from flowrunner_provider.database.sync.deletes import check_keys, remove_unlisted
from flowrunner_provider.database.sync.ledger import Watermark
from flowrunner_provider.database.sync.plan import SyncPlan
from flowrunner_provider.database.sync.results import SyncResult
from flowrunner_provider.database.sync.source import QueryBuilder
from flowrunner_provider.database.sync.watermark import check_not_ahead, display_text, earlier

__all__ = ["sync"]

_DATASET_TYPES = {
    "json": "object", "timestamptz": "timestamp", "datetime": "timestamp", "int": "integer", "bigint": "integer",
    "real": "number", "double": "number", "numeric": "decimal", "bool": "boolean", "blob": "binary",
}  # fmt: skip
"""Source types of added columns -> dataset types, where the names differ."""


def sync(
    plan: SyncPlan,
    read_from: Callable[[], Session],
    connect: Callable[[], Session],
    run: Run,
    *,
    same_file: bool = False,
) -> SyncResult:
    """Apply the rows, the deletes and the watermark to the destination in one commit.

    Killed or retried anywhere, the sync happens exactly once. It reads one snapshot of the source, taken after every
    other run of the same sync has ended.

    :param read_from: opens a connection to the source.
    :param connect: opens a connection to the destination.
    :param same_file: both are the same SQLite file, which only the writing connection can read.
    """
    work = _Work(plan=plan, read_from=read_from, run=run, same_file=same_file)
    once = Once(
        action="sql.sync",
        target=work.target,
        fingerprint=plan.fingerprint(),
        connect=connect,
        body=work.fill,
        run=run,
        failpoint=lambda name: failpoint(f"sql.sync.{name}"),
        other_work=f"synced otherwise into {work.target}",
        check_target=work.check_target,
        publish=work.publish,
        remove_leftovers=work.remove_leftovers,
    )
    return SyncResult(**{**once.perform(), "table": str(work.target), "mode": plan.mode})


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """The result, as the ledger records it."""

    rows: int
    inserted: int
    updated: int = 0
    skipped: int = 0
    deleted: int = 0
    restored: int = 0
    columns_added: list[str] = field(default_factory=list)
    since: str | None = None
    until: str | None = None


@dataclass(kw_only=True)
class _Work:
    """The steps of a sync that :class:`Once` calls."""

    plan: SyncPlan
    read_from: Callable[[], Session]
    run: Run
    same_file: bool
    target: TableName = field(init=False)
    _swap: tuple[Table, TableName] | None = None

    def __post_init__(self) -> None:
        self.target = TableName.parse(self.plan.table)
        self.key = self.run.effects.key("sql.sync")

    def check_target(self, session: Session, target: TableName) -> None:
        """Raise unless the table exists and the query only reads."""
        self.target = target
        if session.table(target) is None:
            raise NotFound(f"the table {target} does not exist", remedy="create it, for example with sql.create_table")
        if self.same_file:
            with self._source(session, own_connection=True) as source:
                self.plan.origin.column_types(source)

    def fill(self, session: Session) -> dict[str, Any]:
        """Apply rows, deletes and watermark in the open transaction; return the result."""
        self._swap = None
        stored = Watermark(session, self.target, self.plan.identity())
        before = stored.read()
        failpoint("sql.sync.after_turn")
        table = cast("Table", session.table(self.target))
        with self._source(session) as source:
            done, after = _Transfer(self.plan, self.run, source, session, table, self._create_replacement).perform(
                before
            )
        if after is not None:
            stored.write(after)
            failpoint("sql.sync.after_watermark")
        return asdict(done)

    @contextmanager
    def _source(self, session: Session, *, own_connection: bool = False) -> Iterator[Session]:
        """Open a snapshot of the source.

        :param own_connection: use a separate connection, also for the same file.
        """
        if self.same_file and not own_connection:
            yield session
            return
        with self.read_from() as source:
            source.begin("repeatable read", read_only=True)
            yield source
            source.rollback()

    def _create_replacement(self, session: Session, table: Table) -> TableName | None:
        """Create the table to be swapped with ``table``; return None where its rows are deleted instead."""
        if self.plan.replace_by == "delete" or self.same_file:
            return None
        if self.plan.replace_by == "swap":
            new: TableName | None = session.create_replacement(table, None, new_table_name(self.key))
        else:
            new = session.try_replacement(table, new_table_name(self.key))
        if new is not None:
            self._swap = table, new
            failpoint("sql.sync.after_replacement")
        return new

    def publish(self, session: Session) -> None:
        """Swap the filled table with the old one."""
        if self._swap is not None:
            self.run.lease.check()
            session.swap(*self._swap, old_table_name(self.target, self.key))
            failpoint("sql.sync.after_swap")

    def remove_leftovers(self, session: Session, target: TableName, done: bool) -> None:
        """Drop the leftovers of a swap; the old table only after the new one has taken its place."""
        if self.plan.mode == "full" and self.plan.replace_by != "delete":
            new, old = target.beside(new_table_name(self.key)), old_table_name(target, self.key)
            session.drop_leftovers(*((new, old) if done else (new,)))


class _Transfer:
    """Copies rows from an open source into a table, in an open transaction."""

    def __init__(
        self,
        plan: SyncPlan,
        run: Run,
        source: Session,
        target: Session,
        table: Table,
        create_replacement: Callable[[Session, Table], TableName | None],
    ) -> None:
        self._plan, self._run, self._source, self._target = plan, run, source, target
        self._table, self._create_replacement = table, create_replacement
        self._types = plan.origin.column_types(source)
        self._mapping = plan.columns(self._types)
        self._window: tuple[Any, Any] | None = None
        self._columns_added: list[str] = []

    def perform(self, before: Any) -> tuple[_Outcome, Any]:
        """Run the sync; return the result and the new watermark, if there is one.

        :param before: the watermark of the last run; None before the first.
        """
        self._apply_drift()
        self._check_unique()
        if self._plan.mode == "full":
            return replace(self._replace(), columns_added=self._columns_added), None
        after = None
        if self._plan.mode == "incremental":
            after = self._set_window(before)
        done = self._merge(nothing_new=self._plan.mode == "incremental" and self._window is None)
        if self._window is not None:
            done = replace(done, since=display_text(self._window[0]))
        return replace(done, columns_added=self._columns_added, until=display_text(after)), after

    # -- columns -----------------------------------------------------------------------------------------

    def _apply_drift(self) -> None:
        """Apply ``schema_drift`` to the source columns that the table lacks."""
        drifted = {name: other for name, other in self._mapping.items() if other not in self._table.columns}
        if not drifted:
            return
        if self._plan.schema_drift == "fail":
            raise ConfigError(
                f"the source has a column {next(iter(drifted.values()))!r} that {self._table.name} lacks",
                field="schema_drift",
                remedy="add it to the table, map it to null in column_map, or pass schema_drift='add' or 'ignore'",
            )
        if self._plan.schema_drift == "ignore":
            self._mapping = {name: other for name, other in self._mapping.items() if name not in drifted}
            self._plan.columns(self._mapping)
            return
        declared = self._declared_types()
        for name, other in drifted.items():
            self._target.add_column(
                self._table.name, Column(other, _dataset_type(self._types[name] or declared.get(name, "")))
            )
            failpoint("sql.sync.after_column")
        self._columns_added = list(drifted.values())
        self._table = cast("Table", self._target.table(self._table.name))

    def _declared_types(self) -> Mapping[str, str]:
        """Return the declared column types of a source table, where a query does not report them."""
        origin = self._plan.origin
        table = self._source.table(TableName.parse(origin.table)) if origin.table is not None else None
        return {} if table is None else table.columns

    def _check_unique(self) -> None:
        keys = self._plan.keys
        if keys and frozenset(keys) not in self._table.unique:
            raise ConfigError(
                f"{self._table.name} has no primary key or unique index on exactly {', '.join(keys)}",
                field="keys",
                remedy="create a unique index on these columns, or name the columns of an existing one",
            )

    # -- reading ------------------------------------------------------------------------------------

    def _set_window(self, before: Any) -> Any:
        """Set the range of watermarks to read; return the watermark after this run."""
        column = str(self._plan.watermark)
        builder = QueryBuilder(self._source, self._plan.origin, binds=False)
        name = f"q.{builder.name(column)}"
        if builder.first(self._source.limit_rows(f"SELECT 1 AS one FROM {builder.source} WHERE {name} IS NULL", 1)):
            raise IntegrityError(
                f"a row of the source has no {column}, so that no run would ever read it",
                remedy="give it a value, or exclude such rows with sql",
            )
        exact = self._source.exact(self._types[column], name)
        found = builder.first(f"SELECT max({exact}) AS latest FROM {builder.source}")
        upper = found[0] if found else None
        if upper is None:
            return before
        check_not_ahead(upper, self._run.clock.now(), column)
        self._window = (earlier(before, self._plan.lookback) if before is not None else None, upper)
        return upper if before is None else max(before, upper)

    def _query(self, columns: Sequence[str]) -> Callable[[Sequence[str]], tuple[str, Params]]:
        """Return a function that builds the query for these source columns within the window."""

        def build(patterns: Sequence[str]) -> tuple[str, Params]:
            builder = QueryBuilder(self._source, self._plan.origin, binds=self._window is not None)
            parts = [
                pattern.format(f"q.{builder.name(column)}") for pattern, column in zip(patterns, columns, strict=True)
            ]
            query = f"SELECT {', '.join(parts)} FROM {builder.source}"
            if self._window is not None:
                watermark = str(self._plan.watermark)
                kind, name = self._types[watermark], f"q.{builder.name(watermark)}"
                bounds = [
                    self._source.bounded(kind, name, sign, lambda value=value: builder.value(value))  # type: ignore[misc]
                    for sign, value in zip((">=", "<="), self._window, strict=True)
                    if value is not None
                ]
                query += f" WHERE {' AND '.join(bounds)}"
            return query, builder.params

        return build

    def _copy(self, table: TableName, chosen: Mapping[str, str], what: str) -> int:
        """Append the chosen columns of the source to a table; return the row count."""
        progress = self._run.progress(what, unit="rows")
        counts = Pipe(
            source=self._source,
            select=self._query(list(chosen)),
            target=self._target,
            columns=list(chosen.values()),
            deadline=self._run.deadline,
            on_rows=lambda rows: self._on_block(progress, rows),
            batch_rows=self._plan.batch_size,
        ).append_to(table)
        progress.finish()
        self._check_stored(counts)
        return counts.read

    def _on_block(self, progress: Progress, rows: int) -> None:
        self._run.deadline.check("the sync")
        progress.advance(rows)
        failpoint("sql.sync.after_block")

    def _check_stored(self, counts: TransferCounts) -> None:
        if counts.read != counts.stored:
            raise IntegrityError(
                f"the destination stored {counts.stored} of {counts.read} rows; everything was rolled back",
                remedy="check for a trigger or rule that drops or redirects rows",
            )

    def _check_not_empty(self, rows: int) -> None:
        if not rows and not self._plan.allow_empty:
            raise IntegrityError(
                f"the source {self._plan.origin.name} has no rows; nothing was changed",
                remedy="check the source; if it may be empty, pass allow_empty=True",
            )

    # -- writing ------------------------------------------------------------------------------

    def _replace(self) -> _Outcome:
        target, table = self._target, self._table
        target.lock(table.name)
        if self._source is target:
            return self._replace_over_one_connection()
        new = self._create_replacement(target, table)
        if new is None:
            target.empty(table.name)
            failpoint("sql.sync.after_empty")
        rows = self._copy(new or table.name, self._mapping, "sync")
        self._check_not_empty(rows)
        if new is not None and target.count(new) != rows:
            self._check_stored(TransferCounts(rows, target.count(new)))
        return _Outcome(rows=rows, inserted=rows)

    def _replace_over_one_connection(self) -> _Outcome:
        """Replace the rows over one connection; read all before deleting, as the query may read the table itself."""
        target, columns = self._target, list(self._mapping.values())
        stage = target.stage(self._table.name, columns)
        rows = self._copy(stage, self._mapping, "sync")
        self._check_not_empty(rows)
        target.empty(self._table.name)
        failpoint("sql.sync.after_empty")
        target.insert_all(stage, self._table.name, columns)
        target.drop_stage(stage)
        return _Outcome(rows=rows, inserted=rows)

    def _merge(self, *, nothing_new: bool) -> _Outcome:
        target, plan, deleted, restored = self._target, self._plan, 0, 0
        if plan.detect_deletes and plan.mode == "incremental":
            deleted, restored = self._delete_unlisted()
        if nothing_new:
            return _Outcome(rows=0, inserted=0, deleted=deleted, restored=restored)
        columns = list(self._mapping.values())
        stage = target.stage(self._table.name, columns)
        rows = self._copy(stage, self._mapping, "sync")
        failpoint("sql.sync.after_stage")
        if plan.mode == "merge":
            self._check_not_empty(rows)
        check_keys(target, stage, plan)
        if plan.detect_deletes and plan.mode == "merge":
            deleted, restored = remove_unlisted(target, self._table, stage, plan)
        merged = target.merge(Merge(stage=stage, table=self._table.name, columns=columns, keys=plan.keys))
        failpoint("sql.sync.after_merge")
        if merged.inserted + merged.updated + merged.skipped != rows:
            raise IntegrityError(
                f"the destination stored {merged.inserted + merged.updated} of {rows} rows; everything was rolled back",
                remedy="check for a trigger or rule that drops or redirects rows",
            )
        return _Outcome(rows=rows, deleted=deleted, restored=restored, **asdict(merged))

    def _delete_unlisted(self) -> tuple[int, int]:
        """Delete the rows whose keys are not in the source: all its keys are listed, from the same snapshot."""
        chosen = {name: other for name, other in self._mapping.items() if other in self._plan.keys}
        listing = self._target.stage(self._table.name, list(chosen.values()))
        window, self._window = self._window, None
        listed = self._copy(listing, chosen, "list keys")
        self._window = window
        self._check_not_empty(listed)
        check_keys(self._target, listing, self._plan)
        failpoint("sql.sync.after_listing")
        found = remove_unlisted(self._target, self._table, listing, self._plan)
        self._target.drop_stage(listing)
        return found


def _dataset_type(kind: str) -> Type:
    """Return the dataset type of an added column."""
    kind = _DATASET_TYPES.get(kind.lower(), kind.lower())
    return cast("Type", kind) if kind in get_args(Type) else "string"
