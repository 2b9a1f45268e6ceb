"""Arguments that several actions read alike."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import UNKNOWN, Dataset

__all__ = ["identity", "number"]


def identity(dataset: Dataset) -> dict[str, Any]:
    """What tells this source from another one in every attempt."""
    with disk_errors(dataset.path):
        size = dataset.bytes if dataset.bytes != UNKNOWN else Path(dataset.path).stat().st_size
    return {"path": dataset.path, "format": dataset.format, "bytes": size}


def number(value: int | str | None, field: str) -> int | None:
    """A count that may have been rendered from a template."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        return int(value)
    raise ConfigError(f"{field} is no number", field=field, remedy="give a whole number")
