"""Queries into files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.run import Run
from flowrunner_provider.database.operators.arguments import number
from flowrunner_provider.database.results import ExportResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from flowrunner_provider.files.uri import Location

__all__ = ["SqlExportOperator"]


class SqlExportOperator(FlowRunnerOperator):
    """Every row of the query or table is in the file ``dest``, as one read-only transaction saw them at one moment.

    A killed attempt leaves nothing under the final name; the retry starts over, removes what was left and writes
    the rows as they are then. In a store each file appears whole, and none before all rows are complete on this disk.
    Memory is constant. PostgreSQL writes CSV itself (``COPY``): NULL is an empty field and empty text is ``""``;
    the same rows in the same order give the same bytes.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param dest: the file, .csv, .jsonl, .parquet or .xlsx, on the worker's disk or in any store, as
        ``s3://aws_default@raw/orders.csv``; ``.gz`` at the end compresses the first two. In Excel files text is never
        a formula, and numbers of more than 15 digits and times with a zone are text.
    :param sql: one query; placeholders are those of the database's driver: ``%s`` and ``%(name)s`` for PostgreSQL
        and MySQL (where ``%`` itself is then ``%%``), ``?`` and ``:name`` for SQLite.
    :param table: in place of ``sql``: ``table`` or ``schema.table``, taken literally.
    :param parameters: values for the placeholders, a list or an object; bound by the driver.
    :param columns: which columns, in which order; all by default.
    :param order_by: columns to sort by; without them the order is the database's choice.
    :param partition_by: write ``country=DE/orders.parquet`` and so on beside ``dest``, a folder for each combination of
        values of these columns, which are then not in the files, as Hive, Spark and Arrow read them back. Texts,
        whole numbers, truth values and dates; NULL is ``__HIVE_DEFAULT_PARTITION__``, and what a path cannot hold is
        written as ``%2F``. The database sorts, one file is open at a time, 10,000 folders are the most. Folders that
        the rows do not name are left as they are; without rows nothing is written. ``files`` names all. In a store,
        a file that a killed attempt put into a folder which the retry has no rows for stays there.
    :param max_rows_per_file: write ``name-00001.csv`` and so on, with so many rows each; ``files`` in the result has
        a dataset for each. Files of an earlier run with higher numbers are removed.
    :param skip_if_empty: write nothing if there are no rows; a file that is there already stays.
    :param chunk_size: rows in memory at a time.
    :param expected_rows: how many rows there must be; otherwise nothing is written.
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
        from flowrunner_provider.database.export_store import scratch
        from flowrunner_provider.files.hook import open_store
        from flowrunner_provider.files.uri import one_file

        if (location := one_file(self.dest, "dest")).scheme != "file":
            open_store(location, field="dest")  # what its connection lacks is told before the rows are read
            with scratch(run) as folder:
                exported = self._export(str(folder / location.path.rpartition("/")[2]), run)
                return run_to_end(self._upload(exported, folder, location, run), run.deadline)
        return self._export(self.dest, run)

    async def _upload(self, exported: ExportResult, folder: Path, location: Location, run: Run) -> ExportResult:
        from flowrunner_provider.database.export_store import upload
        from flowrunner_provider.files.hook import opened

        async with AsyncExitStack() as stack:
            store = (await opened(run, stack, dest=[location]))[location.root]
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
            expected_rows=number(self.expected_rows, "expected_rows"),
        )
        hook = hook_for(self.conn_id)
        return export(plan, lambda: hook.open(run.deadline), run)
