"""Rows that are written into the DAG itself, as a source of a load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.model import Row

__all__ = ["MOST_ROWS", "GivenRows"]

MOST_ROWS = 10_000
"""More rows belong into a file."""


class GivenRows:
    """A list of objects that all have the same keys.

    :raises ConfigError: naming the row, and never a value.
    """

    def __init__(self, value: Any) -> None:
        if not isinstance(value, list | tuple) or len(value) > MOST_ROWS:
            raise ConfigError(
                f"rows must be a list of at most {MOST_ROWS} objects",
                field="rows",
                remedy='write [{"id": 1, "name": "a"}], and pass many rows as source, a file',
            )
        for number, row in enumerate(value, 1):
            if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row) or not row:
                raise ConfigError(
                    f"row {number} is no object", field="rows", remedy='write {"id": 1, "name": "a"}, column -> value'
                )
            if row.keys() != value[0].keys():
                raise ConfigError(
                    f"row {number} has not the same columns as the first one",
                    field="rows",
                    remedy="give every row all columns; null is a value as well",
                )
        self.columns = list(value[0]) if value else []
        self._rows: list[Row] = [tuple(row[name] for name in self.columns) for row in value]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[list[Row]]:
        if self._rows:
            yield self._rows

    @contextmanager
    def opened(self) -> Iterator[GivenRows]:
        """A source opens; there is nothing to do."""
        yield self

    def identity(self) -> dict[str, str]:
        """What tells these rows from other ones in every attempt."""
        text = json.dumps([self.columns, self._rows], default=str)
        return {"rows": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
