"""What a comparison may be asked to do, and what it returns. Operators import this at parse time: nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.data.dataset import Dataset

__all__ = ["ColumnSum", "Compare", "OnMismatch", "ReconcileResult"]

Compare = Literal["count", "sums", "rows"]
"""How closely two sides are compared."""

OnMismatch = Literal["fail", "report"]
"""What a difference is: a failure, or a result."""


@dataclass(frozen=True, kw_only=True)
class ColumnSum:
    """The sum of a column on both sides, as text; null where it has no values."""

    column: str
    left: str | None
    right: str | None
    matches: bool


@dataclass(frozen=True, kw_only=True)
class ReconcileResult:
    """How the two sides compare.

    :param only_left: ``rows``: how many keys the right side does not have.
    :param different: ``rows``: how many rows differ in a value.
    :param sums: ``sums``: for each column.
    :param diff: ``rows``: the file of the keys that differ; null without differences or ``diff_path``.
    """

    matches: bool
    left_rows: int
    right_rows: int
    only_left: int
    only_right: int
    different: int
    sums: list[ColumnSum]
    diff: Dataset | None
