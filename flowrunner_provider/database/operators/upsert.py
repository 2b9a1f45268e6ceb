"""Rows that are inserted, or change those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.database.choices import Keep, OnConflict
from flowrunner_provider.database.operators.arguments import csv_file, identity, number
from flowrunner_provider.database.results import LoadResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.base import Session
    from flowrunner_provider.database.plan import LoadPlan

__all__ = ["SqlUpsertOperator"]

_BATCH = 5_000


class SqlUpsertOperator(FlowRunnerOperator):
    """Every row is in ``table``: inserted, or one with the same ``keys`` was updated or left alone; in one commit.

    Killed anywhere and retried, or run twice at once, it happens exactly once: a row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt so.
    The rows are staged in a temporary table and merged from there: no row is deleted, columns that are not given
    keep their values, and ``inserted``, ``updated`` and ``skipped`` are the database's own counts.
    The same as ``sql.load`` with ``mode="upsert"``, for a few rows of the DAG as well.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param table: ``table`` or ``schema.table``, taken literally; it must be there.
    :param keys: the columns of a primary key or unique index of the table.
    :param rows: a few rows (at most 10,000), each an object column -> value, all with the same columns.
    :param source: instead of ``rows``: the result of the task that wrote them, or the path of a .csv, .jsonl or
        .parquet file (CSV with commas, in UTF-8, an empty field for NULL; ``sql.load`` reads others).
    :param update_columns: what is changed of a row that is there; by default every column but the keys.
    :param on_conflict: ``update`` such a row, or ``ignore`` the new one, which counts as skipped.
    :param keep: when given rows share their keys: ``error``, or keep the ``last``.
    :param column_map: given column -> table column, or null to leave it out; the others keep their names.
    :param expected_rows: how many rows must be given.
    :param min_rows: how many rows must be given at least.
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
            raise ConfigError("give either rows or source", field="rows", remedy="leave one of both away")
        hook = hook_for(self.conn_id)

        def connect() -> Session:
            return hook.open(run.deadline)

        if self.rows is not None:
            return self._given(plan, connect, run)
        return self._read(plan, connect, run)

    def _given(self, plan: LoadPlan, connect: Any, run: Run) -> LoadResult:
        from flowrunner_provider.database.load import load
        from flowrunner_provider.database.upsert import GivenRows

        given = GivenRows(self.rows)
        if not len(given):
            raise ConfigError("rows is empty", field="rows", remedy="skip the task when there is nothing to do")
        fingerprint = plan.fingerprint(given.identity())
        return load(given.opened, plan, connect, run, fingerprint=fingerprint, total=len(given), action=self.action)

    def _read(self, plan: LoadPlan, connect: Any, run: Run) -> LoadResult:
        from flowrunner_provider.data.readers import open_rows
        from flowrunner_provider.database.load import load

        dataset = Dataset.from_value(self.source)
        return load(
            lambda: open_rows(dataset, batch_rows=_BATCH, null_text=""),
            plan,
            connect,
            run,
            fingerprint=plan.fingerprint(identity(dataset)),
            types=dataset.columns,
            total=dataset.rows if dataset.rows != UNKNOWN else None,
            csv=csv_file(dataset, delimiter=",", encoding="utf-8-sig", null_text=""),
            action=self.action,
        )

    def _plan(self) -> LoadPlan:
        from flowrunner_provider.database.plan import LoadPlan

        if self.column_map is not None and not isinstance(self.column_map, Mapping):
            raise ConfigError(
                "column_map must be an object", field="column_map", remedy='write {"given name": "table name"}'
            )
        return LoadPlan(
            table=self.table,
            mode="upsert",
            keys=self.keys or (),
            column_map=self.column_map or {},
            keep=self.keep,
            expected_rows=number(self.expected_rows, "expected_rows"),
            min_rows=self.min_rows,
            update_columns=self.update_columns,
            on_conflict=self.on_conflict,
        )
