"""Parquet through pyarrow: row groups bounded by rows and bytes, one declared type per column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.data.dataset import Format
from flowrunner_provider.data.row_writer import ParquetOptions, RowWriter
from flowrunner_provider.data.values import PREVIEW_ROWS, Kinds, kind_of, kinds_of, text_of

__all__ = ["ParquetWriter"]

_SLICE = 1_000  # rows that become Arrow arrays together, whatever the batches are
_DIGITS = 38  # of a decimal of 128 bits
_EXACT = 2**53  # integers up to here are exact as double
_CONVERSIONS: Mapping[str, tuple[Callable[[Any], Any], type]] = MappingProxyType(
    {
        **dict.fromkeys(("string", "object", "array", "mixed"), (text_of, str)),
        "decimal": (str, str),
        "binary": (bytes, bytes),
        "number": (float, float),
    }
)
"""Kinds whose values are converted, unless they are all of one class already."""
_FITTING = {"number": {"integer"}, "decimal": {"integer"}}


class ParquetWriter(RowWriter):
    """Columns of Arrow types, which are fixed by the declared kinds or the first 1,000 rows."""

    resumable = False

    def __init__(
        self,
        path: Path,
        format: Format,  # noqa: A002
        columns: Mapping[str, str] | Sequence[str] | None,
        token: str,
        options: ParquetOptions,
    ) -> None:
        for name in ("row_group_rows", "row_group_bytes"):
            if getattr(options, name) < 1:
                raise ConfigError(f"{name} must be at least 1", field=name, remedy="100000 is a good value")
        self._arrow = load("pyarrow", extra="data", needed_for="writing Parquet")
        self._parquet = load("pyarrow.parquet", extra="data", needed_for="writing Parquet")
        super().__init__(path, format, columns, token)
        self._options = options
        self._pending: list[Sequence[Any]] = []
        self._group: list[Any] = []
        self._group_rows = self._group_bytes = self._taken = 0
        self._types: dict[str, str] = {}
        self._writer: Any = None

    @property
    def schema(self) -> Any:
        """The columns as Arrow knows them; those without a declared type are text before the first row."""
        if self._writer is None:
            self._begin([])
        return self._schema

    def write_table(self, table: Any) -> None:
        """Append the rows of an Arrow table that has this :attr:`schema`."""
        table = table.cast(self.schema)
        self._take(self._pending)
        self._pending = []
        self._keep_preview(table.slice(0, max(0, PREVIEW_ROWS - self.rows)).to_pylist())
        self.rows += table.num_rows
        while table.num_rows:
            fitting = table.slice(0, self._options.row_group_rows - self._group_rows)
            self._add(fitting)
            table = table.slice(fitting.num_rows)

    def _append(self, batch: Sequence[Sequence[Any]]) -> None:
        self._pending += batch
        while len(self._pending) >= _SLICE:
            self._take(self._pending[:_SLICE])
            del self._pending[:_SLICE]

    def _finish(self) -> None:
        self._take(self._pending)
        self._pending = []
        self._write_group()
        self._writer.close()

    def _take(self, rows: list[Sequence[Any]]) -> None:
        """Turn rows into an Arrow table; write the row group when it is full."""
        if self._writer is None:
            self._begin(rows)
        while rows:
            fitting = rows[: self._options.row_group_rows - self._group_rows]
            arrays = [
                self._array(name, values) for name, values in zip(self.columns, zip(*fitting, strict=True), strict=True)
            ]
            self._add(self._arrow.Table.from_arrays(arrays, schema=self._schema))
            rows = rows[len(fitting) :]

    def _add(self, table: Any) -> None:
        self._group.append(table)
        self._taken += table.num_rows
        self._group_rows += table.num_rows
        self._group_bytes += table.nbytes
        full = self._group_rows >= self._options.row_group_rows
        if full or self._group_bytes >= self._options.row_group_bytes:
            self._write_group()

    def _begin(self, rows: list[Sequence[Any]]) -> None:
        first = Kinds()
        if rows:
            first.add_rows(self.columns, rows, 0)
        for name in self.columns:
            declared = self._declared.get(name, "")
            self._types[name] = self._column_kind(name, declared or first.simple(name), first)
        arrow = self._arrow
        types: dict[str, Callable[[], Any]] = {
            "integer": arrow.int64,
            "number": arrow.float64,
            "boolean": arrow.bool_,
            "date": arrow.date32,
            "time": lambda: arrow.time64("us"),
            "timestamp": lambda: arrow.timestamp("us"),
            "timestamptz": lambda: arrow.timestamp("us", tz="UTC"),
            "binary": arrow.binary,
        }
        self._schema = arrow.schema(
            [
                arrow.field(name, self._digits(name) or types.get(self._types[name], arrow.string)())
                for name in self.columns
            ]
        )
        self._writer = self._parquet.ParquetWriter(
            arrow.PythonFile(_Sink(self._put), mode="w"), self._schema, compression=self._options.compression
        )

    def _digits(self, name: str) -> Any:
        """The type of a column of decimals whose digits are known, and that every reader of Parquet takes."""
        precision, scale = self._options.decimals.get(name, (0, 0))
        if self._types[name] != "decimal" or not 0 <= scale <= precision <= _DIGITS or not precision:
            return None
        return self._arrow.decimal128(precision, scale)

    def _column_kind(self, name: str, kind: str, seen: Kinds) -> str:
        if kind == "mixed":
            if self._options.on_mixed == "error":
                raise IntegrityError(
                    f"column {name!r} has no common type: {seen.where(name) or 'declared as mixed'}",
                    remedy="correct the data, or pass on_mixed='string' to write all its values as text",
                )
            return "mixed"
        return "string" if kind == "null" else kind

    def _array(self, name: str, values: Sequence[Any]) -> Any:
        kind, arrow = self._types[name], self._arrow
        field = self._schema.field(name)
        if kind != "mixed":
            self._check(name, kind, values)
        convert, native = _CONVERSIONS.get(kind, (None, None))
        if kind == "decimal" and field.type != arrow.string():
            convert, native = Decimal, Decimal
        if convert is not None and not {native, type(None)}.issuperset(map(type, values)):
            values = [None if value is None else convert(value) for value in values]
        try:
            return arrow.array(values, type=field.type)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            place = self._culprit(values, field.type)
            raise IntegrityError(
                f"row {self._taken + place + 1}, column {name!r} does not fit {field.type}: {error}",
                remedy="correct the value, or make the column text first",
            ) from error

    def _check(self, name: str, kind: str, values: Sequence[Any]) -> None:
        allowed = {"null", kind} | _FITTING.get(kind, set())
        kinds = kinds_of(values)
        if kinds <= allowed and (kind != "number" or "integer" not in kinds):
            return
        for place, value in enumerate(values):
            found = kind_of(value)
            inexact = kind == "number" and found == "integer" and abs(value) > _EXACT
            if found not in allowed or inexact:
                shown = "an integer too large to be exact" if inexact else found
                raise IntegrityError(
                    f"row {self._taken + place + 1}, column {name!r} is {shown}, the column is {kind}",
                    remedy="correct the data, or make the column text first",
                )

    def _culprit(self, values: Sequence[Any], type_: Any) -> int:
        arrow = self._arrow
        for place, value in enumerate(values):
            try:
                arrow.array([value], type=type_)
            except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError, UnicodeEncodeError):
                return place
        return 0

    def _write_group(self) -> None:
        if self._group:
            self._writer.write_table(self._arrow.concat_tables(self._group), row_group_size=self._group_rows)
        self._group = []
        self._group_rows = self._group_bytes = 0


class _Sink:
    """What pyarrow writes to."""

    closed = False

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write, self._position = write, 0

    def write(self, data: Any) -> int:
        block = bytes(data)
        self._write(block)
        self._position += len(block)
        return len(block)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """There is one buffer already."""

    def close(self) -> None:
        """The part is closed by its writer."""
