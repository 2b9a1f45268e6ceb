"""Argument handling shared by several operators."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import UNKNOWN, Dataset, is_gzip

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import CsvFile

__all__ = ["csv_file", "parse_count", "source_identity"]


def source_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies the source; the same in every attempt."""
    with disk_errors(dataset.path):
        size = dataset.bytes if dataset.bytes != UNKNOWN else Path(dataset.path).stat().st_size
    return {"path": dataset.path, "format": dataset.format, "bytes": size}


def csv_file(dataset: Dataset, *, delimiter: str, encoding: str, null_text: str | None) -> CsvFile | None:
    """Return the source as a CSV file that the database can parse itself, or None if it is not one."""
    from flowrunner_provider.database.dialects.model import CsvFile

    if dataset.format != "csv" or is_gzip(dataset.path):
        return None
    return CsvFile(path=dataset.path, delimiter=delimiter, encoding=encoding, null_text=null_text)


def parse_count(value: int | str | None, field: str) -> int | None:
    """Return a count as an integer; a template renders it to a string."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        return int(value)
    raise ConfigError(
        f"{field} must be a whole number", field=field, remedy="pass an integer, or a template that renders to one"
    )
