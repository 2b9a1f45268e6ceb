"""A Parquet file of rows that the database formatted as CSV: no value becomes a Python object on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.data.parquet_writer import ParquetWriter
from flowrunner_provider.data.writers import ParquetOptions

__all__ = ["ServerParquetWriter"]

_COLUMN_NUMBER = re.compile(r"CSV column #(\d+)")


class ServerParquetWriter(ParquetWriter):
    """Writes row groups from CSV as ``COPY`` formats it: NULL is an empty field without quotes."""

    @classmethod
    def create(cls, path: Path, columns: Mapping[str, str], token: str, options: ParquetOptions) -> ServerParquetWriter:
        """Create a file.

        :param columns: name -> type, for every column.
        """
        writer = cls(path, "parquet", columns, token, options)
        writer.open(None)
        return writer

    def write_block(self, block: bytes, rows: int) -> None:
        """Append a block of complete rows.

        :raises IntegrityError: for a value that Parquet cannot hold, such as an infinite date.
        """
        table = self._parse(block)
        if table.num_rows != rows:
            raise IntegrityError(
                f"the database sent {rows} rows of CSV, but {table.num_rows} were parsed",
                remedy="retry; if it happens again, export to CSV",
            )
        for index, kind in enumerate(self._declared.values()):
            if kind == "binary":
                table = table.set_column(index, self.schema.field(index), self._decode_hex(table.column(index)))
        self.write_table(table)

    def _parse(self, block: bytes) -> Any:
        csv, arrow = self._csv, self._arrow
        try:
            return csv.read_csv(
                arrow.py_buffer(block),
                read_options=csv.ReadOptions(column_names=self.columns, block_size=len(block) + 1),
                parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=self._convert_options,
            )
        except arrow.ArrowInvalid as error:
            found = _COLUMN_NUMBER.search(str(error))
            index = int(found[1]) if found else 0
            name, wanted = self.columns[index], self.schema.field(index).type
            raise IntegrityError(  # without the value that pyarrow's message contains
                f"the column {name!r} has a value that does not fit {wanted}, after row {self.rows}",
                remedy="cast the column to text in sql",
            ) from None

    @cached_property
    def _csv(self) -> Any:
        return load("pyarrow.csv", extra="data", needed_for="writing Parquet")

    @cached_property
    def _convert_options(self) -> Any:
        text = self._arrow.string()
        types = {
            name: text if kind == "binary" else self.schema.field(name).type for name, kind in self._declared.items()
        }
        return self._csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )

    def _decode_hex(self, texts: Any) -> Any:
        """Decode ``\\x`` followed by hexadecimal digits."""
        values = [None if text is None else bytes.fromhex(text[2:]) for text in texts.to_pylist()]
        return self._arrow.array(values, type=self._arrow.binary())
