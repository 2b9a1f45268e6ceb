"""The rows of a batch, in the same order in every attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.data.readers import open_rows

__all__ = ["Row", "RowSource"]

Row = Mapping[str, Any]


class RowSource:
    """A list of mappings, or the rows of a dataset, read in constant memory; counted in advance.

    :param rows: a list of mappings, a dataset, its dict form, or the path of a file of rows.
    :param field: the name of the parameter, for error messages.
    :param needs: required columns.
    :raises ConfigError: for anything else.
    :raises NotFound: when there are no rows.
    """

    def __init__(self, rows: Any, field: str, needs: tuple[str, ...]) -> None:
        self._list: list[Row] | None = None
        self._dataset: Dataset | None = None
        if isinstance(rows, list | tuple):
            if not all(isinstance(row, Mapping) for row in rows):
                raise ConfigError(
                    f"{field} must be a list of mappings", field=field, remedy="write [{'email': 'a@example.com'}]"
                )
            self._list, self.total = list(rows), len(rows)
            self.identity = fingerprint(self._list)
            self.columns = list(dict.fromkeys(str(name) for row in rows for name in row))
        else:
            self._dataset = Dataset.from_value(rows, field=field)
            with disk_errors(self._dataset.path), Path(self._dataset.path).open("rb") as file:
                self.identity = hashlib.file_digest(file, "sha256").hexdigest()
            with open_rows(self._dataset) as reader:
                self.columns = list(reader.columns)
                counted = self._dataset.rows
                self.total = counted if counted != UNKNOWN else sum(len(batch) for batch in reader)
        if not self.total:
            raise NotFound(f"{field} has no rows", remedy="skip the task when there is nobody to write to")
        if missing := [name for name in needs if name not in self.columns]:
            raise ConfigError(
                f"{field} has no column {missing[0]!r}; it has {', '.join(self.columns[:20])}",
                field=field,
                remedy="name a column that is there",
            )

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        if self._list is not None:
            yield from enumerate(self._list)
        elif self._dataset is not None:
            number = 0
            with open_rows(self._dataset) as reader:
                for batch in reader:
                    for values in batch:
                        yield number, dict(zip(reader.columns, values, strict=True))
                        number += 1
