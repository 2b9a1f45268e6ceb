"""Two sides compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.database.reconcile.results import Compare, OnMismatch, ReconcileResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["SqlReconcileOperator"]


class SqlReconcileOperator(FlowRunnerOperator):
    """The two sides hold the same, each as one read-only transaction saw it; otherwise the task fails and says how.

    Nothing is changed: a killed attempt leaves nothing, and the retry compares again.
    ``rows`` reads both sides in the order of their keys and compares every value: memory is constant, both servers
    sort. The sides are read at the same time but are no common snapshot: compare what does not move.

    :param left_conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param right_conn_id: the other one, or the same.
    :param left_table: the table or view on the left, taken literally.
    :param left_sql: in place of it: one query.
    :param left_parameters: values for its placeholders, a list or an object.
    :param right_table: the table or view on the right.
    :param right_sql: in place of it: one query.
    :param right_parameters: values for its placeholders.
    :param compare: ``count`` the rows, ``sums`` of columns and the count, or all ``rows``.
    :param keys: for ``rows``: columns that name a row on both sides.
    :param columns: for ``sums`` and ``rows``: which columns, called alike on both sides; by default all that hold
        numbers, or all.
    :param tolerance: the largest difference of two numbers or sums that is none.
    :param time_tolerance: the same for times, as a duration.
    :param diff_path: for ``rows``: a .jsonl file on the worker's disk for the keys that differ, with ``found``
        (``only_left``, ``only_right``, ``different``) and the names of the ``columns``; no values but the keys.
    :param max_diffs: how many of them the file holds at most; all are counted.
    :param on_mismatch: ``fail``, or ``report`` the difference in the result only.
    :param allow_empty: whether two sides without rows are the same.
    :param batch_size: rows of each side in memory at a time.
    """

    action: ClassVar[str] = "sql.reconcile"
    template_fields: Sequence[str] = (
        "left_conn_id",
        "right_conn_id",
        "left_table",
        "left_sql",
        "left_parameters",
        "right_table",
        "right_sql",
        "right_parameters",
        "keys",
        "columns",
        "tolerance",
        "diff_path",
    )
    template_ext: Sequence[str] = (".sql",)
    keeps_result: ClassVar[bool] = False

    def __init__(
        self,
        *,
        left_conn_id: str,
        right_conn_id: str,
        left_table: str | None = None,
        left_sql: str | None = None,
        left_parameters: list[Any] | dict[str, Any] | None = None,
        right_table: str | None = None,
        right_sql: str | None = None,
        right_parameters: list[Any] | dict[str, Any] | None = None,
        compare: Compare = "count",
        keys: list[str] | None = None,
        columns: list[str] | None = None,
        tolerance: float | str = 0,
        time_tolerance: str | float | timedelta = 0,
        diff_path: str | None = None,
        max_diffs: int = 1000,
        on_mismatch: OnMismatch = "fail",
        allow_empty: bool = False,
        batch_size: int = 5_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.left_conn_id = left_conn_id
        self.right_conn_id = right_conn_id
        self.left_table = left_table
        self.left_sql = left_sql
        self.left_parameters = left_parameters
        self.right_table = right_table
        self.right_sql = right_sql
        self.right_parameters = right_parameters
        self.compare = compare
        self.keys = keys
        self.columns = columns
        self.tolerance = tolerance
        self.time_tolerance = time_tolerance
        self.diff_path = diff_path
        self.max_diffs = max_diffs
        self.on_mismatch = on_mismatch
        self.allow_empty = allow_empty
        self.batch_size = batch_size

    def perform(self, run: Run) -> ReconcileResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.reconcile.engine import ReconcilePlan, reconcile
        from flowrunner_provider.database.reconcile.values import Sameness
        from flowrunner_provider.database.sync.source import Origin

        times = parse_duration(self.time_tolerance, "time_tolerance")
        names = [(f"{side}_sql", f"{side}_table", f"{side}_parameters") for side in ("left", "right")]
        plan = ReconcilePlan(
            left=Origin(sql=self.left_sql, table=self.left_table, params=self.left_parameters, names=names[0]),
            right=Origin(sql=self.right_sql, table=self.right_table, params=self.right_parameters, names=names[1]),
            compare=self.compare,
            keys=self.keys or (),
            columns=self.columns,
            sameness=Sameness(numbers=self._tolerance(), times=times),
            diff_path=self.diff_path,
            max_diffs=self.max_diffs,
            on_mismatch=self.on_mismatch,
            allow_empty=self.allow_empty,
            batch_size=self.batch_size,
        )
        left, right = hook_for(self.left_conn_id), hook_for(self.right_conn_id)
        return reconcile(plan, lambda: left.open(run.deadline), lambda: right.open(run.deadline), run)

    def _tolerance(self) -> Decimal:
        with suppress(ArithmeticError, ValueError):
            found = Decimal(str(self.tolerance))
            if found >= 0:
                return found
        raise ConfigError("tolerance must be 0 or more", field="tolerance", remedy="give a number")
