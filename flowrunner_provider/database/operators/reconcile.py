"""Compare two tables or queries."""

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
    """On success, both sides hold the same data, each read from one snapshot; otherwise the task fails with a summary.

    The task changes nothing: a killed attempt leaves nothing behind, and the retry compares again. ``rows`` reads both
    sides in key order and compares every value. Memory use is constant; both servers sort. The two sides are read at
    the same time, but not from a common snapshot: compare data that does not change meanwhile.

    :param left_conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param right_conn_id: the connection of the other side; it may be the same.
    :param left_table: the table or view on the left, taken literally.
    :param left_sql: one query to compare instead of ``left_table``.
    :param left_parameters: values for the placeholders of ``left_sql``, a list or an object.
    :param right_table: the table or view on the right.
    :param right_sql: one query to compare instead of ``right_table``.
    :param right_parameters: values for the placeholders of ``right_sql``.
    :param compare: ``count`` compares the number of rows; ``sums`` the number of rows and the sums of columns; ``rows``
        every value.
    :param keys: for ``rows``: the columns that identify a row on both sides.
    :param columns: for ``sums`` and ``rows``: the columns to compare, with the same names on both sides. The default is
        all numeric columns for ``sums`` and all columns for ``rows``.
    :param tolerance: the largest difference between two numbers or sums that counts as equal.
    :param time_tolerance: the largest difference between two timestamps that counts as equal, as a duration.
    :param diff_path: for ``rows``: a .jsonl file on the worker's disk for the keys that differ. Each line holds the
        key, ``found`` (``only_left``, ``only_right`` or ``different``) and the names of the differing ``columns``, but
        no other values.
    :param max_diffs: the maximum number of lines in ``diff_path``; all differences are counted.
    :param on_mismatch: ``fail``, or ``report`` the differences in the result only.
    :param allow_empty: accept two sides without rows as equal.
    :param batch_size: the number of rows of each side held in memory at a time.
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
            tolerance = Decimal(str(self.tolerance))
            if tolerance >= 0:
                return tolerance
        raise ConfigError("tolerance must be 0 or more", field="tolerance", remedy="pass a number")
