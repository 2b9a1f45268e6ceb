"""Operators that convert files of rows.

All of them write to a temporary file and rename it at the end. A killed attempt leaves nothing under the final name;
the retry starts over, overwrites the temporary file and produces the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.convert import convert, records_to_dataset, target_path
from flowrunner_provider.data.dataset import Dataset, Format, local_path
from flowrunner_provider.data.json_source import json_records
from flowrunner_provider.data.writers import CsvOptions, ParquetOptions
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["ReadJsonOperator", "WriteColumnarOperator", "WriteCsvOperator"]

Compression = Literal["zstd", "snappy", "gzip", "none"]
OnMixed = Literal["error", "string"]


def _one_of(value: Any, known: Any, field: str) -> None:
    if value not in get_args(known):
        names = ", ".join(repr(name) for name in get_args(known))
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"use one of {names}")


def _at_least(value: Any, least: int, field: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"give a whole number from {least} on")


class ReadJsonOperator(FlowRunnerOperator):
    """On success, the dataset at ``save_to`` has every record of a JSON or JSON Lines file, in the same order.

    A killed or retried task starts over; nothing appears under the final name before it is complete. JSON Lines are
    streamed in constant memory; a JSON document needs up to ten times its size in memory. CSV and Parquet need two
    passes over the records, the first one to collect all columns.

    :param path: the file on the worker's disk; a name that ends in ``.gz`` is read as gzip.
    :param save_to: the file of the dataset; ``.gz`` compresses CSV and JSON Lines.
    :param records_path: JMESPath to the records, within the document or within each line, e.g. ``data.items``. By
        default the document is a list of objects or a single object. A path that finds nothing is an error.
    :param lines: whether each line is one object; ``auto`` decides by the name and the first two lines.
    :param flatten: number of levels of nested objects to turn into columns: ``{"a": {"b": 1}}`` becomes ``a_b``.
    :param format: the format of the dataset.
    :param columns: the expected columns: any other key is an error, and an input without records is allowed.
    :param max_bytes: maximum size of a JSON document after decompression; JSON Lines have no limit.
    """

    action: ClassVar[str] = "data.read_json"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("path", "save_to", "records_path")

    def __init__(
        self,
        *,
        path: str,
        save_to: str,
        records_path: str | None = None,
        lines: bool | Literal["auto"] = "auto",
        flatten: int = 0,
        format: Format = "jsonl",  # noqa: A002
        columns: list[str] | None = None,
        max_bytes: int = 128 * 1024 * 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.save_to, self.records_path = path, save_to, records_path
        self.lines, self.flatten, self.format = lines, flatten, format
        self.columns, self.max_bytes = columns, max_bytes

    def perform(self, run: Run) -> Dataset:
        """Read the records, write the temporary file and rename it."""
        _one_of(self.format, Format, "format")
        _at_least(self.flatten, 0, "flatten")
        _at_least(self.max_bytes, 1, "max_bytes")
        if self.lines not in (True, False, "auto"):
            raise ConfigError(f"lines is {self.lines!r}", field="lines", remedy="use true, false or 'auto'")
        source = local_path(self.path, "path")
        target = target_path(self.save_to, self.format, self.path, "save_to")
        records = json_records(
            source,
            records_path=self.records_path,
            lines=self.lines,
            flatten=self.flatten,
            max_bytes=self.max_bytes,
        )
        return records_to_dataset(records, target, self.format, run, source=self.path, columns=self.columns)


class WriteCsvOperator(FlowRunnerOperator):
    """On success, the CSV file at ``path`` has every row of ``source``, in the same order.

    A killed or retried task starts over; nothing appears under the final name before it is complete. Rows are streamed
    in constant memory, several hundred thousand per second. Nested values are written as JSON text, booleans as
    ``true`` and ``false``, times in ISO 8601. Lines end in ``\\n``; fields are quoted as in RFC 4180.

    :param source: a dataset returned by an upstream task, or the path of a .jsonl, .csv or .parquet file.
    :param path: the CSV file; a name that ends in ``.gz`` is compressed with gzip.
    :param columns: the columns to write, in this order, or a mapping of old names to new ones; by default all.
    :param delimiter: field separator, one character.
    :param header: write the column names as the first line.
    :param encoding: ``utf-8-sig`` lets Excel recognise UTF-8. A character that the encoding cannot represent is an
        error.
    :param quoting: ``minimal`` quotes only the fields that need it, ``all`` quotes every field.
    :param decimal: decimal separator of numbers, ``.`` or ``,``.
    :param escape_formulas: put ``'`` before text that a spreadsheet would run as a formula. Enable it for files that
        people open. It changes the data, so it is off by default.
    :param null_text: text for NULL. By default NULL is an empty field, like the empty string. With a text, a value that
        equals it is an error, so that the two stay distinguishable.
    """

    action: ClassVar[str] = "data.write_csv"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("source", "path", "columns")

    def __init__(
        self,
        *,
        source: Dataset | Mapping[str, Any] | str,
        path: str,
        columns: list[str] | dict[str, str] | None = None,
        delimiter: str = ",",
        header: bool = True,
        encoding: str = "utf-8",
        quoting: Literal["minimal", "all"] = "minimal",
        decimal: Literal[".", ","] = ".",
        escape_formulas: bool = False,
        null_text: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.path, self.columns = source, path, columns
        self.delimiter, self.header, self.encoding = delimiter, header, encoding
        self.quoting, self.decimal = quoting, decimal
        self.escape_formulas, self.null_text = escape_formulas, null_text

    def perform(self, run: Run) -> Dataset:
        """Read the rows, write the temporary file and rename it."""
        source = Dataset.from_value(self.source)
        options = CsvOptions(
            delimiter=self.delimiter,
            encoding=self.encoding,
            header=self.header,
            quoting=self.quoting,
            decimal=self.decimal,
            null_text=self.null_text,
            escape_formulas=self.escape_formulas,
        )
        target = target_path(self.path, "csv", source.path, "path")
        return convert(source, target, "csv", run, columns=self.columns, csv=options)


class WriteColumnarOperator(FlowRunnerOperator):
    """On success, the Parquet file at ``path`` has every row of ``source``, in the same order.

    A killed or retried task starts over; nothing appears under the final name before it is complete. The retry writes
    the same bytes if the version of pyarrow is the same. Two passes over the rows, in constant memory: the first one
    determines the column types. Integers become int64, numbers double, dates date32, timestamps microseconds (with a
    time zone: UTC), objects and arrays JSON text, decimals text. Values of a CSV source stay text.

    :param source: a dataset returned by an upstream task, or the path of a .jsonl, .csv or .parquet file.
    :param path: the Parquet file.
    :param columns: the columns to write, in this order, or a mapping of old names to new ones; by default all.
    :param compression: codec of the column chunks.
    :param row_group_rows: maximum rows per row group; a row group is also closed at about 32 MiB.
    :param on_mixed: what to do with a column whose values have no common type: ``error`` fails and names the column and
        rows, ``string`` writes all its values as text.
    """

    action: ClassVar[str] = "data.write_parquet"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("source", "path", "columns")

    def __init__(
        self,
        *,
        source: Dataset | Mapping[str, Any] | str,
        path: str,
        columns: list[str] | dict[str, str] | None = None,
        compression: Compression = "zstd",
        row_group_rows: int = 100_000,
        on_mixed: OnMixed = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.path, self.columns = source, path, columns
        self.compression, self.row_group_rows, self.on_mixed = compression, row_group_rows, on_mixed

    def perform(self, run: Run) -> Dataset:
        """Determine the column types, write the temporary file and rename it."""
        _one_of(self.compression, Compression, "compression")
        _one_of(self.on_mixed, OnMixed, "on_mixed")
        _at_least(self.row_group_rows, 1, "row_group_rows")
        source = Dataset.from_value(self.source)
        options = ParquetOptions(
            compression=self.compression, row_group_rows=self.row_group_rows, on_mixed=self.on_mixed
        )
        target = target_path(self.path, "parquet", source.path, "path")
        return convert(source, target, "parquet", run, columns=self.columns, parquet=options)
