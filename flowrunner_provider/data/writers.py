"""Writes batches of rows to CSV, JSON Lines and Parquet files that appear under their final name only when complete.

::

    with open_writer(path, "csv", ["id", "name"], token=part_token(run.scope)) as writer:
        writer.write([(1, "a"), (2, "b")])
        dataset = writer.commit()

The same rows give the same bytes, whatever the batches. Uncompressed CSV and JSON Lines can be resumed: keep the
result of :meth:`RowWriter.checkpoint` and pass it as ``state``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.data.dataset import Format
from flowrunner_provider.data.row_writer import CsvOptions, ParquetOptions, RowWriter
from flowrunner_provider.data.values import json_text

__all__ = ["CsvOptions", "ParquetOptions", "RowWriter", "open_writer", "part_token"]


def part_token(scope: Sequence[str]) -> str:
    """Return the token that names a task's temporary files, the same in every attempt.

    :param scope: ``run.scope``.
    """
    return hashlib.sha256("\0".join(scope).encode()).hexdigest()[:24]


def open_writer(
    path: str | Path,
    format: Format,  # noqa: A002
    columns: Mapping[str, str] | Sequence[str] | None,
    *,
    token: str,
    csv: CsvOptions | None = None,
    parquet: ParquetOptions | None = None,
    state: Mapping[str, Any] | None = None,
) -> RowWriter:
    """Open a writer of rows to ``path``; use it as a context manager.

    :param path: the final name; ``.gz`` compresses CSV and JSON Lines.
    :param columns: the names in order, or name -> type as in :class:`Dataset`. Only Parquet needs types; missing ones
        are derived from the first 1,000 rows. None takes the keys of the records given to
        :meth:`RowWriter.write_records`: of all records for JSON Lines, of the first batch for the other formats.
    :param token: the :func:`part_token` of the run.
    :param csv: the options of CSV.
    :param parquet: the options of Parquet.
    :param state: what :meth:`RowWriter.checkpoint` returned in an earlier attempt. If the temporary file did not
        survive, the writer starts over: check ``resumed``.
    """
    from flowrunner_provider.data.csv_writer import CsvWriter
    from flowrunner_provider.data.parquet_writer import ParquetWriter

    target = Path(path)
    writer: RowWriter
    if format == "csv":
        writer = CsvWriter(target, format, columns, token, csv or CsvOptions())
    elif format == "parquet":
        writer = ParquetWriter(target, format, columns, token, parquet or ParquetOptions())
    elif format == "jsonl":
        writer = JsonlWriter(target, format, columns, token)
    else:
        raise ConfigError(f"unknown format {format!r}", field="format", remedy="jsonl, csv or parquet")
    writer.open(state)
    return writer


class JsonlWriter(RowWriter):
    """Writes one JSON object per line in UTF-8."""

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        columns = self.columns
        self._append_records([dict(zip(columns, row, strict=True)) for row in batch])

    def _append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        lines = list(map(json_text, records))
        lines.append("")
        self._put("\n".join(lines).encode("utf-8", "backslashreplace"))  # a lone surrogate is \\udxxx in JSON, too
