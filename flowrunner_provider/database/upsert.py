"""Rows written in the DAG, as the source of a load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.model import Row

__all__ = ["MAX_ROWS", "GivenRows"]

MAX_ROWS = 10_000
"""The limit of rows written in a DAG; more rows belong in a file."""


class GivenRows:
    """A list of objects with the same columns.

    :raises ConfigError: naming the row, never a value.
    """

    def __init__(self, value: Any) -> None:
        if not isinstance(value, list | tuple) or len(value) > MAX_ROWS:
            raise ConfigError(
                f"rows must be a list of at most {MAX_ROWS} objects",
                field="rows",
                remedy='pass [{"id": 1, "name": "a"}]; for more rows, pass a file as source',
            )
        for number, row in enumerate(value, 1):
            if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row) or not row:
                raise ConfigError(
                    f"row {number} is not an object",
                    field="rows",
                    remedy='pass column -> value, e.g. {"id": 1, "name": "a"}',
                )
            if row.keys() != value[0].keys():
                raise ConfigError(
                    f"row {number} does not have the same columns as the first one",
                    field="rows",
                    remedy="add all columns to every row; use null for missing values",
                )
        self.columns = list(value[0]) if value else []
        self._rows: list[Row] = [tuple(row[name] for name in self.columns) for row in value]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[list[Row]]:
        if self._rows:
            yield self._rows

    @contextmanager
    def open(self) -> Iterator[GivenRows]:
        """Yield the rows; there is nothing to open."""
        yield self

    def identity(self) -> dict[str, str]:
        """Return what identifies these rows; the same in every attempt."""
        text = json.dumps([self.columns, self._rows], default=str)
        return {"rows": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
