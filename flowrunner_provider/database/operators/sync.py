"""Tables kept like those of another database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.operators.arguments import number
from flowrunner_provider.database.sync.results import Drift, ReplaceBy, SyncMode, SyncResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.database.hook import SqlHook
    from flowrunner_provider.database.sync.plan import SyncPlan

__all__ = ["SqlSyncOperator"]


class SqlSyncOperator(FlowRunnerOperator):
    """The rows of the source are in ``table``, as one read-only transaction saw them, and became visible in one commit.

    Killed anywhere and retried, or run twice at once, it happens exactly once: rows in the table ``flowrunner_ledger``,
    in the schema of ``table`` and committed in the same transaction, hold what is done and the watermark.
    Runs of the same sync wait for each other. Memory is constant: between PostgreSQL servers the rows travel as they
    are (binary ``COPY`` where the types agree, else text), from PostgreSQL to MariaDB as ``COPY`` text into
    ``LOAD DATA``, between others in batches. MySQL commits at every change of a structure: there a swap is decided by
    one ``RENAME TABLE``, and a column that was added stays when the sync fails. SQL Server reads one state of the
    source without locks where the database allows snapshots (``ALLOW_SNAPSHOT_ISOLATION``); elsewhere writers wait.

    :param source_conn_id: where to read: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param conn_id: where to write.
    :param table: the destination, which is there: ``table`` or ``schema.table``, taken literally.
    :param source_table: the table or view to read.
    :param sql: in place of it: one query, in the placeholder style of the source's driver. It is put into
        parentheses, where SQL Server takes neither ``WITH`` nor ``ORDER BY``.
    :param parameters: values for the placeholders, a list or an object.
    :param mode: ``full`` puts all rows in the place of the old ones; ``merge`` reads all, updates rows whose ``keys``
        are there and inserts the others; ``incremental`` does so with the rows whose ``watermark`` has grown.
    :param keys: columns of a primary key or unique index of the table.
    :param watermark: for ``incremental``: a column of the source that grows with every change and always has a value.
        Rows from the last value on are read (those that have it once more), up to the largest at the start. Another
        query, or other ``parameters``, begins from the first row again.
    :param lookback: for ``incremental``: how far to go back behind the last value, for rows that were committed late:
        a duration for times, a number for numbers.
    :param column_map: source column -> table column, or null to leave it out; the others keep their names.
    :param schema_drift: what to do when the source has a column that the table has not: ``fail``, ``ignore`` it,
        or ``add`` it.
    :param replace_by: for ``full``: ``swap`` fills a new table out of sight and swaps it in; ``delete`` replaces the
        rows in one transaction; ``auto`` swaps unless the table has what a new one would lack (views, foreign keys).
    :param detect_deletes: for ``merge`` and ``incremental``: also delete the rows whose keys a complete listing of
        the source does not have. Nothing else may write into the table then.
    :param soft_delete_column: mark such rows in this column (a truth value or a time) and do not delete them; a row
        that comes back is unmarked.
    :param max_deletes: with more of them nothing is changed; null for no limit.
    :param allow_empty: whether a source without rows may empty the table. By default that is an error, but for
        ``incremental`` without news.
    :param batch_size: rows in memory at a time, where they go in batches.
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
            max_deletes=number(self.max_deletes, "max_deletes"),
            allow_empty=self.allow_empty,
            batch_size=self.batch_size,
        )

    def perform(self, run: Run) -> SyncResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.sync.engine import sync

        plan = self._plan()
        source, dest = hook_for(self.source_conn_id), hook_for(self.conn_id)
        if self.source_conn_id == self.conn_id:
            self._check_same(dest)
        return sync(
            plan,
            lambda: source.open(run.deadline),
            lambda: dest.open(run.deadline),
            run,
            same_file=source.conn_type == dest.conn_type == "sqlite"
            and Path(source.config.path).resolve() == Path(dest.config.path).resolve(),
        )

    def _check_same(self, hook: SqlHook[Any]) -> None:
        """Source and destination are on one connection."""
        if self.source_table == self.table:
            raise ConfigError("source and destination are the same table", field="table", remedy="name another one")
        if getattr(hook.config, "max_connections", None) == 1:
            raise ConfigError(
                f"connection {self.conn_id!r} allows one connection, and reading and writing at once takes two",
                field="max_connections",
                remedy="raise it in the extra, or read through a connection of its own",
            )
