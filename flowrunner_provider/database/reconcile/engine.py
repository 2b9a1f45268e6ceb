"""Comparison of two tables or queries: by row count, by sums, or row by row in key order."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset, format_of, is_gzip, local_path
from flowrunner_provider.data.writers import RowWriter, open_writer, part_token
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Row
from flowrunner_provider.database.identifiers import Identifier
from flowrunner_provider.database.pipe import ReadAhead
from flowrunner_provider.database.reconcile.results import ColumnSum, Compare, OnMismatch, ReconcileResult
from flowrunner_provider.database.reconcile.values import Sameness, aligned
from flowrunner_provider.database.sync.source import Origin, QueryBuilder

__all__ = ["ReconcilePlan", "reconcile"]

_NUMBERS = frozenset({"integer", "number", "decimal"})


@dataclass(frozen=True, kw_only=True)
class ReconcilePlan:
    """The parameters of the action ``sql.reconcile``.

    :raises ConfigError: naming the parameter to correct.
    """

    left: Origin
    right: Origin
    compare: Compare = "count"
    keys: Sequence[str] = ()
    columns: Sequence[str] | None = None
    sameness: Sameness = field(default_factory=Sameness)
    diff_path: str | None = None
    max_diffs: int = 1000
    on_mismatch: OnMismatch = "fail"
    allow_empty: bool = False
    batch_size: int = 5_000

    def __post_init__(self) -> None:
        for name, choices in (("compare", Compare), ("on_mismatch", OnMismatch)):
            if getattr(self, name) not in get_args(choices):
                raise _bad(name, f"{name} is {getattr(self, name)!r}", f"use one of {', '.join(get_args(choices))}")
        for name, names in (("keys", self.keys), ("columns", self.columns or ())):
            if isinstance(names, str) or not all(isinstance(item, str) for item in names):
                raise _bad(name, f"{name} must be a list of column names", 'for example ["id"]')
            if len(set(names)) != len(names):
                raise _bad(name, f"{name} contains a column twice", "remove the duplicate")
            for item in names:
                Identifier(item)
        if (self.compare == "rows") != bool(self.keys):
            raise _bad("keys", "keys are for compare='rows', which needs them", "name the columns of a unique key")
        if self.columns is not None and self.compare == "count":
            raise _bad("columns", "compare='count' takes no columns", "remove them")
        if self.diff_path is not None:
            if self.compare != "rows":
                raise _bad("diff_path", "diff_path is for compare='rows'", "remove it")
            if format_of(local_path(self.diff_path, "diff_path"), "diff_path") != "jsonl" or is_gzip(self.diff_path):
                raise _bad("diff_path", "the differences are written as JSON Lines", "use a path that ends in .jsonl")
        for name in ("max_diffs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise _bad(name, f"{name} must be 1 or more", "give a whole number")


def _bad(name: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=name, remedy=remedy)


def reconcile(
    plan: ReconcilePlan, left: Callable[[], Session], right: Callable[[], Session], run: Run
) -> ReconcileResult:
    """Compare both sides, each in one read-only snapshot.

    Nothing is changed. A killed or retried task compares again; the file of differences appears only when complete.

    :raises IntegrityError: if they differ and ``on_mismatch`` is ``fail``.
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(connect()) for connect in (left, right)]
        for session in sessions:
            session.begin("repeatable read", read_only=True)
        failpoint("sql.reconcile.after_connect")
        sides = [
            _Side(session, origin, plan) for session, origin in zip(sessions, (plan.left, plan.right), strict=True)
        ]
        result = _RowComparison(plan, sides, run).perform() if plan.compare == "rows" else _aggregates(plan, sides)
        for session in sessions:
            session.rollback()
    _raise_on_mismatch(plan, result)
    return result


class _Side:
    """One side of the comparison."""

    def __init__(self, session: Session, origin: Origin, plan: ReconcilePlan) -> None:
        self.session, self.origin, self._plan = session, origin, plan
        self.kinds = origin.column_types(session)
        for name, names in (("keys", plan.keys), ("columns", plan.columns or ())):
            if unknown := [column for column in names if column not in self.kinds]:
                raise _bad(name, f"{origin.name} has no column {unknown[0]!r}", f"it has {', '.join(self.kinds)}")

    def aggregates(self, columns: Sequence[str]) -> Row:
        """Return the row count and the sum of each column."""
        builder = QueryBuilder(self.session, self.origin, binds=False)
        sums = [self.session.summed(self.kinds[column], f"q.{builder.name(column)}") for column in columns]
        parts = [f"{expression} AS value_{number}" for number, expression in enumerate([self.session.count_sql, *sums])]
        return builder.first(f"SELECT {', '.join(parts)} FROM {builder.source}") or ()

    def rows(self, columns: Sequence[str]) -> Generator[list[Row], None, None]:
        """Yield batches of rows in key order, texts by their code points."""
        builder = QueryBuilder(self.session, self.origin, binds=False)
        order = [
            builder.plain(self.session.sort_key(self.kinds[key], f"q.{self.session.sql(key)}"))
            for key in self._plan.keys
        ]
        chosen = ", ".join(f"q.{builder.name(column)}" for column in columns)
        query = f"SELECT {chosen} FROM {builder.source} ORDER BY {', '.join(order)}"
        with self.session.stream(query, builder.params, batch_rows=self._plan.batch_size) as batches:
            yield from batches


def _aggregates(plan: ReconcilePlan, sides: Sequence[_Side]) -> ReconcileResult:
    columns: list[str] = []
    if plan.compare == "sums":
        columns = list(plan.columns) if plan.columns is not None else _summable(sides)
    (left_rows, *left), (right_rows, *right) = (side.aggregates(columns) for side in sides)
    sums = [
        ColumnSum(column=column, left=_shown(a), right=_shown(b), matches=plan.sameness.of(a, b))
        for column, a, b in zip(columns, left, right, strict=True)
    ]
    return ReconcileResult(
        matches=left_rows == right_rows and all(item.matches for item in sums),
        left_rows=int(left_rows),
        right_rows=int(right_rows),
        only_left=0,
        only_right=0,
        different=0,
        sums=sums,
        diff=None,
    )


def _summable(sides: Sequence[_Side]) -> list[str]:
    left, right = sides
    columns = [name for name, kind in left.kinds.items() if kind in _NUMBERS and right.kinds.get(name) in _NUMBERS]
    if not columns:
        raise _bad("columns", "no column is numeric on both sides", "name the columns to sum")
    return columns


def _shown(value: Any) -> str | None:
    return None if value is None else str(value)


class _KeyedReader:
    """Reads the rows of one side in strictly ascending key order."""

    def __init__(self, side: _Side, batches: Iterator[list[Row]], width: int) -> None:
        self._name, self._width = side.origin.name, width
        self._rows = (row for batch in batches for row in batch)
        self.count = 0
        self.row: Row | None = None
        self.key: tuple[Any, ...] = ()

    def advance(self) -> None:
        """Advance to the next row; ``row`` is None after the last.

        :raises IntegrityError: if a key is duplicate, or not in ascending order.
        """
        self.row, before = next(self._rows, None), self.key
        if self.row is None:
            return
        self.key = tuple(aligned(value, value)[0] for value in self.row[: self._width])
        if self.count and (order := _compare(before, self.key)) >= 0:
            raise IntegrityError(
                f"{self._name} has a duplicate key" if order == 0 else f"{self._name} sorts its keys in another order",
                remedy="name the columns of a unique key" if order == 0 else "cast the keys to text or numbers in sql",
            )
        self.count += 1


def _compare(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return -1, 0 or 1.

    :raises IntegrityError: if a key is NULL.
    """
    for left_value, right_value in zip(left, right, strict=True):
        if left_value is None or right_value is None:
            raise IntegrityError("a row has no value in a key column", remedy="exclude such rows with sql")
        left_value, right_value = aligned(left_value, right_value)
        try:
            if left_value != right_value:
                return -1 if left_value < right_value else 1
        except (TypeError, InvalidOperation):  # NaN has no order
            raise _bad(
                "keys", "the keys of the two sides cannot be ordered against each other", "cast them in sql"
            ) from None
    return 0


class _RowComparison:
    """Compares row by row: a merge join of both sides."""

    def __init__(self, plan: ReconcilePlan, sides: Sequence[_Side], run: Run) -> None:
        self._plan, self._sides, self._run = plan, sides, run
        left, right = sides
        chosen = plan.columns if plan.columns is not None else [name for name in left.kinds if name in right.kinds]
        if plan.columns is None and (differing := sorted(set(left.kinds) ^ set(right.kinds))):
            raise _bad(
                "columns", f"only one side has the column {differing[0]!r}", "name the columns to compare in columns"
            )
        self._values = [name for name in chosen if name not in plan.keys]
        self._counts = dict.fromkeys(("only_left", "only_right", "different"), 0)
        self._writer: RowWriter | None = None

    def perform(self) -> ReconcileResult:
        plan, columns = self._plan, [*self._plan.keys, *self._values]
        kinds = {**{key: self._sides[0].kinds[key] for key in plan.keys}, "found": "string", "columns": "array"}
        if plan.diff_path is not None:
            self._writer = open_writer(Path(plan.diff_path), "jsonl", kinds, token=part_token(self._run.scope))
        try:
            with ExitStack() as stack:
                readers = []
                for side in self._sides:
                    ahead = ReadAhead(side.rows(columns), side.session.interrupt, self._run.deadline)
                    readers.append(_KeyedReader(side, stack.enter_context(closing(ahead.read())), len(plan.keys)))
                self._merge(*readers)
        except BaseException:
            if self._writer is not None:
                self._writer.discard()
            raise
        return ReconcileResult(
            matches=not any(self._counts.values()),
            left_rows=readers[0].count,
            right_rows=readers[1].count,
            sums=[],
            diff=self._publish_differences(),
            **self._counts,
        )

    def _merge(self, left: _KeyedReader, right: _KeyedReader) -> None:
        progress = self._run.progress("compare", unit="rows")
        get = itemgetter(slice(len(self._plan.keys), None))
        left.advance()
        right.advance()
        while left.row is not None or right.row is not None:
            order = -1 if right.row is None else 1 if left.row is None else _compare(left.key, right.key)
            if order < 0:
                self._record_difference("only_left", left.key)
                left.advance()
            elif order > 0:
                self._record_difference("only_right", right.key)
                right.advance()
            else:
                self._compare_values(get(left.row or ()), get(right.row or ()), left.key)
                left.advance()
                right.advance()
            progress.advance()
            if (left.count + right.count) % self._plan.batch_size < 2:
                self._run.deadline.check("the comparison")
        progress.finish()

    def _compare_values(self, left: Row, right: Row, key: tuple[Any, ...]) -> None:
        if left == right:
            return
        same = self._plan.sameness
        differing = [name for name, a, b in zip(self._values, left, right, strict=True) if not same.of(a, b)]
        if differing:
            self._record_difference("different", key, differing)

    def _record_difference(self, found: str, key: tuple[Any, ...], columns: Sequence[str] = ()) -> None:
        self._counts[found] += 1
        if self._writer is not None and self._writer.rows < self._plan.max_diffs:
            self._writer.write([(*map(_output_key, key), found, list(columns))])

    def _publish_differences(self) -> Dataset | None:
        if self._writer is None:
            return None
        if not self._writer.rows:
            self._writer.discard()
            return None
        failpoint("sql.reconcile.before_diff")
        self._run.lease.check()
        dataset = self._writer.commit()
        failpoint("sql.reconcile.after_diff")
        return dataset


def _output_key(value: Any) -> Any:
    """Return a key value for output: whole numbers, which are compared as decimals, as integers."""
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _raise_on_mismatch(plan: ReconcilePlan, result: ReconcileResult) -> None:
    if not (result.left_rows or result.right_rows or plan.allow_empty):
        raise IntegrityError(
            "both sides have no rows: nothing was compared",
            remedy="check both sources; if they may be empty, pass allow_empty=True",
        )
    if result.matches or plan.on_mismatch == "report":
        return
    parts = [f"{result.left_rows} rows on the left, {result.right_rows} on the right"]
    if plan.compare == "rows":
        parts.append(f"{result.only_left} only left, {result.only_right} only right, {result.different} different")
    if differing := [item.column for item in result.sums if not item.matches]:
        parts.append(f"other sums of {', '.join(differing)}")
    where = f"see {result.diff.path}" if result.diff is not None else "compare='rows' with diff_path lists the keys"
    raise IntegrityError(f"the two sides differ: {'; '.join(parts)}", remedy=where)
