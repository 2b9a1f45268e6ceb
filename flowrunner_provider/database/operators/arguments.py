"""Arguments that several actions read alike."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import UNKNOWN, Dataset, is_gzip

if TYPE_CHECKING:
    from flowrunner_provider.database.dialects.model import CsvFile

__all__ = ["csv_file", "identity", "number"]


def identity(dataset: Dataset) -> dict[str, Any]:
    """What tells this source from another one in every attempt."""
    with disk_errors(dataset.path):
        size = dataset.bytes if dataset.bytes != UNKNOWN else Path(dataset.path).stat().st_size
    return {"path": dataset.path, "format": dataset.format, "bytes": size}


def csv_file(dataset: Dataset, *, delimiter: str, encoding: str, null_text: str | None) -> CsvFile | None:
    """The source for a database that reads CSV files itself; None if it is none."""
    from flowrunner_provider.database.dialects.model import CsvFile

    if dataset.format != "csv" or is_gzip(dataset.path):
        return None
    return CsvFile(path=dataset.path, delimiter=delimiter, encoding=encoding, null_text=null_text)


def number(value: int | str | None, field: str) -> int | None:
    """A count that may have been rendered from a template."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        return int(value)
    raise ConfigError(f"{field} is no number", field=field, remedy="give a whole number")
