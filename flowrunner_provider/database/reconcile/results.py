"""The choices and the result of a comparison. Imported at parse time, so this module stays light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.data.dataset import Dataset

__all__ = ["ColumnSum", "Compare", "OnMismatch", "ReconcileResult"]

Compare = Literal["count", "sums", "rows"]
"""What is compared: row counts, sums of columns, or every row."""

OnMismatch = Literal["fail", "report"]
"""Whether a difference fails the task or is only reported."""


@dataclass(frozen=True, kw_only=True)
class ColumnSum:
    """The sum of a column on both sides, as text; null if all its values are null."""

    column: str
    left: str | None
    right: str | None
    matches: bool


@dataclass(frozen=True, kw_only=True)
class ReconcileResult:
    """The result of a comparison.

    :param only_left: with ``rows``, the number of keys that the right side lacks; ``only_right`` likewise.
    :param different: with ``rows``, the number of rows whose values differ.
    :param sums: with ``sums``, the sums of each column.
    :param diff: with ``rows``, the file of differing keys; null without differences or ``diff_path``.
    """

    matches: bool
    left_rows: int
    right_rows: int
    only_left: int
    only_right: int
    different: int
    sums: list[ColumnSum]
    diff: Dataset | None
