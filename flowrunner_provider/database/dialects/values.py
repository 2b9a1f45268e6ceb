"""Conversion of values that a driver does not take; columns are checked as a whole, which is fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

from flowrunner_provider.core.errors import Rejected

__all__ = ["as_json", "converted", "types_of", "unencodable"]

Row = tuple[Any, ...]


def types_of(rows: Sequence[Row]) -> list[set[type]]:
    """Return the types that occur in each column."""
    return [set(map(type, column)) for column in zip(*rows, strict=True)]


def converted(
    rows: Sequence[Row], native: Collection[type], converters: Mapping[type, Callable[[Any], Any]]
) -> Sequence[Row]:
    """Return ``rows`` with every value converted whose type is not ``native``.

    :param converters: by type, which includes subclasses; a value without one becomes its ``str``.
    """
    foreign = [place for place, types in enumerate(types_of(rows)) if not types <= set(native)]
    if not foreign:
        return rows
    columns = list(zip(*rows, strict=True))
    for place in foreign:
        columns[place] = tuple(
            value if type(value) in native else _convert(value, converters) for value in columns[place]
        )
    return list(zip(*columns, strict=True))


def _convert(value: Any, converters: Mapping[type, Callable[[Any], Any]]) -> Any:
    for kind in type(value).__mro__:
        if kind in converters:
            return converters[kind](value)
    return str(value)


def as_json(value: Any) -> str:
    """Return an object or list as JSON; types that JSON lacks become text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def unencodable() -> Rejected:
    """Return the error for a text that no database can store."""
    return Rejected(
        "a text of the source is not valid Unicode (half of a surrogate pair)",
        code="22021",
        remedy="correct the source, or use on_bad_row='reject' to set such rows aside",
    )
