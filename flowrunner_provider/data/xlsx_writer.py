"""Rows into an Excel workbook of one sheet, row by row through XlsxWriter.

Every text is a text: nothing that a row holds is run as a formula or made a link, and what looks like a formula keeps
that when somebody edits the cell. What Excel would change silently is written as text (whole numbers and decimals of
more than 15 digits, times with a zone) or refused (texts of more than 32,767 characters).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
"""That fit below the header."""

_MOST_COLUMNS = 16_384
_MOST_TEXT = 32_767
_EXACT = 10**15  # Excel keeps 15 digits
_FIRST_DAY = date(1900, 3, 1)  # before it Excel's calendar has a day that never was
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class XlsxRowWriter(RowWriter):
    """A workbook; memory does not grow with the rows.

    :param scratch: a folder for the rows until the workbook is packed.
    """

    resumable = False

    def __init__(self, path: Path, columns: Mapping[str, str], token: str, scratch: Path) -> None:
        package = load("xlsxwriter", extra="xlsx", needed_for="writing Excel files")
        if len(columns) > _MOST_COLUMNS:
            raise ConfigError(
                f"a sheet has at most {_MOST_COLUMNS} columns, not {len(columns)}", field="columns", remedy="name fewer"
            )
        super().__init__(path, cast("Format", "xlsx"), columns, token)
        self.open(None)
        with disk_errors(str(scratch)):
            scratch.mkdir(parents=True, exist_ok=True)
        self._scratch = scratch
        self._book = package.Workbook(
            _Packed(self),
            {
                "constant_memory": True, "tmpdir": str(scratch), "strings_to_formulas": False, "strings_to_urls": False,
                "strings_to_numbers": False, "use_zip64": True,
            },
        )  # fmt: skip
        self._book.set_properties({"created": datetime(2000, 1, 1)})  # noqa: DTZ001 - the same rows, the same bytes
        self._sheet = self._book.add_worksheet()
        self._guard = self._book.add_format({"quote_prefix": True})
        self._date = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._time = self._book.add_format({"num_format": "hh:mm:ss.000"})
        self._moment = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss.000"})
        for place, name in enumerate(self.columns):
            self._text(0, place, name)
        self._sheet.freeze_panes(1, 0)

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        if self.rows + len(batch) > MOST_ROWS:
            raise IntegrityError(
                f"a sheet has at most {MOST_ROWS} rows, and there are more; nothing was written",
                remedy="set max_rows_per_file, or write csv",
            )
        for number, row in enumerate(batch, self.rows + 1):
            for place, value in enumerate(row):
                self._cell(number, place, value)

    def _cell(self, row: int, place: int, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            self._sheet.write_boolean(row, place, value)
        elif isinstance(value, int | float | Decimal) and _fits(value):
            self._sheet.write_number(row, place, value)
        elif isinstance(value, datetime) and value.tzinfo is None and _on_the_calendar(value):
            self._sheet.write_datetime(row, place, value, self._moment)
        elif isinstance(value, date) and not isinstance(value, datetime) and value >= _FIRST_DAY:
            self._sheet.write_datetime(row, place, value, self._date)
        elif isinstance(value, time) and value.tzinfo is None and value.microsecond % 1000 == 0:
            self._sheet.write_datetime(row, place, value, self._time)
        else:
            self._text(row, place, value if isinstance(value, str) else text_of(value))

    def _text(self, row: int, place: int, text: str) -> None:
        if len(text.encode("utf-16-le", "surrogatepass")) // 2 > _MOST_TEXT:
            raise IntegrityError(
                f"row {row}, column {self.columns[place]!r}: a cell holds at most {_MOST_TEXT} characters",
                remedy="shorten it in the query, or write csv",
            )
        self._sheet.write_string(row, place, text, self._guard if _FORMULA.match(text) else None)

    def _finish(self) -> None:
        with disk_errors(str(self.path)):
            self._book.close()
        self._clear()

    def discard(self) -> None:
        super().discard()
        self._book.fileclosed = 1  # it is not to pack itself when it is collected
        self._clear()

    def _clear(self) -> None:
        with disk_errors(str(self._scratch)):
            for left in self._scratch.iterdir():
                left.unlink(missing_ok=True)
            self._scratch.rmdir()


class _Packed:
    """Where the workbook is packed into: a stream that only goes forward."""

    def __init__(self, writer: XlsxRowWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> int:
        self._writer._put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""


def _fits(value: int | float | Decimal) -> bool:
    """Whether Excel shows the number as it is."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, int):
        return abs(value) < _EXACT
    return value.is_finite() and len(value.normalize().as_tuple().digits) <= 15 and abs(value.adjusted()) < 300


def _on_the_calendar(value: datetime) -> bool:
    """Excel keeps milliseconds."""
    return value.date() >= _FIRST_DAY and value.microsecond % 1000 == 0
