"""A CSV file whose lines the database formatted."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from flowrunner_provider.data.values import PREVIEW_ROWS
from flowrunner_provider.data.writers import RowWriter

__all__ = ["ServerCsvWriter"]

_PREVIEW_BYTES = 64 * 1024  # of a block that are parsed for the preview


class ServerCsvWriter(RowWriter):
    """Writes a header and the lines, each ending with a line feed."""

    resumable = False

    @classmethod
    def create(cls, path: Path, columns: Mapping[str, str], token: str) -> ServerCsvWriter:
        """Create a file with its header.

        :param columns: name -> type.
        """
        writer = cls(path, "csv", columns, token)
        writer.open(None)
        names = (name.replace('"', '""') for name in writer.columns)
        writer._put((",".join(f'"{name}"' if _needs_quotes(name) else name for name in names) + "\n").encode())
        return writer

    def write_block(self, block: bytes, rows: int) -> None:
        """Append a block of complete rows."""
        if self.rows < PREVIEW_ROWS:
            text = block[:_PREVIEW_BYTES].decode(errors="ignore")
            first = islice(csv.reader(io.StringIO(text, newline="")), min(rows, PREVIEW_ROWS - self.rows))
            self._keep_preview([dict(zip(self.columns, row, strict=False)) for row in first])
        self._put(block)
        self.rows += rows


def _needs_quotes(name: str) -> bool:
    return any(character in name for character in '",\r\n')
