"""Writes rows to files for people: CSV for spreadsheets and Excel workbooks, in constant memory and reproducibly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.data.writers import CsvOptions, RowWriter, open_writer
from flowrunner_provider.data.xlsx_writer import MOST_ROWS, XlsxRowWriter

__all__ = ["write_csv", "write_xlsx"]

_TOKEN = "report"  # noqa: S105 - it names a part file
_READ: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "decimal": Decimal,
}
"""Kinds that a snapshot holds as text."""


def write_csv(dataset: Dataset, path: Path, guard: Callable[[int], None], *, escape_formulas: bool) -> None:
    """Write a CSV file that Excel reads as UTF-8.

    :param guard: called with the size so far; raises when it is too large.
    :param escape_formulas: put ``'`` before text that a spreadsheet would run as a formula.
    """
    options = CsvOptions(encoding="utf-8-sig", escape_formulas=escape_formulas)
    _write(dataset, open_writer(path, "csv", list(dataset.columns), token=_TOKEN, csv=options), guard)


def write_xlsx(dataset: Dataset, path: Path, guard: Callable[[int], None]) -> None:
    """Write a workbook with one sheet, in which text is never a formula or a link.

    :param guard: called with the size so far; raises when it is too large.
    :raises ConfigError: for more rows than a sheet can hold.
    """
    if dataset.rows > MOST_ROWS:
        raise ConfigError(
            f"{dataset.rows:,} rows are more than a sheet of Excel holds",
            field="format",
            remedy="use format='csv', or narrow the query",
        )
    _write(dataset, XlsxRowWriter(path, dataset.columns, _TOKEN, path.parent / "packing"), guard)
    with disk_errors(str(path)):
        size = path.stat().st_size
    guard(size)


def _write(dataset: Dataset, opened: RowWriter, guard: Callable[[int], None]) -> None:
    kinds = list(dataset.columns.values())
    with opened as writer, open_rows(dataset) as reader:
        for batch in reader:
            excel = isinstance(writer, XlsxRowWriter)
            writer.write([tuple(map(_typed, row, kinds)) for row in batch] if excel else batch)
            guard(writer.offset)
        writer.commit()


def _typed(value: Any, kind: str) -> Any:
    """Return the value in the type that it had in the database, if the snapshot holds its text."""
    if kind in _READ and isinstance(value, str):
        with suppress(ValueError, InvalidOperation):
            return _READ[kind](value)
    return value
