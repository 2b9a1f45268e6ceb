"""The values that enumerated parameters accept. Operators import them at parse time, so this module imports nothing."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BadRow", "IfExists", "Isolation", "Keep", "Mode", "OnConflict", "OnDrift", "OnError", "Operation", "Routine",
    "Upkeep",
]  # fmt: skip

Mode = Literal["append", "truncate", "replace", "upsert"]
"""What a load does with existing rows."""

Keep = Literal["error", "last"]
"""What an upsert does with source rows that have the same keys."""

OnConflict = Literal["update", "ignore"]
"""What an upsert does with a row whose keys exist in the table."""

BadRow = Literal["fail", "reject"]
"""What a load does with a row that does not fit the table."""

Operation = Literal["update", "delete"]
"""A guarded change of rows."""

OnError = Literal["rollback", "rollback_to"]
"""What a transaction does after a failed statement."""

Isolation = Literal["read committed", "repeatable read", "serializable"]
"""The minimum isolation level; a database without this level uses a higher one."""

Upkeep = Literal["truncate", "drop", "analyze", "vacuum", "reindex", "refresh_mview", "swap_partition"]
"""A maintenance operation."""

IfExists = Literal["skip", "replace", "fail"]
"""What creating a table does with an existing one."""

OnDrift = Literal["fail", "warn"]
"""What a schema check does with differences."""

Routine = Literal["procedure", "function"]
"""The kind of routine."""
