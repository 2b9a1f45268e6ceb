"""Equality of values of two databases that may use different types for them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["Sameness", "aligned"]


@dataclass(frozen=True, kw_only=True)
class Sameness:
    """The tolerance within which two values count as equal.

    :param numbers: the largest difference of two numbers.
    :param times: the largest difference of two timestamps.
    """

    numbers: Decimal = Decimal(0)
    times: timedelta = timedelta(0)

    def of(self, left: Any, right: Any) -> bool:
        """Return whether two values are equal within the tolerance."""
        if left is None or right is None:
            return left is right
        left, right = aligned(left, right)
        if left == right or (left != left and right != right):
            return True
        if self.numbers and isinstance(left, Decimal) and isinstance(right, Decimal):
            return left.is_finite() and right.is_finite() and abs(left - right) <= self.numbers
        if self.times and isinstance(left, datetime) and isinstance(right, datetime):
            return abs(left - right) <= self.times
        return False


def aligned(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both values in one type where that is unambiguous: numbers as decimals, timestamps in naive UTC."""
    left, right = _plain(left), _plain(right)
    if type(left) is type(right):
        return left, right
    if isinstance(left, str):
        return _read(left, right), right
    if isinstance(right, str):
        return left, _read(right, left)
    if isinstance(left, datetime) and type(right) is date:
        return left, datetime.combine(right, time())
    if isinstance(right, datetime) and type(left) is date:
        return datetime.combine(left, time()), right
    return left, right


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, int):
        return Decimal(int(value))
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return str(value) if isinstance(value, UUID) else value


def _read(text: str, like: Any) -> Any:
    """Return the text parsed as the type of ``like``, or unchanged if it cannot be."""
    with suppress(ValueError, ArithmeticError):
        if isinstance(like, Decimal):
            return Decimal(text)
        if isinstance(like, datetime | date | time):
            return _plain(type(like).fromisoformat(text))
        if isinstance(like, dict | list):
            return json.loads(text)
    return text
