"""An export: the rows of a query into files, all of them from one snapshot."""

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
from flowrunner_provider.database.results import ExportFormat, ExportResult
from flowrunner_provider.database.server_csv import ServerCsvWriter

__all__ = ["export"]

T = TypeVar("T")


def export(plan: ExportPlan, connect: Callable[[], Session], run: Run) -> ExportResult:
    """All rows are in the files, each of which appeared whole; nothing else was read or changed.

    All are read in one read-only transaction that sees one state of the database. Killed or repeated anywhere, it
    starts over: until the rows are complete nothing has its final name, and a later attempt removes what was left.
    """
    files = ExportFiles(plan, run)
    files.clear()
    with files.given_way():
        with connect() as session:
            failpoint("sql.export.after_connect")
            session.begin("repeatable read", read_only=True)
            work = _Work(session, plan, run, files)
            try:
                work.write()
            except BaseException:
                files.withdraw()
                raise
            session.rollback()
        return files.publish(work.rows, work.kinds)


class BlockWriter(Protocol):
    """A writer of what the database has written as CSV."""

    def write_block(self, block: bytes, rows: int) -> None:
        """Append whole rows."""


class _Work:
    def __init__(self, session: Session, plan: ExportPlan, run: Run, files: ExportFiles) -> None:
        self._session, self._plan, self._run, self._files = session, plan, run, files
        self._progress: Progress = run.progress("export", unit="rows", total=plan.expected_rows)
        self.rows = 0
        self.kinds: dict[str, str] = {}
        self._query = ""
        self._by_server = False
        self._options = ParquetOptions()

    def write(self) -> None:
        plan, session = self._plan, self._session
        self._describe()
        failpoint("sql.export.after_describe")
        counted = None
        if plan.format in ("csv", "parquet"):
            counted = session.copy_out(
                self._query, plan.parameters, most=self._most, passed=self._take_block, apart=len(plan.partition_by)
            )
        self._by_server = counted is not None
        if counted is None:
            with session.stream(self._query, plan.parameters, batch_rows=plan.chunk_size) as batches:
                for batch in batches:
                    self._take(batch)
            counted = session.count(TableName.parse(plan.table)) if plan.table is not None else self.rows
        self._check(counted)
        self._progress.finish()
        if not self.rows and not plan.skip_if_empty and not plan.partition_by:
            self._files.writer(self._of_blocks if self._by_server else self._open)

    def _describe(self) -> None:
        plan, session = self._plan, self._session
        source = plan.sql if plan.sql is not None else f"SELECT * FROM {session.sql(TableName.parse(str(plan.table)))}"
        columns = session.described(source, plan.parameters)
        self._query = selected(session, source, columns, plan)
        found = session.described(self._query, plan.parameters)
        for name, kind in found.items():
            self.kinds[name] = _declared(kind, columns[name], plan.format)
        check_kinds({name: self.kinds.pop(name) for name in plan.partition_by})
        if plan.format == "parquet" and "" in self.kinds.values():
            self._look_at_values()
        if plan.format == "parquet" and "decimal" in self.kinds.values():
            self._options = ParquetOptions(decimals=session.digits(self._query, plan.parameters))

    def _look_at_values(self) -> None:
        """Parquet needs a type per column before the first row; this database has them in the values alone."""
        seen, rows = Kinds(), 0
        with self._session.stream(self._query, self._plan.parameters, batch_rows=self._plan.chunk_size) as batches:
            for batch in batches:
                self._run.deadline.check("the export")
                seen.add_rows(list(self.kinds), [row[: len(self.kinds)] for row in batch], rows)
                rows += len(batch)
        for name in self.kinds:
            self.kinds[name] = seen.simple(name)
            if self.kinds[name] == "mixed":
                raise ConfigError(
                    f"the column {name!r} has values without a common type: {seen.where(name)}",
                    field="sql",
                    remedy="cast it to one type in sql",
                )

    def _take(self, batch: list[Row]) -> None:
        for key, rows in self._by_key(batch):
            for part in self._parts(rows):
                self._files.writer(self._open, key).write(part)
        self._passed(len(batch))

    def _by_key(self, batch: list[Row]) -> Iterator[tuple[Key, list[Row]]]:
        """The rows of each folder, which come together."""
        names = self._plan.partition_by
        if not names:
            yield (), batch
            return
        width = len(self.kinds)
        for values, rows in groupby(batch, lambda row: row[width:]):
            yield key_of(names, values), [row[:width] for row in rows]

    def _take_block(self, block: bytes, rows: int, key: Key) -> None:
        cast("BlockWriter", self._files.writer(self._of_blocks, key)).write_block(block, rows)
        self._passed(rows)

    def _most(self) -> int:
        """How many rows the next block may have."""
        room = self._files.room() or self._plan.max_rows_per_file
        return self._plan.chunk_size if room is None else min(room, self._plan.chunk_size)

    def _parts(self, batch: list[T]) -> Iterator[list[T]]:
        """The batch, cut where a file is full."""
        if self._plan.max_rows_per_file is None:
            yield batch
            return
        while batch:
            room = self._files.room() or self._plan.max_rows_per_file
            yield batch[:room]
            batch = batch[room:]

    def _passed(self, rows: int) -> None:
        self.rows += rows
        self._run.deadline.check("the export")
        self._progress.advance(rows)
        failpoint("sql.export.after_batch")

    def _open(self, path: Path) -> RowWriter:
        if self._plan.format == "xlsx":
            return XlsxRowWriter(path, self.kinds, self._files.token, self._files.scratch)
        return open_writer(path, self._plan.format, self.kinds, token=self._files.token, parquet=self._options)

    def _of_blocks(self, path: Path) -> RowWriter:
        if self._plan.format == "parquet":
            from flowrunner_provider.database.server_parquet import ServerParquetWriter

            return ServerParquetWriter.opened(path, self.kinds, self._files.token, self._options)
        return ServerCsvWriter.opened(path, self.kinds, self._files.token)

    def _check(self, counted: int) -> None:
        if counted != self.rows:
            raise IntegrityError(
                f"the database counts {counted} rows, and {self.rows} came; nothing was written",
                remedy="retry; if it happens again, look at the server's log",
            )
        if self._plan.expected_rows not in (None, self.rows):
            raise IntegrityError(
                f"the query has {self.rows} rows, expected were {self._plan.expected_rows}; nothing was written",
                remedy="look at the task that filled the table",
            )


def selected(session: Session, source: str, columns: dict[str, str], plan: ExportPlan) -> str:
    """The query for the file: the columns asked for, in their order, as its format can hold them."""
    chosen = list(columns if plan.columns is None else plan.columns)
    for field_name, names in (("columns", chosen), ("order_by", plan.order_by), ("partition_by", plan.partition_by)):
        if unknown := [name for name in names if name not in columns]:
            raise ConfigError(
                f"there is no column {unknown[0]!r} to export",
                field=field_name,
                remedy=f"there are {', '.join(columns)}",
            )

    def quoted(name: str) -> str:
        text = session.sql(name)
        return session.user_text(text) if plan.parameters is not None else text

    chosen = [name for name in chosen if name not in plan.partition_by]
    if not chosen:
        raise ConfigError(
            "no column is left for the files", field="partition_by", remedy="leave one of them out, or select more"
        )
    chosen += plan.partition_by
    targets = ["csv" if name in plan.partition_by else plan.format for name in chosen]
    parts = [
        session.castable(columns[name], quoted(name), target) for name, target in zip(chosen, targets, strict=True)
    ]
    sorted_by = list(dict.fromkeys((*plan.partition_by, *plan.order_by)))
    if parts == [quoted(name) for name in columns] and not sorted_by:
        return source.rstrip().rstrip(";")
    order = [session.sort_key(columns[name], f"q.{quoted(name)}") for name in sorted_by]
    return f"SELECT {', '.join(parts)} FROM ({source.rstrip().rstrip(';')}\n) AS q" + (
        f" ORDER BY {', '.join(order)}" if order else ""
    )


def _declared(kind: str, original: str, format: ExportFormat) -> str:  # noqa: A002
    """What the column is said to hold; empty where the values tell."""
    if format == "csv" and original in ("boolean", "json", "array"):
        return {"boolean": original, "json": "object", "array": "string"}[original]
    return "" if kind == "json" else kind
