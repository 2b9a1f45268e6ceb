"""The items of a batch, in the same order in every attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.data.dataset import UNKNOWN, Dataset
from flowrunner_provider.data.readers import open_rows

__all__ = ["ItemSource"]


class ItemSource:
    """Iterates over the items: a list, or the rows of a dataset in constant memory.

    :param items: a list, a dataset, its dict form, or the path of a data file.
    :raises ConfigError: for anything else.
    """

    def __init__(self, items: Any) -> None:
        self._list: list[Any] | None = None
        self._dataset: Dataset | None = None
        if isinstance(items, list | tuple):
            self._list = list(items)
            self.total: int | None = len(items)
            self.identity = fingerprint(self._list)
            return
        self._dataset = Dataset.from_value(items, field="items")
        self.total = None if self._dataset.rows == UNKNOWN else self._dataset.rows
        with disk_errors(self._dataset.path), Path(self._dataset.path).open("rb") as file:
            self.identity = hashlib.file_digest(file, "sha256").hexdigest()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self._list is not None:
            yield from enumerate(self._list)
        elif self._dataset is not None:
            number = 0
            with open_rows(self._dataset) as rows:
                for batch in rows:
                    for row in batch:
                        yield number, dict(zip(rows.columns, row, strict=True))
                        number += 1
