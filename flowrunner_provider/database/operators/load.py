"""Load files into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.database.choices import BadRow, Keep, Mode
from flowrunner_provider.database.operators.arguments import csv_file, parse_count, source_identity
from flowrunner_provider.database.results import LoadResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.data.readers import RowReader
    from flowrunner_provider.database.plan import LoadPlan

__all__ = ["SqlLoadOperator"]


class SqlLoadOperator(FlowRunnerOperator):
    """On success, every row of ``source`` is in ``table``, and all rows became visible in a single commit.

    A killed or retried task, or two attempts at once, store the rows exactly once. A row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt that the
    work is done. Memory use is constant. Rows travel by ``COPY`` to PostgreSQL, by ``LOAD DATA`` to MySQL and MariaDB,
    by ``INSERT BULK`` to SQL Server and in batches to SQLite. MySQL commits implicitly at every DDL statement. There,
    ``replace`` fills a hidden table and publishes it with one ``RENAME TABLE``; rows that others write to the old table
    meanwhile are lost. A table that ``create_table`` created remains, empty, if the load fails. Tested with MariaDB,
    not with MySQL 8.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; the type selects the dialect.
    :param source: the result of the task that wrote the rows, or the path of a .csv, .jsonl or .parquet file.
    :param table: the target, ``table`` or ``schema.table``, taken literally (not folded to lower case); quote unusual
        names as in SQL, e.g. ``"my table"``.
    :param mode: ``append`` adds the rows. ``truncate`` replaces all rows of the table with DELETE and INSERT: readers
        see the old rows until the commit, other writers wait. ``replace`` fills a new table and swaps it in: readers
        wait only for the swap. ``upsert`` updates the rows whose ``keys`` exist and inserts the others.
    :param keys: for ``upsert``: the columns of a primary key or unique index of the table.
    :param column_map: maps source columns to table columns; map a column to null to leave it out. Other columns keep
        their names.
    :param create_table: create the table (for SQLite also the database file) if it is missing. The types are those that
        the dataset declares, or those of the first batch. With ``replace``, the table is rebuilt with these columns.
    :param batch_size: the number of rows held in memory at a time.
    :param keep: for ``upsert``, when several source rows have the same keys: ``error`` fails, ``last`` keeps the last
        one.
    :param null_text: CSV: the text that means NULL; by default an empty field. Null turns this off.
    :param delimiter: CSV: the field separator, one character.
    :param encoding: CSV: the encoding of the file; the default reads UTF-8 with or without BOM.
    :param expected_rows: the number of rows the source must have; otherwise nothing is stored and the task fails.
    :param min_rows: the minimum number of rows. By default an empty source succeeds; with ``truncate`` or ``replace``
        it empties the table.
    :param on_bad_row: ``fail`` stores nothing if any row does not fit the table; ``reject`` sets such rows aside.
    :param reject_path: for ``reject``: the JSON Lines file for these rows and the reasons, readable by its owner only.
    :param max_failures: for ``reject``: the maximum number of such rows; with more, nothing is stored.
    """

    action: ClassVar[str] = "sql.load"
    template_fields: Sequence[str] = (
        "conn_id",
        "source",
        "table",
        "keys",
        "column_map",
        "reject_path",
        "expected_rows",
    )

    def __init__(
        self,
        *,
        conn_id: str,
        source: str | dict[str, Any],
        table: str,
        mode: Mode = "append",
        keys: list[str] | None = None,
        column_map: dict[str, str | None] | None = None,
        create_table: bool = False,
        batch_size: int = 5_000,
        keep: Keep = "error",
        null_text: str | None = "",
        delimiter: str = ",",
        encoding: str = "utf-8-sig",
        expected_rows: int | str | None = None,
        min_rows: int = 0,
        on_bad_row: BadRow = "fail",
        reject_path: str | None = None,
        max_failures: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.source = source
        self.table = table
        self.mode = mode
        self.keys = keys
        self.column_map = column_map
        self.create_table = create_table
        self.batch_size = batch_size
        self.keep = keep
        self.null_text = null_text
        self.delimiter = delimiter
        self.encoding = encoding
        self.expected_rows = expected_rows
        self.min_rows = min_rows
        self.on_bad_row = on_bad_row
        self.reject_path = reject_path
        self.max_failures = max_failures

    def _plan(self) -> LoadPlan:
        from flowrunner_provider.database.plan import LoadPlan

        if not isinstance(self.batch_size, int) or not 1 <= self.batch_size <= 1_000_000:
            raise ConfigError(
                "batch_size must be between 1 and 1000000", field="batch_size", remedy="use the default, 5000"
            )
        if self.column_map is not None and not isinstance(self.column_map, Mapping):
            raise ConfigError(
                "column_map must be an object", field="column_map", remedy='pass {"source column": "table column"}'
            )
        return LoadPlan(
            table=self.table,
            mode=self.mode,
            keys=self.keys or (),
            column_map=self.column_map or {},
            create_table=self.create_table,
            keep=self.keep,
            expected_rows=parse_count(self.expected_rows, "expected_rows"),
            min_rows=self.min_rows,
            on_bad_row=self.on_bad_row,
            reject_path=self.reject_path,
            max_failures=self.max_failures,
        )

    def perform(self, run: Run) -> LoadResult:
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.database.load import load

        plan = self._plan()
        dataset = Dataset.from_value(self.source)
        if plan.reject_path is not None and Path(plan.reject_path).resolve() == Path(dataset.path).resolve():
            raise ConfigError(
                "reject_path is the source, which it would overwrite", field="reject_path", remedy="pass another path"
            )
        self._open(dataset)  # report invalid options before connecting
        hook = hook_for(self.conn_id)
        return load(
            lambda: self._open(dataset),
            plan,
            lambda: hook.open(run.deadline, create=self.create_table),
            run,
            fingerprint=plan.fingerprint(source_identity(dataset)),
            types=dataset.columns,
            total=dataset.rows if dataset.rows != UNKNOWN else None,
            csv=csv_file(dataset, delimiter=self.delimiter, encoding=self.encoding, null_text=self.null_text),
        )

    def _open(self, dataset: Dataset) -> RowReader:
        from flowrunner_provider.data.readers import open_rows

        return open_rows(
            dataset,
            batch_rows=self.batch_size,
            delimiter=self.delimiter,
            encoding=self.encoding,
            null_text=self.null_text,
        )
