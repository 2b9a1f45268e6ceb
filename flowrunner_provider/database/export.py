"""Export the rows of a query to files, all from one snapshot."""

# ruff: noqa: S608 - names are quoted by identifiers.py
from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar, cast

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.progress import Progress
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.values import Kinds
from flowrunner_provider.data.writers import ParquetOptions, RowWriter, open_writer
from flowrunner_provider.data.xlsx_writer import XlsxRowWriter
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Row
from flowrunner_provider.database.export_files import ExportFiles
from flowrunner_provider.database.export_plan import ExportPlan
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.partitions import Key, check_kinds, key_of
from flowrunner_provider.database.query_text import strip_terminator
from flowrunner_provider.database.results import ExportFormat, ExportResult
from flowrunner_provider.database.server_csv import ServerCsvWriter

__all__ = ["export"]

T = TypeVar("T")


def export(plan: ExportPlan, connect: Callable[[], Session], run: Run) -> ExportResult:
    """Write all rows to files, each of which appears complete; read and change nothing else.

    All rows are read in one read-only transaction with one snapshot. A killed or repeated export starts over: no file
    has its final name before the rows are complete, and a later attempt removes leftovers.
    """
    files = ExportFiles(plan, run)
    files.clear()
    with files.fenced_errors():
        with connect() as session:
            failpoint("sql.export.after_connect")
            session.begin("repeatable read", read_only=True)
            work = _Export(session, plan, run, files)
            try:
                work.write()
            except BaseException:
                files.withdraw()
                raise
            session.rollback()
        return files.publish(work.rows, work.kinds)


class BlockWriter(Protocol):
    """A writer of CSV that the database formatted."""

    def write_block(self, block: bytes, rows: int) -> None:
        """Append a block of complete rows."""


class _Export:
    def __init__(self, session: Session, plan: ExportPlan, run: Run, files: ExportFiles) -> None:
        self._session, self._plan, self._run, self._files = session, plan, run, files
        self._progress: Progress = run.progress("export", unit="rows", total=plan.expected_rows)
        self.rows = 0
        self.kinds: dict[str, str] = {}
        self._query = ""
        self._server_formats = False
        self._options = ParquetOptions()

    def write(self) -> None:
        plan, session = self._plan, self._session
        self._describe()
        failpoint("sql.export.after_describe")
        server_count = None
        if plan.format in ("csv", "parquet"):
            server_count = session.copy_out(
                self._query,
                plan.parameters,
                block_limit=self._block_limit,
                on_block=self._write_block,
                shared_columns=len(plan.partition_by),
            )
        self._server_formats = server_count is not None
        if server_count is None:
            with session.stream(self._query, plan.parameters, batch_rows=plan.chunk_size) as batches:
                for batch in batches:
                    self._write_batch(batch)
            server_count = session.count(TableName.parse(plan.table)) if plan.table is not None else self.rows
        self._check_count(server_count)
        self._progress.finish()
        if not self.rows and not plan.skip_if_empty and not plan.partition_by:
            self._files.writer(self._open_for_blocks if self._server_formats else self._open)

    def _describe(self) -> None:
        plan, session = self._plan, self._session
        if plan.sql is not None:
            source = strip_terminator(plan.sql)
        else:
            source = f"SELECT * FROM {session.sql(TableName.parse(str(plan.table)))}"
        columns = session.column_types(source, plan.parameters)
        self._query = build_query(session, source, columns, plan)
        found = session.column_types(self._query, plan.parameters)
        for name, kind in found.items():
            self.kinds[name] = _column_kind(kind, columns[name], plan.format)
        check_kinds({name: self.kinds.pop(name) for name in plan.partition_by})
        if plan.format == "parquet" and "" in self.kinds.values():
            self._infer_kinds()
        if plan.format == "parquet" and "decimal" in self.kinds.values():
            self._options = ParquetOptions(decimals=session.decimal_precisions(self._query, plan.parameters))

    def _infer_kinds(self) -> None:
        """Infer column types from the values: Parquet needs them first, and this database declares none."""
        found, rows = Kinds(), 0
        with self._session.stream(self._query, self._plan.parameters, batch_rows=self._plan.chunk_size) as batches:
            for batch in batches:
                self._run.deadline.check("the export")
                found.add_rows(list(self.kinds), [row[: len(self.kinds)] for row in batch], rows)
                rows += len(batch)
        for name in self.kinds:
            self.kinds[name] = found.simple(name)
            if self.kinds[name] == "mixed":
                raise ConfigError(
                    f"the column {name!r} has values without a common type: {found.where(name)}",
                    field="sql",
                    remedy="cast the column to one type in sql",
                )

    def _write_batch(self, batch: list[Row]) -> None:
        for key, rows in self._group_by_partition(batch):
            for rows_of_file in self._split_at_file_limit(rows):
                self._files.writer(self._open, key).write(rows_of_file)
        self._count_rows(len(batch))

    def _group_by_partition(self, batch: list[Row]) -> Iterator[tuple[Key, list[Row]]]:
        """Yield the rows of each partition, which arrive together."""
        names = self._plan.partition_by
        if not names:
            yield (), batch
            return
        width = len(self.kinds)
        for values, rows in groupby(batch, lambda row: row[width:]):
            yield key_of(names, values), [row[:width] for row in rows]

    def _write_block(self, block: bytes, rows: int, key: Key) -> None:
        cast("BlockWriter", self._files.writer(self._open_for_blocks, key)).write_block(block, rows)
        self._count_rows(rows)

    def _block_limit(self) -> int:
        """Return how many rows the next block may have."""
        room = self._files.room() or self._plan.max_rows_per_file
        return self._plan.chunk_size if room is None else min(room, self._plan.chunk_size)

    def _split_at_file_limit(self, batch: list[T]) -> Iterator[list[T]]:
        """Split the batch where a file reaches its limit of rows."""
        if self._plan.max_rows_per_file is None:
            yield batch
            return
        while batch:
            room = self._files.room() or self._plan.max_rows_per_file
            yield batch[:room]
            batch = batch[room:]

    def _count_rows(self, rows: int) -> None:
        self.rows += rows
        self._run.deadline.check("the export")
        self._progress.advance(rows)
        failpoint("sql.export.after_batch")

    def _open(self, path: Path) -> RowWriter:
        if self._plan.format == "xlsx":
            return XlsxRowWriter(path, self.kinds, self._files.token, self._files.scratch)
        return open_writer(path, self._plan.format, self.kinds, token=self._files.token, parquet=self._options)

    def _open_for_blocks(self, path: Path) -> RowWriter:
        if self._plan.format == "parquet":
            from flowrunner_provider.database.server_parquet import ServerParquetWriter

            return ServerParquetWriter.create(path, self.kinds, self._files.token, self._options)
        return ServerCsvWriter.create(path, self.kinds, self._files.token)

    def _check_count(self, server_count: int) -> None:
        if server_count != self.rows:
            raise IntegrityError(
                f"the database counted {server_count} rows, but sent {self.rows}; nothing was written",
                remedy="retry; if it happens again, check the server's log",
            )
        if self._plan.expected_rows not in (None, self.rows):
            raise IntegrityError(
                f"the query has {self.rows} rows, expected were {self._plan.expected_rows}; nothing was written",
                remedy="check the task that filled the table",
            )


def build_query(session: Session, source: str, columns: dict[str, str], plan: ExportPlan) -> str:
    """Return the query that selects the requested columns in order, in types that the file format can hold."""
    chosen = list(columns if plan.columns is None else plan.columns)
    for field_name, names in (("columns", chosen), ("order_by", plan.order_by), ("partition_by", plan.partition_by)):
        if unknown := [name for name in names if name not in columns]:
            raise ConfigError(
                f"the query has no column {unknown[0]!r}",
                field=field_name,
                remedy=f"its columns are {', '.join(columns)}",
            )

    def quoted(name: str) -> str:
        text = session.sql(name)
        return session.user_text(text) if plan.parameters is not None else text

    chosen = [name for name in chosen if name not in plan.partition_by]
    if not chosen:
        raise ConfigError(
            "partition_by leaves no column for the files",
            field="partition_by",
            remedy="remove one of them, or export more columns",
        )
    chosen += plan.partition_by
    formats = ["csv" if name in plan.partition_by else plan.format for name in chosen]
    parts = [
        session.select_for_format(columns[name], quoted(name), target)
        for name, target in zip(chosen, formats, strict=True)
    ]
    sort_columns = list(dict.fromkeys((*plan.partition_by, *plan.order_by)))
    if parts == [quoted(name) for name in columns] and not sort_columns:
        return source
    order = [session.sort_key(columns[name], f"q.{quoted(name)}") for name in sort_columns]
    return f"SELECT {', '.join(parts)} FROM ({source}\n) AS q" + (f" ORDER BY {', '.join(order)}" if order else "")


def _column_kind(kind: str, original: str, format: ExportFormat) -> str:  # noqa: A002
    """Return the type of a column in the file; empty if the values decide."""
    if format == "csv" and original in ("boolean", "json", "array"):
        return {"boolean": original, "json": "object", "array": "string"}[original]
    return "" if kind == "json" else kind
