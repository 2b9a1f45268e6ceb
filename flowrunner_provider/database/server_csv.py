"""A CSV file whose lines the database has written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowrunner_provider.data.values import PREVIEW_ROWS
from flowrunner_provider.data.writers import RowWriter

__all__ = ["ServerCsvWriter"]


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

    def write_lines(self, lines: Sequence[bytes]) -> None:
        """Append lines, one per row."""
        if self.rows < PREVIEW_ROWS:
            texts = [bytes(line).decode() for line in lines[: PREVIEW_ROWS - self.rows]]
            rows = csv.reader(io.StringIO("".join(texts), newline=""))
            self._keep_preview([dict(zip(self.columns, row, strict=False)) for row in rows if row])
        self._put(b"".join(lines))
        self.rows += len(lines)


def _odd(name: str) -> bool:
    return any(character in name for character in '",\r\n')
