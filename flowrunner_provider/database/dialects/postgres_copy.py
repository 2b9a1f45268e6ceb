"""Rows in the CSV format of ``COPY``: NULL is an empty field, an empty text is ``""``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from operator import itemgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flowrunner_provider.database.dialects.values import as_json, converted, unencodable

__all__ = ["CsvCopier"]

Row = tuple[Any, ...]

_NATIVE: frozenset[type] = frozenset({str, int, float, bool, type(None), Decimal, datetime, date, time, UUID})
"""Types whose ``str`` PostgreSQL reads as the same value."""


def _interval(value: timedelta) -> str:
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"


def _array(value: Any) -> str:
    """Return a list as an array literal: ``{1,NULL,"text"}``."""
    return "{" + ",".join(_element(item) for item in value) + "}"


def _element(item: Any) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list | tuple):
        return _array(item)
    text = as_json(item) if isinstance(item, dict) else str(item)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bytea(value: Any) -> str:
    return "\\x" + bytes(value).hex()


_CONVERTERS: Mapping[type, Callable[[Any], Any]] = MappingProxyType(
    {
        dict: as_json,
        list: _array,
        tuple: _array,
        bytes: _bytea,
        bytearray: _bytea,
        memoryview: _bytea,
        timedelta: _interval,
    }
)


class CsvCopier:
    """Formats batches of rows and sends them.

    :param width: the number of columns.
    :param json: the indexes of json and jsonb columns, for which lists are JSON and not arrays.
    """

    send: Callable[[bytes], None]

    def __init__(self, width: int, *, json: Sequence[int]) -> None:
        self._width, self._json, self.rows = width, json, 0

    def write(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        text = self._text(converted(self._with_json(rows), _NATIVE, _CONVERTERS))
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise unencodable() from None
        self.send(data)

    def _with_json(self, rows: Sequence[Row]) -> Sequence[Row]:
        if not self._json or not any({list, tuple} & set(map(type, _column(rows, n))) for n in self._json):
            return rows
        columns = list(zip(*rows, strict=True))
        for place in self._json:
            columns[place] = tuple(
                as_json(value) if isinstance(value, list | tuple) else value for value in columns[place]
            )
        return list(zip(*columns, strict=True))

    def _text(self, rows: Sequence[Row]) -> str:
        """Format by the standard library's writer where that is unambiguous, else quote every value.

        The writer formats None and an empty text alike, and the server takes a line that consists of ``\\.`` for the
        end of the data.
        """
        if self._width > 1 and not any("" in column for column in zip(*rows, strict=True)):
            buffer = io.StringIO(newline="")
            csv.writer(buffer, lineterminator="\r\n").writerows(rows)  # so CR and LF in values are quoted
            text = buffer.getvalue()
            if "\\." not in text:
                return text
        return "".join(",".join(map(_quoted, row)) + "\r\n" for row in rows)


def _column(rows: Sequence[Row], place: int) -> Iterator[Any]:
    return map(itemgetter(place), rows)


def _quoted(value: Any) -> str:
    return "" if value is None else '"' + str(value).replace('"', '""') + '"'
