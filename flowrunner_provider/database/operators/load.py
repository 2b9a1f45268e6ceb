"""Files into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.database.choices import BadRow, Keep, Mode
from flowrunner_provider.database.operators.arguments import csv_file, identity, number
from flowrunner_provider.database.results import LoadResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.data.readers import RowReader
    from flowrunner_provider.database.plan import LoadPlan

__all__ = ["SqlLoadOperator"]


class SqlLoadOperator(FlowRunnerOperator):
    """Every row of ``source`` is in ``table``, and all of them became visible in one commit.

    Killed anywhere and retried, or run twice at once, it stores the rows exactly once: a row in the table
    ``flowrunner_ledger``, in the same schema and committed in the same transaction, tells the next attempt that
    the work is done.
    Memory is constant; the rows travel by ``COPY`` to PostgreSQL, by ``LOAD DATA`` to MySQL and MariaDB,
    and in batches to SQLite. MySQL commits at every change of a structure: there ``replace`` fills the new table out of
    sight and one ``RENAME TABLE`` decides (what others write into the old one meanwhile is lost with it), and a table
    that ``create_table`` makes stays, empty, when the load fails. Tested with MariaDB; MySQL 8 is not.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``; its type chooses the dialect.
    :param source: the result of the task that wrote the rows, or the path of a .csv, .jsonl or .parquet file.
    :param table: ``table`` or ``schema.table``, taken literally (no folding to lower case); odd names are
        quoted as in SQL.
    :param mode: ``append`` adds the rows; ``truncate`` replaces the rows of the table (with DELETE, so readers
        go on seeing the old ones until the commit; other writers wait); ``replace`` fills a new table and swaps it
        in (readers wait for the moment of the swap); ``upsert`` updates rows whose ``keys`` are there and inserts
        the others.
    :param keys: for ``upsert``: the columns of a primary key or unique index of the table.
    :param column_map: source column -> table column, or null to leave it out; the others keep their names.
    :param create_table: create a table (or database file) that is missing, with the types that the dataset
        declares or else those of the first batch. With ``replace`` the table is made anew with these columns.
    :param batch_size: rows in memory at a time.
    :param keep: for ``upsert``, when source rows share their keys: ``error``, or keep the ``last``.
    :param null_text: CSV: the text that is NULL, by default the empty field; null for none.
    :param delimiter: CSV: one character.
    :param encoding: CSV: of the file; the default reads UTF-8 with or without BOM.
    :param expected_rows: how many rows the source must have.
    :param min_rows: how many rows it must have at least; by default an empty source loads nothing and succeeds
        (and empties the table with ``truncate`` and ``replace``).
    :param on_bad_row: ``fail`` stores nothing when a row does not fit; ``reject`` sets such rows aside.
    :param reject_path: for ``reject``: the file (JSON Lines) for these rows and the reasons, for its owner only.
    :param max_failures: for ``reject``: with more such rows nothing is stored.
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
                "batch_size must be between 1 and 1000000", field="batch_size", remedy="5000 is a good value"
            )
        if self.column_map is not None and not isinstance(self.column_map, Mapping):
            raise ConfigError(
                "column_map must be an object", field="column_map", remedy='write {"source name": "table name"}'
            )
        return LoadPlan(
            table=self.table,
            mode=self.mode,
            keys=self.keys or (),
            column_map=self.column_map or {},
            create_table=self.create_table,
            keep=self.keep,
            expected_rows=number(self.expected_rows, "expected_rows"),
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
        self._rows(dataset)  # tells what is wrong with the options before anything is opened
        hook = hook_for(self.conn_id)
        return load(
            lambda: self._rows(dataset),
            plan,
            lambda: hook.open(run.deadline, create=self.create_table),
            run,
            fingerprint=plan.fingerprint(identity(dataset)),
            types=dataset.columns,
            total=dataset.rows if dataset.rows != UNKNOWN else None,
            csv=csv_file(dataset, delimiter=self.delimiter, encoding=self.encoding, null_text=self.null_text),
        )

    def _rows(self, dataset: Dataset) -> RowReader:
        from flowrunner_provider.data.readers import open_rows

        return open_rows(
            dataset,
            batch_rows=self.batch_size,
            delimiter=self.delimiter,
            encoding=self.encoding,
            null_text=self.null_text,
        )
