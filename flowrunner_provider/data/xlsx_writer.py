"""Writes rows into an Excel workbook with one sheet, row by row, through XlsxWriter.

Text stays text: no value becomes a formula or a link, not even when someone edits the cell. Values that Excel would
change silently are written as text (integers and decimals of more than 15 digits, times with a time zone) or refused
(texts of more than 32,767 characters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any, cast

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import Format
from flowrunner_provider.data.row_writer import RowWriter
from flowrunner_provider.data.values import text_of

__all__ = ["MOST_ROWS", "XlsxRowWriter"]

MOST_ROWS = 1_048_575
"""The most rows of a sheet, without the header."""

_MOST_COLUMNS = 16_384
_MOST_TEXT = 32_767
_EXACT = 10**15  # Excel keeps 15 digits
_FIRST_DAY = date(1900, 3, 1)  # Excel counts 1900 as a leap year, so earlier dates are ambiguous
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class XlsxRowWriter(RowWriter):
    """Writes a workbook in constant memory.

    :param scratch: a folder for the rows until the workbook is packed; no other writer may use it.
    """

    resumable = False

    def __init__(self, path: Path, columns: Mapping[str, str], token: str, scratch: Path) -> None:
        package = load("xlsxwriter", extra="xlsx", needed_for="writing Excel files")
        if len(columns) > _MOST_COLUMNS:
            raise ConfigError(
                f"a sheet holds at most {_MOST_COLUMNS:,} columns, not {len(columns):,}",
                field="columns",
                remedy="select fewer",
            )
        super().__init__(path, cast("Format", "xlsx"), columns, token)
        self.open(None)
        self._scratch = scratch
        self._create_error: type[Exception] = package.exceptions.FileCreateError
        with self._scratch_errors():
            scratch.mkdir(parents=True, exist_ok=True)
            self._start(package)

    def _start(self, package: Any) -> None:
        self._book = package.Workbook(
            _PartStream(self),
            {
                "constant_memory": True, "tmpdir": str(self._scratch), "use_zip64": True,
                "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
            },
        )  # fmt: skip
        self._book.set_properties({"created": datetime(2000, 1, 1)})  # noqa: DTZ001 - the same rows, the same bytes
        self._sheet = self._book.add_worksheet()
        self._text_guard = self._book.add_format({"quote_prefix": True})
        self._date_format = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._time_format = self._book.add_format({"num_format": "hh:mm:ss.000"})
        self._datetime_format = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss.000"})
        for column, name in enumerate(self.columns):
            self._write_text(0, column, name)
        self._sheet.freeze_panes(1, 0)

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        if self.rows + len(batch) > MOST_ROWS:
            raise IntegrityError(
                f"a sheet holds at most {MOST_ROWS:,} rows, and there are more; nothing was written",
                remedy="set max_rows_per_file, or write csv",
            )
        with self._scratch_errors():
            for number, row in enumerate(batch, self.rows + 1):
                for column, value in enumerate(row):
                    self._write_cell(number, column, value)

    def _write_cell(self, row: int, column: int, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            self._sheet.write_boolean(row, column, value)
        elif isinstance(value, int | float | Decimal) and _is_exact_in_excel(value):
            self._sheet.write_number(row, column, value)
        elif isinstance(value, datetime) and value.tzinfo is None and _is_excel_datetime(value):
            self._sheet.write_datetime(row, column, value, self._datetime_format)
        elif isinstance(value, date) and not isinstance(value, datetime) and value >= _FIRST_DAY:
            self._sheet.write_datetime(row, column, value, self._date_format)
        elif isinstance(value, time) and value.tzinfo is None and value.microsecond % 1000 == 0:
            self._sheet.write_datetime(row, column, value, self._time_format)
        else:
            self._write_text(row, column, value if isinstance(value, str) else text_of(value))

    def _write_text(self, row: int, column: int, text: str) -> None:
        if len(text.encode("utf-16-le", "surrogatepass")) // 2 > _MOST_TEXT:
            raise IntegrityError(
                f"row {row}, column {self.columns[column]!r}: a cell holds at most {_MOST_TEXT} characters",
                remedy="shorten it in the query, or write csv",
            )
        self._sheet.write_string(row, column, text, self._text_guard if _FORMULA.match(text) else None)

    def _finish(self) -> None:
        with self._scratch_errors():
            self._book.close()
        self._clear()

    @contextmanager
    def _scratch_errors(self) -> Iterator[None]:
        """Raise our errors for those of the disk, which XlsxWriter hides in its own while it packs the workbook."""
        with disk_errors(str(self._scratch)):
            try:
                yield
            except self._create_error as error:
                hidden = error.__context__
                raise hidden if isinstance(hidden, OSError) else OSError(str(error)) from error

    def discard(self) -> None:
        super().discard()
        self._book.fileclosed = 1  # otherwise it packs itself when it is garbage-collected
        self._clear()

    def _clear(self) -> None:
        with disk_errors(str(self._scratch)):
            for file in self._scratch.iterdir():
                file.unlink(missing_ok=True)
            self._scratch.rmdir()


class _PartStream:
    """The stream that the workbook is packed into; it cannot seek."""

    def __init__(self, writer: XlsxRowWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> int:
        self._writer._put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: the writer has its own buffer."""


def _is_exact_in_excel(value: int | float | Decimal) -> bool:
    """Whether Excel keeps every digit of the number."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, int):
        return abs(value) < _EXACT
    return value.is_finite() and len(value.normalize().as_tuple().digits) <= 15 and abs(value.adjusted()) < 300


def _is_excel_datetime(value: datetime) -> bool:
    """Whether Excel can hold the time; it keeps milliseconds."""
    return value.date() >= _FIRST_DAY and value.microsecond % 1000 == 0
