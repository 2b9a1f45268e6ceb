"""The choices that parameters offer. Operators import them at parse time, so nothing is imported here."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BadRow", "IfExists", "Isolation", "Keep", "Mode", "OnConflict", "OnDrift", "OnError", "Operation", "Routine",
    "Upkeep",
]  # fmt: skip

Mode = Literal["append", "truncate", "replace", "upsert"]
"""What a load does with the rows that are there."""

Keep = Literal["error", "last"]
"""What an upsert does with rows of the source that share their keys."""

OnConflict = Literal["update", "ignore"]
"""What an upsert does with a row whose keys are in the table."""

BadRow = Literal["fail", "reject"]
"""What a load does with a row that does not fit."""

Operation = Literal["update", "delete"]
"""Of a guarded change."""

OnError = Literal["rollback", "rollback_to"]
"""What a transaction does after a statement that failed."""

Isolation = Literal["read committed", "repeatable read", "serializable"]
"""At least so much; a database that only knows more gives more."""

Upkeep = Literal["truncate", "drop", "analyze", "vacuum", "reindex", "refresh_mview", "swap_partition"]
"""What is done to tables that are to be kept in order."""

IfExists = Literal["skip", "replace", "fail"]
"""What the creation of a table does about one that is there."""

OnDrift = Literal["fail", "warn"]
"""What a look at structures does about differences."""

Routine = Literal["procedure", "function"]
"""What is called."""
