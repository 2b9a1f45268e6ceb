"""How one value is written in each format, and what kinds of values a column holds.

The rules, which every writer follows:

=============  ==========================  =====================  ==========================
kind           JSON Lines                  CSV                    Parquet
=============  ==========================  =====================  ==========================
null           null                        empty or ``null_text``  null
string         string                      as it is               string
integer        number                      digits                 int64
number         number, or ``"NaN"``,       shortest exact form    double
               ``"Infinity"``
decimal        string                      as it is               decimal128, or string
boolean        true, false                 ``true``, ``false``    bool
date, time     ISO 8601 string             ISO 8601               date32, time64[us]
timestamp(tz)  ISO 8601 string             ISO 8601               timestamp[us], tz in UTC
object, array  as they are                 JSON text              JSON text
binary         base64 string               base64                 binary
=============  ==========================  =====================  ==========================
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flowrunner_provider.core.errors import IntegrityError

__all__ = ["PREVIEW_ROWS", "Kinds", "json_text", "kind_of", "kinds_of", "preview_of", "text_of", "within_bounds"]

PREVIEW_ROWS = 5
_PREVIEW_TEXT = 200
_PREVIEW_BYTES = 4_096

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (str, "string"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (Decimal, "decimal"),
    (datetime, "timestamp"),
    (date, "date"),
    (time, "time"),
    ((bytes, bytearray, memoryview), "binary"),
    (Mapping, "object"),
    ((list, tuple), "array"),
    ((UUID, timedelta), "string"),
)
_WIDENED = ({"integer", "number"}, "number"), ({"integer", "decimal"}, "decimal")


_KNOWN: dict[type, str] = {}  # grows with the classes that were met


def _kind_of_type(cls: type) -> str:
    kind = _KNOWN.get(cls)
    if kind is None:
        kind = _KNOWN[cls] = next((kind for types, kind in _KINDS if issubclass(cls, types)), "")
    return kind


def kind_of(value: Any) -> str:
    """Return the kind of a value; empty if no format can represent it."""
    kind = _kind_of_type(type(value))
    return "timestamptz" if kind == "timestamp" and value.tzinfo is not None else kind


def kinds_of(values: Sequence[Any]) -> set[str]:
    """Return the kinds that occur, determined by class where that is sufficient."""
    found = {_kind_of_type(cls) for cls in set(map(type, values))}
    return set(map(kind_of, values)) if "timestamp" in found else found


class Kinds:
    """The kinds of values that each column holds, each with the first row that has it.

    :param seen: column -> kind -> row number from 1, as JSON.
    """

    def __init__(self, seen: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self.seen: dict[str, dict[str, int]] = {name: dict(kinds) for name, kinds in (seen or {}).items()}

    def add_rows(self, columns: Sequence[str], batch: Sequence[Sequence[Any]], before: int) -> None:
        """Look at ``batch``, which follows ``before`` rows."""
        for name, values in zip(columns, zip(*batch, strict=True), strict=True):
            self._add(name, values, before)

    def add_record(self, record: Mapping[str, Any], row: int) -> None:
        """Look at one record, whose keys need not be known."""
        for name, value in record.items():
            kinds = self.seen.setdefault(name, {})
            kind = kind_of(value)
            if kind not in kinds:
                kinds[kind] = row
                self._check(name, kind, value, row)

    def _add(self, name: str, values: Sequence[Any], before: int) -> None:
        kinds = self.seen.setdefault(name, {})
        for kind in sorted(kinds_of(values) - kinds.keys()):
            place = next(place for place, value in enumerate(values) if kind_of(value) == kind)
            kinds[kind] = before + place + 1
            self._check(name, kind, values[place], before + place + 1)

    def _check(self, name: str, kind: str, value: Any, row: int) -> None:
        if not kind:
            raise IntegrityError(
                f"row {row}, column {name!r} is a {type(value).__name__}, which no format can hold",
                remedy="make it text or a number first",
            )

    def simple(self, name: str) -> str:
        """The one kind of a column: ``null`` without values, ``mixed`` when there is no common one."""
        kinds = set(self.seen.get(name, ())) - {"null"}
        if len(kinds) <= 1:
            return kinds.pop() if kinds else "null"
        return next((wide for narrow, wide in _WIDENED if kinds == narrow), "mixed")

    def where(self, name: str) -> str:
        """The kinds of a column with their first rows, for a message."""
        found = sorted((row, kind) for kind, row in self.seen.get(name, {}).items() if kind != "null")
        return ", ".join(f"{kind} in row {row}" for row, kind in found)


def _plain(value: Any) -> Any:
    """What JSON does not know, as text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written")


def _finite(value: Any) -> Any:
    """The same value with text for the floats that JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return text_of(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


_ENCODE = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain, check_circular=False
).encode


def json_text(value: Any) -> str:
    """``value`` as compact JSON; always valid, also for what Python alone would write as ``NaN``.

    :raises TypeError: for a value that no format can hold, inside an object or array.
    """
    try:
        return _ENCODE(value)
    except ValueError:
        return _ENCODE(_finite(value))


def text_of(value: Any) -> str:
    """A value that is not None as text, by the rules of CSV."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(float(value))
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping | list | tuple):
        return json_text(value)
    if isinstance(value, int):
        return str(int(value))
    return str(_plain(value))


def preview_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a preview: JSON, each value cut at 200 characters."""
    return {name: _cut(value) for name, value in record.items()}


def _cut(value: Any) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = text_of(value)
    if len(text) > _PREVIEW_TEXT:
        return f"{text[: _PREVIEW_TEXT - 1]}…"
    nested = isinstance(value, Mapping | list | tuple)
    if nested or type(value) is int:
        return json.loads(text)
    return text.encode("utf-8", "replace").decode()


def within_bounds(preview: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many rows of a preview as fit into 4 KiB of JSON."""
    kept: list[dict[str, Any]] = []
    size = 0
    for row in preview:
        size += len(json.dumps(row))
        if size > _PREVIEW_BYTES:
            break
        kept.append(row)
    return kept
