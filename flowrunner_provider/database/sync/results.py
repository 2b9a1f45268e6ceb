"""The choices and the result of a sync. Imported at parse time, so this module stays light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Drift", "ReplaceBy", "SyncMode", "SyncResult"]

SyncMode = Literal["full", "incremental", "merge"]
"""Which rows of the source are read, and what happens to existing rows."""

Drift = Literal["ignore", "add", "fail"]
"""What to do about source columns that the table lacks."""

ReplaceBy = Literal["auto", "swap", "delete"]
"""How a full sync replaces the old rows."""


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """The result of a sync; ``rows`` is the sum of inserted, updated and skipped.

    :param table: the destination, with its schema.
    :param rows: the rows read, including those within ``lookback``.
    :param deleted: rows that the source no longer has, deleted or marked as deleted.
    :param restored: rows that were marked as deleted and have returned to the source.
    :param columns_added: columns added to the destination.
    :param since: incremental: the smallest watermark that was read; null for all rows.
    :param until: incremental: the watermark where the next run continues; null while the source has no rows.
    """

    table: str
    mode: str
    rows: int
    inserted: int
    updated: int
    skipped: int
    deleted: int
    restored: int
    columns_added: list[str]
    since: str | None
    until: str | None
