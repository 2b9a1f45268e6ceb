"""Rows as files for people: CSV for spreadsheets, and Excel workbooks; in constant memory, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.data.writers import CsvOptions, open_writer
from flowrunner_provider.reports.table import text_of_cell

__all__ = ["write_csv", "write_xlsx"]

_MOST_ROWS = 1_048_575
_MOST_COLUMNS = 16_384
_LONGEST_TEXT = 32_767
_DIGITS = 15
"""More than that a number of Excel cannot hold."""
_CREATED = datetime(2000, 1, 1)  # noqa: DTZ001 - Excel knows no time zones; a file that is written again is the same
_FIRST_DAY = date(1900, 3, 1)
"""Before it Excel counts a day that never was."""


def write_csv(dataset: Dataset, path: Path, guard: Callable[[int], None], *, escape_formulas: bool) -> None:
    """A CSV file that Excel reads as UTF-8.

    :param guard: told how many bytes it has; raises when they are too many.
    :param escape_formulas: put ``'`` before text that a spreadsheet would run.
    """
    options = CsvOptions(encoding="utf-8-sig", escape_formulas=escape_formulas)
    with (
        open_rows(dataset) as reader,
        open_writer(path, "csv", list(dataset.columns), token="report", csv=options) as writer,  # noqa: S106
    ):
        for batch in reader:
            writer.write(batch)
            guard(writer.offset)
        writer.commit()


def write_xlsx(dataset: Dataset, path: Path, guard: Callable[[int], None]) -> None:
    """A workbook with one sheet. Text is text: nothing in it is a formula or a link.

    :param guard: told how many bytes it has; raises when they are too many.
    :raises ConfigError: for more than a sheet can hold.
    """
    if dataset.rows > _MOST_ROWS or len(dataset.columns) > _MOST_COLUMNS:
        raise ConfigError(
            f"{dataset.rows:,} rows and {len(dataset.columns):,} columns are more than a sheet of Excel holds",
            field="format",
            remedy="use format='csv', or narrow the query",
        )
    xlsxwriter = load("xlsxwriter", extra="xlsx", needed_for="an Excel file")
    with disk_errors(str(path)):
        book = xlsxwriter.Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        book.set_properties({"created": _CREATED})
        sheet = _Sheet(book, dataset)
        try:
            with open_rows(dataset) as reader:
                for batch in reader:
                    for row in batch:
                        sheet.add(row)
        finally:
            book.close()
        guard(path.stat().st_size)


class _Sheet:
    def __init__(self, book: Any, dataset: Dataset) -> None:
        self._names, self._kinds = list(dataset.columns), list(dataset.columns.values())
        self._sheet = book.add_worksheet("Report")
        self._formats = {
            "date": book.add_format({"num_format": "yyyy-mm-dd"}),
            "time": book.add_format({"num_format": "hh:mm:ss"}),
            "timestamp": book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        }
        self._sheet.freeze_panes(1, 0)
        head = book.add_format({"bold": True})
        for column, name in enumerate(self._names):
            self._sheet.write_string(0, column, name, head)
        self._row = 0

    def add(self, values: Sequence[Any]) -> None:
        self._row += 1
        for column, value in enumerate(values):
            if value is not None:
                self._write(column, value, self._kinds[column])

    def _write(self, column: int, value: Any, kind: str) -> None:
        place = self._row, column
        if isinstance(value, bool):
            self._sheet.write_boolean(*place, value)
        elif (number := _number(value, kind)) is not None:
            self._sheet.write_number(*place, number)
        elif kind in self._formats and (moment := _moment(value, kind)) is not None:
            self._sheet.write_datetime(*place, moment, self._formats[kind])
        else:
            text = text_of_cell(value)
            if len(text) > _LONGEST_TEXT:
                raise ConfigError(
                    f"row {self._row}, column {self._names[column]!r} has {len(text):,} characters; "
                    f"a cell of Excel holds {_LONGEST_TEXT:,}",
                    field="format",
                    remedy="use format='csv', or cut it in the query",
                )
            self._sheet.write_string(*place, text)


def _number(value: Any, kind: str) -> float | None:
    """The value as a number of Excel, if it is one and no digit is lost."""
    if isinstance(value, float):
        return value
    if isinstance(value, int) or (kind == "decimal" and isinstance(value, str)):
        decimal = Decimal(value)
        if decimal.is_finite() and len(decimal.normalize().as_tuple().digits) <= _DIGITS:
            return float(decimal)
    return None


def _moment(value: Any, kind: str) -> date | time | None:
    """The value as a moment of Excel, which knows no time zones and nothing before 1900."""
    types: dict[str, Any] = {"date": date, "time": time, "timestamp": datetime}
    try:
        moment = types[kind].fromisoformat(value)
    except (TypeError, ValueError):
        return None
    if getattr(moment, "tzinfo", None) is not None:
        return None
    day = moment.date() if isinstance(moment, datetime) else moment
    return None if isinstance(day, date) and day < _FIRST_DAY else moment
