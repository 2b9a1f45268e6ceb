"""What every dialect refuses in the same words."""

from __future__ import annotations

from collections.abc import Sequence

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.database.identifiers import TableName

__all__ = ["distinct", "duplicate_keys", "unsuitable"]


def distinct(names: Sequence[str]) -> list[str]:
    """The names of a query's columns.

    :raises ConfigError: if there are none, or two are the same.
    """
    if not names:
        raise ConfigError("sql is no query: it returns no columns", field="sql", remedy="write a SELECT")
    if twice := sorted({name for name in names if names.count(name) > 1 or not name}):
        raise ConfigError(
            f"sql has more than one column {twice[0]!r}", field="sql", remedy="give each a name of its own with AS"
        )
    return list(names)


def duplicate_keys(keys: Sequence[str], count: int | None = None) -> IntegrityError:
    """Rows of the source that share their keys; the keys' values are not told."""
    many = "rows" if count is None else f"{count} row(s)"
    return IntegrityError(
        f"the source has {many} with the same {', '.join(keys)} as an earlier one",
        remedy="make the source unique; sql.load can also do with keep='last'",
    )


def unsuitable(table: TableName, what: Sequence[str]) -> ConfigError:
    """A table whose replacement would lose something."""
    return ConfigError(
        f"mode='replace' would lose what belongs to {table}: {', '.join(what)}",
        field="mode",
        remedy="use mode='truncate': it swaps the rows in one transaction as well, and keeps the table",
    )
