"""Keep a table in sync with a table or query of another database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.operators.arguments import parse_count
from flowrunner_provider.database.sync.results import Drift, ReplaceBy, SyncMode, SyncResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.database.hook import SqlHook
    from flowrunner_provider.database.sync.plan import SyncPlan

__all__ = ["SqlSyncOperator"]


class SqlSyncOperator(FlowRunnerOperator):
    """On success, ``table`` holds the rows of the source, read from one snapshot and published in a single commit.

    A killed or retried task, or two attempts at once, apply the rows exactly once. Rows in the table
    ``flowrunner_ledger``, in the schema of ``table`` and committed in the same transaction, record what is done and the
    watermark. Runs of the same sync wait for each other. Memory use is constant. Between PostgreSQL servers, rows
    travel by binary ``COPY`` where the types agree, else as text; from PostgreSQL to MariaDB as ``COPY`` text into
    ``LOAD DATA``; between other databases in batches. MySQL commits implicitly at every DDL statement: there, one
    ``RENAME TABLE`` decides a swap, and an added column remains if the sync fails. SQL Server reads one snapshot
    without locks if the database has ``ALLOW_SNAPSHOT_ISOLATION``; otherwise writers wait.

    :param source_conn_id: the connection to read: of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param conn_id: the connection to write, of one of the same types.
    :param table: the existing destination table: ``table`` or ``schema.table``, taken literally.
    :param source_table: the table or view to read.
    :param sql: one query to read instead of ``source_table``, with the placeholders of the source's driver. It runs as
        a subquery, where SQL Server accepts neither ``WITH`` nor ``ORDER BY``.
    :param parameters: values for the placeholders, a list or an object.
    :param mode: ``full`` replaces all rows; ``merge`` reads all rows, updates those whose ``keys`` exist and inserts
        the others; ``incremental`` does the same with only the rows whose ``watermark`` has grown.
    :param keys: the columns of a primary key or unique index of the table.
    :param watermark: for ``incremental``: a source column that grows with every change and is never NULL. A run reads
        the rows from the last value (inclusive) up to the largest value at its start. Another query, or other
        ``parameters``, starts from the first row again.
    :param lookback: for ``incremental``: how far to go back behind the last value, to catch rows that were committed
        late; a duration for timestamps, a number for numbers.
    :param column_map: maps source columns to table columns; map a column to null to leave it out. Other columns keep
        their names.
    :param schema_drift: what to do with a source column that the table does not have: ``fail``, ``ignore`` or ``add``.
    :param replace_by: for ``full``: ``swap`` fills a hidden new table and swaps it in; ``delete`` replaces the rows in
        one transaction; ``auto`` swaps unless a new table would lack something (views, foreign keys).
    :param detect_deletes: for ``merge`` and ``incremental``: also delete rows whose keys are missing in a complete
        listing of the source. Nothing else may write to the table then.
    :param soft_delete_column: instead of deleting such rows, mark them in this column (a boolean or timestamp). A row
        that returns is unmarked.
    :param max_deletes: the maximum number of deletes; with more, nothing is changed. Null for no limit.
    :param allow_empty: allow a source without rows to empty the table. By default that is an error, except for
        ``incremental`` without new rows.
    :param batch_size: the number of rows held in memory at a time, where rows travel in batches.
    """

    action: ClassVar[str] = "sql.sync"
    template_fields: Sequence[str] = (
        "source_conn_id",
        "conn_id",
        "table",
        "source_table",
        "sql",
        "parameters",
        "keys",
        "column_map",
        "max_deletes",
    )
    template_ext: Sequence[str] = (".sql",)

    def __init__(
        self,
        *,
        source_conn_id: str,
        conn_id: str,
        table: str,
        source_table: str | None = None,
        sql: str | None = None,
        parameters: list[Any] | dict[str, Any] | None = None,
        mode: SyncMode = "full",
        keys: list[str] | None = None,
        watermark: str | None = None,
        lookback: str | float | timedelta = 0,
        column_map: dict[str, str | None] | None = None,
        schema_drift: Drift = "fail",
        replace_by: ReplaceBy = "auto",
        detect_deletes: bool = False,
        soft_delete_column: str | None = None,
        max_deletes: int | str | None = 1000,
        allow_empty: bool = False,
        batch_size: int = 5_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_conn_id = source_conn_id
        self.conn_id = conn_id
        self.table = table
        self.source_table = source_table
        self.sql = sql
        self.parameters = parameters
        self.mode = mode
        self.keys = keys
        self.watermark = watermark
        self.lookback = lookback
        self.column_map = column_map
        self.schema_drift = schema_drift
        self.replace_by = replace_by
        self.detect_deletes = detect_deletes
        self.soft_delete_column = soft_delete_column
        self.max_deletes = max_deletes
        self.allow_empty = allow_empty
        self.batch_size = batch_size

    def _plan(self) -> SyncPlan:
        from flowrunner_provider.database.sync.plan import SyncPlan
        from flowrunner_provider.database.sync.source import Origin

        return SyncPlan(
            origin=Origin(
                sql=self.sql,
                table=self.source_table,
                params=self.parameters,
                names=("sql", "source_table", "parameters"),
            ),
            place=self.source_conn_id,
            table=self.table,
            mode=self.mode,
            keys=self.keys or (),
            watermark=self.watermark,
            lookback=self.lookback,
            column_map={} if self.column_map is None else self.column_map,
            schema_drift=self.schema_drift,
            replace_by=self.replace_by,
            detect_deletes=self.detect_deletes,
            soft_delete_column=self.soft_delete_column,
            max_deletes=parse_count(self.max_deletes, "max_deletes"),
            allow_empty=self.allow_empty,
            batch_size=self.batch_size,
        )

    def perform(self, run: Run) -> SyncResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.sync.engine import sync

        plan = self._plan()
        source, dest = hook_for(self.source_conn_id), hook_for(self.conn_id)
        if self.source_conn_id == self.conn_id:
            self._check_shared_connection(dest)
        return sync(
            plan,
            lambda: source.open(run.deadline),
            lambda: dest.open(run.deadline),
            run,
            same_file=source.conn_type == dest.conn_type == "sqlite"
            and Path(source.config.path).resolve() == Path(dest.config.path).resolve(),
        )

    def _check_shared_connection(self, hook: SqlHook[Any]) -> None:
        """Raise ConfigError unless one connection can serve as both source and destination."""
        if self.source_table == self.table:
            raise ConfigError("source and destination are the same table", field="table", remedy="pass another table")
        if getattr(hook.config, "max_connections", None) == 1:
            raise ConfigError(
                f"connection {self.conn_id!r} has max_connections=1, but reading and writing at once takes two",
                field="max_connections",
                remedy="raise it in the extra, or use another Airflow connection as source",
            )
