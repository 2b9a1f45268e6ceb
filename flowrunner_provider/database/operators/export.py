"""Export the rows of a query to files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.operators.arguments import parse_count
from flowrunner_provider.database.results import ExportResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from flowrunner_provider.files.uri import Location

__all__ = ["SqlExportOperator"]


class SqlExportOperator(FlowRunnerOperator):
    """On success, the file ``dest`` holds every row of the query, read from one snapshot in a read-only transaction.

    A killed attempt leaves nothing under the final name. The retry removes its leftovers and exports the rows as they
    are then. Each file appears complete, by an atomic rename or upload. In a store, no file appears before all rows are
    complete on the worker's disk. Memory use is constant. PostgreSQL formats CSV itself (``COPY``): NULL is an empty
    field and an empty string is ``""``. The same rows in the same order produce the same bytes.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param dest: the .csv, .jsonl, .parquet or .xlsx file to write, on the worker's disk or in any store, e.g.
        ``s3://aws_default@raw/orders.csv``. Append ``.gz`` to compress CSV or JSON Lines. In Excel files, text is never
        evaluated as a formula; numbers with more than 15 digits and timestamps with a time zone are written as text.
    :param sql: one query, with the placeholders of the database driver: ``%s`` and ``%(name)s`` for PostgreSQL and
        MySQL (write a literal ``%`` as ``%%`` when you pass parameters), ``?`` and ``:name`` for SQLite.
    :param table: the table or view to export instead of ``sql``: ``table`` or ``schema.table``, taken literally.
    :param parameters: values for the placeholders, a list or an object; the driver binds them.
    :param columns: the columns to export, in this order; by default all.
    :param order_by: the columns to sort by; without them, the database chooses the order.
    :param partition_by: write one folder per combination of values of these columns, e.g. ``country=DE/orders.parquet``
        beside ``dest``. The files leave these columns out; Hive, Spark and Arrow read them back from the folder names.
        Strings, integers, booleans and dates are accepted. NULL becomes ``__HIVE_DEFAULT_PARTITION__``; characters that
        a path cannot hold are escaped, e.g. ``%2F``. The database sorts the rows, so one file is open at a time. An
        export may write at most 10,000 folders. Existing folders without exported rows are left as they are; without
        rows nothing is written. The result lists all files in ``files``. In a store, a file of a killed attempt remains
        if the retry has no rows for its folder.
    :param max_rows_per_file: split the export into files of at most this many rows, named ``name-00001.csv`` and so on.
        The result lists them in ``files``. Files of an earlier run with higher numbers are deleted.
    :param skip_if_empty: write nothing if the query returns no rows; an existing file is kept.
    :param chunk_size: the number of rows held in memory at a time.
    :param expected_rows: the number of rows the query must return; otherwise nothing is written and the task fails.
    """

    action: ClassVar[str] = "sql.export"
    template_fields: Sequence[str] = (
        "conn_id",
        "dest",
        "sql",
        "table",
        "parameters",
        "columns",
        "order_by",
        "partition_by",
        "expected_rows",
    )
    template_ext: Sequence[str] = (".sql",)
    keeps_result: ClassVar[bool] = False

    def __init__(
        self,
        *,
        conn_id: str,
        dest: str,
        sql: str | None = None,
        table: str | None = None,
        parameters: list[Any] | dict[str, Any] | None = None,
        columns: list[str] | None = None,
        order_by: list[str] | None = None,
        partition_by: list[str] | None = None,
        max_rows_per_file: int | None = None,
        skip_if_empty: bool = False,
        chunk_size: int = 10_000,
        expected_rows: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.dest = dest
        self.sql = sql
        self.table = table
        self.parameters = parameters
        self.columns = columns
        self.order_by = order_by
        self.partition_by = partition_by
        self.max_rows_per_file = max_rows_per_file
        self.skip_if_empty = skip_if_empty
        self.chunk_size = chunk_size
        self.expected_rows = expected_rows

    def perform(self, run: Run) -> ExportResult:
        from flowrunner_provider.database.export_store import temporary_folder
        from flowrunner_provider.files.hook import open_store
        from flowrunner_provider.files.uri import one_file

        location = one_file(self.dest, "dest")
        if location.scheme != "file":
            open_store(location, field="dest")  # report connection errors before reading any rows
            with temporary_folder(run) as folder:
                exported = self._export(str(folder / location.path.rpartition("/")[2]), run)
                return run_to_end(self._upload(exported, folder, location, run), run.deadline)
        return self._export(self.dest, run)

    async def _upload(self, exported: ExportResult, folder: Path, location: Location, run: Run) -> ExportResult:
        from flowrunner_provider.database.export_store import upload
        from flowrunner_provider.files.hook import open_stores

        async with AsyncExitStack() as stack:
            store = (await open_stores(run, stack, dest=[location]))[location.root]
            return await upload(exported, folder, store, location.path, self.dest, run)

    def _export(self, dest: str, run: Run) -> ExportResult:
        from flowrunner_provider.database.export import export
        from flowrunner_provider.database.export_plan import ExportPlan
        from flowrunner_provider.database.hook import hook_for

        plan = ExportPlan(
            dest=dest,
            sql=self.sql,
            table=self.table,
            parameters=self.parameters,
            columns=self.columns,
            order_by=self.order_by or (),
            partition_by=self.partition_by or (),
            max_rows_per_file=self.max_rows_per_file,
            skip_if_empty=self.skip_if_empty,
            chunk_size=self.chunk_size,
            expected_rows=parse_count(self.expected_rows, "expected_rows"),
        )
        hook = hook_for(self.conn_id)
        return export(plan, lambda: hook.open(run.deadline), run)
