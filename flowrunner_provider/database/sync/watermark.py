"""Watermarks: values of one growing column, kept as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json
from flowrunner_provider.core.spec import parse_duration

__all__ = ["check_not_ahead", "display_text", "earlier", "from_json", "to_json"]

_AHEAD = timedelta(days=1)


def to_json(value: Any) -> Json:
    """Return a value of a watermark or key column as JSON.

    :raises ConfigError: for a type that cannot be ordered.
    """
    if isinstance(value, datetime):
        return {"timestamp": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, UUID):
        return {"uuid": str(value)}
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise ConfigError(
        f"a {type(value).__name__} cannot be a watermark or key",
        field="watermark",
        remedy="name a column of numbers, timestamps, dates or texts",
    )


def from_json(kept: Json) -> Any:
    """Return the value of :func:`to_json`."""
    if not isinstance(kept, dict):
        return kept
    ((kind, text),) = kept.items()
    read: dict[str, Callable[[str], Any]] = {
        "timestamp": datetime.fromisoformat, "date": date.fromisoformat, "decimal": Decimal, "uuid": UUID,
    }  # fmt: skip
    return read[kind](str(text))


def display_text(value: Any) -> str | None:
    """Return the value for display."""
    return None if value is None else value.isoformat() if isinstance(value, date) else str(value)


def earlier(value: Any, lookback: Any) -> Any:
    """Return ``value`` minus ``lookback``: a duration for timestamps, a number for numbers.

    :raises ConfigError: if the lookback does not fit the column.
    """
    if not lookback:
        return value
    if isinstance(value, int | float | Decimal):
        if isinstance(lookback, int | float) and not isinstance(lookback, bool) and lookback > 0:
            return value - Decimal(str(lookback)) if isinstance(value, Decimal) else value - lookback
        raise _unfit("a number")
    span = parse_duration(lookback, "lookback")
    if isinstance(value, date):
        return value - span
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _unfit("none: the watermark is a text that is not a timestamp") from None
    if len(value) < len("2026-01-01 00:00"):
        return (moment - span).date().isoformat()
    return (moment - span).isoformat(value[10])


def _unfit(what: str) -> ConfigError:
    return ConfigError("lookback does not fit the watermark column", field="lookback", remedy=f"give {what}")


def check_not_ahead(value: Any, now: datetime, column: str) -> None:
    """Raise unless later rows can have a larger watermark: every row below it would be left out.

    :raises IntegrityError: if it is more than a day in the future, infinite, or not a number.
    """
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise IntegrityError(
            f"the largest {column} of the source is {value}: no row can come after it",
            remedy="correct that row, or exclude such rows with sql",
        )
    if not isinstance(value, date):
        return
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    if (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) > now + _AHEAD:
        raise IntegrityError(
            f"the largest {column} of the source is more than a day in the future, so that new rows would be missed",
            remedy="correct that row, or exclude such rows with sql",
        )
