"""Insert rows, or update the existing rows with the same keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.database.choices import Keep, OnConflict
from flowrunner_provider.database.operators.arguments import csv_file, parse_count, source_identity
from flowrunner_provider.database.results import LoadResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.base import Session
    from flowrunner_provider.database.plan import LoadPlan

__all__ = ["SqlUpsertOperator"]

_BATCH_ROWS = 5_000


class SqlUpsertOperator(FlowRunnerOperator):
    """On success, ``table`` holds every given row: inserted, or matched to the existing row with the same ``keys``.

    A killed or retried task, or two attempts at once, apply the rows exactly once. A row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt that the
    work is done. The rows are merged from a temporary staging table in a single commit. No row is deleted, and columns
    that are not given keep their values. The database itself counts ``inserted``, ``updated`` and ``skipped``. This is
    ``sql.load`` with ``mode="upsert"``, and also accepts a few rows written in the DAG.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param table: the existing target, ``table`` or ``schema.table``, taken literally.
    :param keys: the columns of a primary key or unique index of the table.
    :param rows: up to 10,000 rows, each an object column -> value, all with the same columns.
    :param source: instead of ``rows``: the result of the task that wrote them, or the path of a .csv, .jsonl or
        .parquet file. CSV must be UTF-8 with commas and empty fields for NULL; use ``sql.load`` for other formats.
    :param update_columns: the columns to update in an existing row; by default every column except the keys.
    :param on_conflict: what to do with a row whose keys exist: ``update`` it, or ``ignore`` the new row and count it as
        skipped.
    :param keep: when several given rows have the same keys: ``error`` fails, ``last`` keeps the last one.
    :param column_map: maps given columns to table columns; map a column to null to leave it out. Other columns keep
        their names.
    :param expected_rows: the number of rows that must be given; otherwise nothing is stored and the task fails.
    :param min_rows: the minimum number of rows that must be given.
    """

    action: ClassVar[str] = "sql.upsert"
    template_fields: Sequence[str] = ("conn_id", "table", "keys", "rows", "source", "column_map", "expected_rows")

    def __init__(
        self,
        *,
        conn_id: str,
        table: str,
        keys: list[str],
        rows: list[dict[str, Any]] | None = None,
        source: str | dict[str, Any] | None = None,
        update_columns: list[str] | None = None,
        on_conflict: OnConflict = "update",
        keep: Keep = "error",
        column_map: dict[str, str | None] | None = None,
        expected_rows: int | str | None = None,
        min_rows: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.table = table
        self.keys = keys
        self.rows = rows
        self.source = source
        self.update_columns = update_columns
        self.on_conflict = on_conflict
        self.keep = keep
        self.column_map = column_map
        self.expected_rows = expected_rows
        self.min_rows = min_rows

    def perform(self, run: Run) -> LoadResult:
        from flowrunner_provider.database.hook import hook_for

        plan = self._plan()
        if (self.rows is None) == (self.source is None):
            raise ConfigError(
                "pass either rows or source", field="rows", remedy="remove one of the two, or add the missing one"
            )
        hook = hook_for(self.conn_id)

        def connect() -> Session:
            return hook.open(run.deadline)

        if self.rows is not None:
            return self._load_rows(plan, connect, run)
        return self._load_source(plan, connect, run)

    def _load_rows(self, plan: LoadPlan, connect: Callable[[], Session], run: Run) -> LoadResult:
        from flowrunner_provider.database.load import load
        from flowrunner_provider.database.upsert import GivenRows

        given = GivenRows(self.rows)
        if not len(given):
            raise ConfigError("rows is empty", field="rows", remedy="skip the task when there are no rows")
        fingerprint = plan.fingerprint(given.identity())
        return load(given.open, plan, connect, run, fingerprint=fingerprint, total=len(given), action=self.action)

    def _load_source(self, plan: LoadPlan, connect: Callable[[], Session], run: Run) -> LoadResult:
        from flowrunner_provider.data.readers import open_rows
        from flowrunner_provider.database.load import load

        dataset = Dataset.from_value(self.source)
        return load(
            lambda: open_rows(dataset, batch_rows=_BATCH_ROWS, null_text=""),
            plan,
            connect,
            run,
            fingerprint=plan.fingerprint(source_identity(dataset)),
            types=dataset.columns,
            total=dataset.rows if dataset.rows != UNKNOWN else None,
            csv=csv_file(dataset, delimiter=",", encoding="utf-8-sig", null_text=""),
            action=self.action,
        )

    def _plan(self) -> LoadPlan:
        from flowrunner_provider.database.plan import LoadPlan

        if self.column_map is not None and not isinstance(self.column_map, Mapping):
            raise ConfigError(
                "column_map must be an object", field="column_map", remedy='pass {"given column": "table column"}'
            )
        return LoadPlan(
            table=self.table,
            mode="upsert",
            keys=self.keys or (),
            column_map=self.column_map or {},
            keep=self.keep,
            expected_rows=parse_count(self.expected_rows, "expected_rows"),
            min_rows=self.min_rows,
            update_columns=self.update_columns,
            on_conflict=self.on_conflict,
        )
