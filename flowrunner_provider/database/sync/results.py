"""What a sync may be asked to do, and what it returns. Operators import this at parse time: nothing heavy here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Drift", "ReplaceBy", "SyncMode", "SyncResult"]

SyncMode = Literal["full", "incremental", "merge"]
"""What of the source is read, and what becomes of the rows that are there."""

Drift = Literal["ignore", "add", "fail"]
"""What to do about a column of the source that the table does not have."""

ReplaceBy = Literal["auto", "swap", "delete"]
"""How a full sync puts its rows in the place of the old ones."""


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What became of the rows that were read: ``rows`` is the sum of inserted, updated and skipped.

    :param table: the destination, with its schema.
    :param rows: how many were read, those within the look-back included.
    :param deleted: rows that the source does not have any more, deleted or marked so.
    :param restored: rows that were marked as deleted and are in the source again.
    :param columns_added: columns that the destination has now, too.
    :param since: incremental: the smallest value of the watermark column that was asked for; null for all.
    :param until: incremental: where the next run goes on; null when the source has no rows yet.
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
