"""Errors that all dialects share."""

from __future__ import annotations

from collections.abc import Sequence

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.database.identifiers import TableName

__all__ = ["distinct", "duplicate_keys", "unsuitable"]


def distinct(names: Sequence[str]) -> list[str]:
    """Return the column names of a query.

    :raises ConfigError: if there are none, or two are the same.
    """
    if not names:
        raise ConfigError("sql is not a query: it returns no columns", field="sql", remedy="write a SELECT")
    if twice := sorted({name for name in names if names.count(name) > 1 or not name}):
        raise ConfigError(
            f"sql has more than one column {twice[0]!r}",
            field="sql",
            remedy="give each column a different name with AS",
        )
    return list(names)


def duplicate_keys(keys: Sequence[str], count: int | None = None) -> IntegrityError:
    """Return the error for source rows with the same keys, without the keys' values."""
    many = "rows" if count is None else f"{count} row(s)"
    return IntegrityError(
        f"the source has {many} with the same {', '.join(keys)} as an earlier one",
        remedy="make the source unique; sql.load also accepts keep='last'",
    )


def unsuitable(table: TableName, what: Sequence[str]) -> ConfigError:
    """Return the error for a table whose replacement would lose something."""
    return ConfigError(
        f"mode='replace' would lose what belongs to {table}: {', '.join(what)}",
        field="mode",
        remedy="use mode='truncate': it also replaces the rows in one transaction, and keeps the table",
    )
