"""Actions on files of rows.

All of them write beside the final name and rename at the end. A killed attempt leaves nothing under the final
name; the retry starts over, overwrites the part that was left, and produces the same bytes.
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
    """Every record of a JSON or JSON Lines file is a row of a dataset at ``save_to``, in the same order.

    A killed attempt leaves nothing under the final name; the retry starts over and writes the same bytes.
    JSON Lines are streamed in constant memory, a document takes up to ten times its size. For CSV and Parquet
    the records are gone through twice, to know all columns.

    :param path: the file on the worker's disk; ``.gz`` at its end means gzip.
    :param save_to: the dataset's file; ``.gz`` at its end compresses CSV and JSON Lines.
    :param records_path: JMESPath to the records in the document, or in each line, e.g. ``data.items``. Without it
        the document is a list of objects or one object. A path that finds nothing is an error.
    :param lines: whether each line is one object; ``auto`` looks at the name and at the first two lines.
    :param flatten: how many levels of nested objects become columns, ``{"a": {"b": 1}}`` becoming ``a_b``.
    :param format: of the dataset.
    :param columns: the columns to expect: a further key is an error, and no records are all right.
    :param max_bytes: the largest JSON document, unpacked; JSON Lines have no limit.
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
        """Read, write beside, rename."""
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
    """Every row of ``source`` is a line of the CSV file at ``path``, in the same order.

    A killed attempt leaves nothing under the final name; the retry starts over and writes the same bytes.
    Rows are streamed in constant memory, some hundred thousand a second. Nested values become JSON text, booleans
    ``true`` and ``false``, times ISO 8601; lines end in ``\\n``, and fields are quoted as in RFC 4180.

    :param source: the dataset, as an upstream task returned it, or the path of a .jsonl, .csv or .parquet file.
    :param path: the file; ``.gz`` at its end compresses it with gzip.
    :param columns: which columns in which order, or a mapping of old names to new ones; by default all.
    :param delimiter: one character.
    :param header: whether the first line holds the names of the columns.
    :param encoding: ``utf-8-sig`` makes Excel recognise UTF-8; a character that it cannot hold is an error.
    :param quoting: ``minimal`` quotes the fields that need it, ``all`` quotes all.
    :param decimal: the character between units and tenths in numbers, ``.`` or ``,``.
    :param escape_formulas: put ``'`` before text that a spreadsheet would run as a formula: switch it on for files
        that people open. It alters the data, so it is off.
    :param null_text: what NULL is written as. By default it is an empty field, as an empty string is, too; a text
        of its own keeps them apart, and a value that equals it is an error.
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
        """Read, write beside, rename."""
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
    """Every row of ``source`` is a row of the Parquet file at ``path``, in the same order.

    A killed attempt leaves nothing under the final name; the retry starts over and writes the same bytes (with the
    same version of pyarrow). The rows are gone through twice, in constant memory: once for the types of the
    columns, once to write. Integers become int64, numbers double, dates date32, timestamps microseconds (with a
    zone: UTC), objects and arrays JSON text, decimals text; CSV holds text, which stays text.

    :param source: the dataset, as an upstream task returned it, or the path of a .jsonl, .csv or .parquet file.
    :param path: the file.
    :param columns: which columns in which order, or a mapping of old names to new ones; by default all.
    :param compression: codec of the columns.
    :param row_group_rows: most rows in a row group; it is also closed at about 32 MiB.
    :param on_mixed: for a column without a common type: ``error`` names the column and rows, ``string`` writes all
        its values as text.
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
        """Look at all values, then read, write beside, rename."""
        _one_of(self.compression, Compression, "compression")
        _one_of(self.on_mixed, OnMixed, "on_mixed")
        _at_least(self.row_group_rows, 1, "row_group_rows")
        source = Dataset.from_value(self.source)
        options = ParquetOptions(
            compression=self.compression, row_group_rows=self.row_group_rows, on_mixed=self.on_mixed
        )
        target = target_path(self.path, "parquet", source.path, "path")
        return convert(source, target, "parquet", run, columns=self.columns, parquet=options)
