"""A Parquet file of rows that the database has written as CSV: no value becomes an object of Python on the way."""

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

_PLACE = re.compile(r"CSV column #(\d+)")


class ServerParquetWriter(ParquetWriter):
    """Row groups of the columns' types, out of CSV as ``COPY`` writes it: NULL is an empty field without quotes."""

    @classmethod
    def opened(cls, path: Path, columns: Mapping[str, str], token: str, options: ParquetOptions) -> ServerParquetWriter:
        """An empty file.

        :param columns: name -> type, of each.
        """
        writer = cls(path, "parquet", columns, token, options)
        writer.open(None)
        return writer

    def write_block(self, block: bytes, rows: int) -> None:
        """Append whole rows.

        :raises IntegrityError: for a value that Parquet cannot hold, such as an infinite date.
        """
        table = self._read(block)
        if table.num_rows != rows:
            raise IntegrityError(
                f"the database wrote {rows} rows of CSV, and {table.num_rows} were read",
                remedy="retry; if it happens again, write to CSV",
            )
        for place, kind in enumerate(self._declared.values()):
            if kind == "binary":
                table = table.set_column(place, self.schema.field(place), self._bytes(table.column(place)))
        self.write_table(table)

    def _read(self, block: bytes) -> Any:
        csv, arrow = self._csv, self._arrow
        try:
            return csv.read_csv(
                arrow.py_buffer(block),
                read_options=csv.ReadOptions(column_names=self.columns, block_size=len(block) + 1),
                parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=self._conversion,
            )
        except arrow.ArrowInvalid as error:
            found = _PLACE.search(str(error))
            place = int(found[1]) if found else 0
            name, wanted = self.columns[place], self.schema.field(place).type
            raise IntegrityError(  # without the value, which the driver's text has in it
                f"the column {name!r} has a value that does not fit {wanted}, after row {self.rows}",
                remedy="cast the column to text in sql",
            ) from None

    @cached_property
    def _csv(self) -> Any:
        return load("pyarrow.csv", extra="data", needed_for="writing Parquet")

    @cached_property
    def _conversion(self) -> Any:
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

    def _bytes(self, texts: Any) -> Any:
        """Of ``\\x`` and digits."""
        values = [None if text is None else bytes.fromhex(text[2:]) for text in texts.to_pylist()]
        return self._arrow.array(values, type=self._arrow.binary())
