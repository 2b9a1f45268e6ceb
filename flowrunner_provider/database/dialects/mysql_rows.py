"""Rows in the text format of ``LOAD DATA``, and CSV files that it can read unchanged.

The text format: tabs between values, a line feed after each row, backslash escapes, and ``\\N`` for NULL. Binary
values are sent as hexadecimal digits.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.database.dialects.model import CsvFile
from flowrunner_provider.database.dialects.postgres_csv import Unfit, blocks, fits
from flowrunner_provider.database.dialects.values import as_json, types_of, unencodable

__all__ = ["LOADED_AS", "TextCopier", "csv_blocks", "csv_fits", "interval", "line_end", "moment"]

LOADED_AS: Mapping[str, str] = MappingProxyType({"binary": "UNHEX({})", "bit": "CAST({} AS UNSIGNED)"})
"""The SQL that converts the text of a value to a column that is not text."""

_PLAIN: frozenset[type] = frozenset({int, float, Decimal, UUID, date, time})
"""Types whose ``str`` needs no escaping and reads back as the same value."""

_SPECIAL = re.compile(r"[\\\t\n\r\0]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
_LONGEST = 16 * 1024 * 1024
_COMMAS = bytes.maketrans(b"\n", b",")
_EMPTY = re.compile(rb"(?<=[,\n])(?=[,\r\n])")


def moment(value: datetime) -> str:
    """Return a timestamp as text without its zone; in UTC if it had one."""
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return value.isoformat(" ")


def interval(value: timedelta) -> str:
    """Return a duration as a ``TIME`` value."""
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    seconds = value.days * 86400 + value.seconds
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{value.microseconds:06d}"


_TEXTS: Mapping[type, Callable[[Any], str]] = MappingProxyType(
    {
        bool: lambda value: "1" if value else "0",
        datetime: moment,
        timedelta: interval,
        dict: as_json,
        list: as_json,
        tuple: as_json,
        bytes: bytes.decode,
        bytearray: bytearray.decode,
        memoryview: lambda value: bytes(value).decode(),
    }
)


class TextCopier:
    """Formats batches of rows and sends them.

    :param binary: the indexes of the binary columns.
    """

    send: Callable[[bytes], None]

    def __init__(self, *, binary: Sequence[int]) -> None:
        self._binary, self.rows = frozenset(binary), 0

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        types = types_of(rows)
        columns = [
            _hex(column) if place in self._binary else _texts(column, types[place])
            for place, column in enumerate(zip(*rows, strict=True))
        ]
        try:
            self.send("".join([line + "\n" for line in map("\t".join, zip(*columns, strict=True))]).encode())
        except UnicodeEncodeError:
            raise unencodable() from None


def _texts(column: tuple[Any, ...], types: set[type]) -> Sequence[str]:
    if types <= {str}:
        return [text.translate(_ESCAPES) for text in column] if _SPECIAL.search("".join(column)) else column
    if types <= _PLAIN:
        return list(map(str, column))
    return ["\\N" if value is None else _text(value) for value in column]


def _text(value: Any) -> str:
    if type(value) in _PLAIN:
        return str(value)
    for kind in type(value).__mro__:
        if kind in _TEXTS:
            return _TEXTS[kind](value).translate(_ESCAPES)
    return str(value).translate(_ESCAPES)


def _hex(column: tuple[Any, ...]) -> list[str]:
    try:
        return ["\\N" if value is None else _bytes(value).hex() for value in column]
    except UnicodeEncodeError:
        raise unencodable() from None


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


def csv_fits(file: CsvFile) -> bool:
    """Return whether the file can be sent unchanged; one with a single column cannot, because of empty lines."""
    return fits(file) and file.width > 1 and file.delimiter == ","


def line_end(file: CsvFile) -> str:
    """Return the line end of the file, by its first line, as in SQL."""
    with disk_errors(file.path), Path(file.path).open("rb") as stream:
        return "\\r\\n" if stream.readline(_LONGEST).endswith(b"\r\n") else "\\n"


def csv_blocks(file: CsvFile) -> Generator[tuple[bytes, int], None, None]:
    """Yield the rows after the header in blocks, each with its number of line breaks.

    Empty fields that mean NULL become the bare word ``NULL``, which the server reads as such; a file that contains
    this word is left to the parser.

    :raises Unfit: at the first block that both parsers might read differently.
    """
    for block in blocks(file):
        if b"NULL" in block:
            raise Unfit("the word NULL")
        lines = block.count(b"\n")
        if file.null_text is None:
            yield block, lines
        elif b'"' not in block:
            yield _EMPTY.sub(b"NULL", b"\n" + block)[1:] if _has_empty(block) else block, lines
        elif _has_empty(block) or b'""' in block:
            yield _written(block), lines
        else:
            yield block, lines


def _has_empty(block: bytes) -> bool:
    """Return whether a field may be empty; with one kind of separator this is faster than a search for fields."""
    return block.startswith(b",") or b",," in block.translate(_COMMAS, b"\r")


def _written(block: bytes) -> bytes:
    """Return the same rows with every value quoted except NULL."""
    end = "\r\n" if block.endswith(b"\r\n") else "\n"
    rows = csv.reader(io.StringIO(block.decode(), newline=""), strict=True)
    return "".join(",".join(map(_field, row)) + end for row in rows).encode()


def _field(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if value else "NULL"
