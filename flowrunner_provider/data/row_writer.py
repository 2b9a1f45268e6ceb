"""The base class of all writers of rows, and the options of the formats."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile
from flowrunner_provider.data.dataset import Dataset, Format, is_gzip
from flowrunner_provider.data.values import PREVIEW_ROWS, Kinds, json_text, preview_of, within_bounds

__all__ = ["CsvOptions", "ParquetOptions", "RowWriter"]

_BLOCK = 256 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvOptions:
    """How CSV is written: RFC 4180 quoting, lines end in ``\\n``.

    :param delimiter: field separator, one character.
    :param encoding: ``utf-8-sig`` lets Excel recognise UTF-8.
    :param header: write the column names as the first line.
    :param quoting: quote only the fields that need it, or all.
    :param decimal: decimal separator of numbers.
    :param null_text: text for NULL. By default NULL is an empty field, like the empty string. With a text, a value that
        equals it is an error, so that the two stay distinguishable.
    :param escape_formulas: put ``'`` before text that a spreadsheet would run as a formula: text that starts with
        ``= + - @``, a tab or a line end and is not a number. It changes the data, so it is off by default.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    header: bool = True
    quoting: Literal["minimal", "all"] = "minimal"
    decimal: str = "."
    null_text: str | None = None
    escape_formulas: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetOptions:
    """How Parquet is written.

    :param compression: codec of the column chunks.
    :param row_group_rows: maximum rows per row group.
    :param row_group_bytes: maximum size of a row group in memory, accurate to 1,000 rows.
    :param on_mixed: what to do with a column whose values have no common type: fail, or write all values as text.
    :param decimals: name -> precision and scale of decimal columns; other decimals are written as text of any length.
    """

    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd"
    row_group_rows: int = 100_000
    row_group_bytes: int = 32 * 1024 * 1024
    on_mixed: Literal["error", "string"] = "error"
    decimals: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


class RowWriter:
    """Writes rows to a temporary file that gets its final name on commit.

    Leaving the context closes the temporary file and keeps it for the next attempt; :meth:`discard` deletes it.
    """

    resumable = True

    def __init__(
        self,
        path: Path,
        format: Format,  # noqa: A002
        columns: Mapping[str, str] | Sequence[str] | None,
        token: str,
    ) -> None:
        self.path, self.format = path, format
        self.columns: list[str] = list(columns or ())
        self.rows = 0
        self.resumed = False
        self._declared = dict(columns) if isinstance(columns, Mapping) else {}
        self._fixed = columns is not None
        self._kinds = Kinds()
        self._preview: list[dict[str, Any]] = []
        self._part = PartFile(path, token)
        self._buffer = bytearray()
        self._offset = 0
        self._zip = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16) if is_gzip(path) else None
        if self._zip is not None:
            self.resumable = False
        if len(set(self.columns)) != len(self.columns) or "" in self.columns or (self._fixed and not self.columns):
            raise ConfigError(
                f"the columns of {path} have no or the same names: {self.columns}",
                field="columns",
                remedy="give each column a name of its own",
            )

    @property
    def offset(self) -> int:
        """Bytes written so far, including those in the buffer."""
        return self._offset + len(self._buffer)

    def open(self, state: Mapping[str, Any] | None) -> None:
        """Open the temporary file, at the checkpoint ``state`` if there is one and the file has survived."""
        wanted = int(state["offset"]) if state is not None and self.resumable else 0
        failpoint("data.writer.before_open")
        self._offset = self._part.open(wanted)
        if state is not None and wanted and self._offset == wanted:
            self.columns, self.rows = list(state["columns"]), int(state["rows"])
            self._fixed = self._fixed or self.format != "jsonl"
            self._kinds, self._preview = Kinds(state["kinds"]), list(state["preview"])
            self.resumed = True
        elif self._offset:
            self._part.close()
            self._offset = self._part.open()
        failpoint("data.writer.after_open")

    def checkpoint(self) -> dict[str, Json]:
        """Make the rows durable and return the state from which a writer can resume: a few KB of JSON with the preview.

        :raises ConfigError: for gzip and Parquet, which cannot be resumed.
        """
        if not self.resumable:
            raise ConfigError(
                f"{self.path} cannot be taken up in the middle",
                field="format",
                remedy="write jsonl or csv without .gz, and convert it at the end",
            )
        self._flush()
        self._part.sync()
        kinds: dict[str, Json] = {name: dict(seen) for name, seen in self._kinds.seen.items()}
        preview: list[Json] = list(within_bounds(self._preview))
        return {
            "offset": self._offset,
            "rows": self.rows,
            "columns": list(self.columns),
            "kinds": kinds,
            "preview": preview,
        }

    def write(self, batch: Sequence[Sequence[Any]]) -> None:
        """Append rows with one value per column.

        :raises IntegrityError: for a row of another width, or a value that the format cannot represent.
        """
        if not self.columns:
            raise ConfigError("rows without columns", field="columns", remedy="name the columns")
        width = len(self.columns)
        for place, row in enumerate(batch):
            if len(row) != width:
                raise IntegrityError(
                    f"row {self.rows + place + 1} has {len(row)} values, {self.path} has {width} columns",
                    remedy="give each row one value per column",
                )
        if batch:
            self._kinds.add_rows(self.columns, batch, self.rows)
            with self._writable(batch):
                self._append(batch)
            self._keep_preview([dict(zip(self.columns, row, strict=True)) for row in self._first(batch)])
            self.rows += len(batch)

    def write_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records; a missing key is null.

        :raises IntegrityError: for a key that is not a column, once the columns are fixed.
        """
        if not self._fixed and self.format != "jsonl":
            self.columns, self._fixed = list(dict.fromkeys(key for record in records for key in record)), bool(records)
        if self._fixed:
            known = set(self.columns)
            for place, record in enumerate(records):
                if extra := record.keys() - known:
                    raise IntegrityError(
                        f"record {self.rows + place + 1} has the key {min(extra)!r}, which is no column of {self.path}",
                        remedy="name all columns, or write jsonl, where columns may come later",
                    )
            self.write([tuple(map(record.get, self.columns)) for record in records])
            return
        for place, record in enumerate(records, self.rows + 1):
            self._kinds.add_record(record, place)
        self.columns = list(self._kinds.seen)
        with self._writable(records):
            self._append_records(records)
        self._keep_preview(self._first(records))
        self.rows += len(records)

    @contextmanager
    def _writable(self, batch: Sequence[Any]) -> Iterator[None]:
        """Raise an error that names the row with a value that no format can represent."""
        try:
            yield
        except (TypeError, RecursionError) as error:
            bad = next((row for row, values in enumerate(batch, self.rows + 1) if not _is_json(values)), None)
            where = f"row {bad}" if bad else f"a row before row {self.rows + len(batch) + 1}"
            raise IntegrityError(
                f"{where} cannot be written to {self.path}: {error}",
                remedy="make its values text, numbers, objects or arrays first",
            ) from error

    def _first(self, batch: Sequence[Any]) -> Sequence[Any]:
        return batch[: max(0, PREVIEW_ROWS - self.rows)]

    def _keep_preview(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._preview += map(preview_of, records)

    def commit(self) -> Dataset:
        """Give the complete file its final name and return the reference to it.

        :raises IntegrityError: when the temporary file is not what was written: another process has changed it.
        """
        self._finish()
        self._flush(last=True)
        if self._part.size() != self._offset:
            raise IntegrityError(
                f"the part of {self.path} is not what was written to it",
                remedy="look for another process that writes the same file, then retry",
            )
        failpoint("data.writer.before_commit")
        self._part.commit()
        failpoint("data.writer.after_commit")
        return Dataset(
            path=str(self.path),
            format=self.format,
            rows=self.rows,
            columns={name: self._declared.get(name) or self._kinds.simple(name) for name in self.columns},
            bytes=self._offset,
            preview=within_bounds(self._preview),
        )

    def discard(self) -> None:
        """Close and delete the temporary file."""
        self._part.discard()

    def withdraw(self) -> None:
        """Close the temporary file and delete it, unless the newer attempt that has replaced this one may own it."""
        self._part.withdraw()

    def close(self) -> None:
        """Close the temporary file and keep it for the next attempt."""
        self._part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        raise AssertionError("a format writes its rows")

    def _append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        raise AssertionError("only JSON Lines takes columns as they come")

    def _finish(self) -> None:
        """Write what the format needs after the last row."""

    def _put(self, data: bytes) -> None:
        """Append bytes to the buffer; they are flushed in blocks of one size, so the file does not depend on the
        batches."""
        self._buffer += data
        while len(self._buffer) >= _BLOCK:
            self._to_disk(bytes(self._buffer[:_BLOCK]))
            del self._buffer[:_BLOCK]

    def _flush(self, *, last: bool = False) -> None:
        block = bytes(self._buffer)
        self._buffer.clear()
        self._to_disk(block)
        if last and self._zip is not None:
            end, self._zip = self._zip.flush(), None
            self._to_disk(end)

    def _to_disk(self, block: bytes) -> None:
        if self._zip is not None:
            block = self._zip.compress(block)
        if block:
            failpoint("data.writer.before_write")
            self._part.write(block)
            self._offset += len(block)
            failpoint("data.writer.after_write")


def _is_json(values: Any) -> bool:
    try:
        json_text(values)
    except (TypeError, RecursionError):
        return False
    return True
