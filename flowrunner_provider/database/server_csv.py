"""A CSV file whose lines the database has written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from flowrunner_provider.data.values import PREVIEW_ROWS
from flowrunner_provider.data.writers import RowWriter

__all__ = ["ServerCsvWriter"]

_LOOK = 64 * 1024  # bytes of a block in which its first rows are looked for


class ServerCsvWriter(RowWriter):
    """Lines under a header; each line ends with a line break."""

    resumable = False

    @classmethod
    def opened(cls, path: Path, columns: Mapping[str, str], token: str) -> ServerCsvWriter:
        """An empty file with its header.

        :param columns: name -> type.
        """
        writer = cls(path, "csv", columns, token)
        writer.open(None)
        names = (name.replace('"', '""') for name in writer.columns)
        writer._put((",".join(f'"{name}"' if _odd(name) else name for name in names) + "\n").encode())
        return writer

    def write_block(self, block: bytes, rows: int) -> None:
        """Append whole rows."""
        if self.rows < PREVIEW_ROWS:
            text = block[:_LOOK].decode(errors="ignore")
            first = islice(csv.reader(io.StringIO(text, newline="")), min(rows, PREVIEW_ROWS - self.rows))
            self._keep_preview([dict(zip(self.columns, row, strict=False)) for row in first])
        self._put(block)
        self.rows += rows


def _odd(name: str) -> bool:
    return any(character in name for character in '",\r\n')
