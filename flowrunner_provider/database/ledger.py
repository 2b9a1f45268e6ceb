"""The ledger: one row per effect, in the target's own database and committed with the target's rows.

An attempt first inserts its row. The key is unique and the same in every attempt of a task, so an attempt that runs
beside another one waits here until the other ends, and then sees whether the work is done.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.errors import AccessDenied, PermanentError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column
from flowrunner_provider.database.identifiers import TableName

__all__ = ["LEDGER_TABLE", "Counts", "Ledger", "new_table_name", "old_table_name"]

LEDGER_TABLE = "flowrunner_ledger"

_COUNTS = ("rows", "inserted", "updated", "skipped", "rejected")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What happened to the rows of the source: ``rows`` is the sum of the other counts."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    rejected: int = 0


def new_table_name(key: str) -> str:
    """Return the name of a table that is to replace another one."""
    return f"flowrunner_{key[:16]}"


def old_table_name(target: TableName, key: str) -> TableName:
    """Return the name of a replaced table until it is dropped."""
    return target.beside(f"{new_table_name(key)}_old")


class Ledger:
    """The ledger in the schema of one target.

    :param target: with its schema.
    """

    def __init__(self, session: Session, target: TableName) -> None:
        self._session, self._target = session, target
        self.table = target.beside(LEDGER_TABLE)

    def ensure(self) -> None:
        """Create the ledger table if it is missing; safe while others do the same.

        :raises AccessDenied: if it is missing and this login may not create it.
        """
        columns = [
            Column("effect_key", "string"),
            Column("fingerprint", "string"),
            Column("target", "string"),
            *(Column(name, "integer") for name in _COUNTS),
            Column("details", "string"),
            Column("loaded_at", "timestamp"),
        ]
        try:
            self._session.create_shared(self.table, columns, ["effect_key"])
        except AccessDenied as error:
            raise AccessDenied(
                f"the table {self.table}, which records completed work, is missing and cannot be created"
                f" ({error.message})",
                remedy="grant the login CREATE once, or create the table as described in the documentation",
            ) from None

    def claim(self, key: str, fingerprint: str, other_work: str) -> dict[str, Any] | None:
        """Claim the work ``key`` in the open transaction; return its result if it is already done, else None.

        Waits while another transaction holds the key. A row without ``loaded_at`` was not completed. Where the database
        commits implicitly at DDL statements (MySQL), the table that a swap renamed tells whether the swap took place.

        :param other_work: what the error says an earlier attempt did, if it did something else under this key.
        :raises PermanentError: if it did.
        """
        sql = self._session
        row = {"effect_key": key, "fingerprint": fingerprint, "target": str(self._target)}
        if sql.insert_once(self.table, row, "effect_key"):
            return None
        columns = ["fingerprint", "loaded_at", "details", *_COUNTS]
        found = sql.run(
            f"SELECT {sql.names(columns)} FROM {sql.sql(self.table)}"
            f" WHERE {sql.sql('effect_key')} = {sql.placeholder.format(1)}",
            [key],
        )[0]
        if found[1] is None:
            if sql.table(old_table_name(self._target, key)) is None:
                self._update(key, row)
                return None
            self.complete(key)
        if found[0] != fingerprint:
            raise PermanentError(
                f"an earlier attempt of this task has {other_work}, which is kept",
                remedy="to run it again, clear the task after a success, or start a new run",
            )
        if found[2] is not None:
            return dict(json.loads(found[2]))
        return dict(zip(_COUNTS, map(int, found[3:]), strict=True))

    def record(self, key: str, result: Mapping[str, Any]) -> None:
        """Record the result of the work ``key``: counts in their own columns, anything else as JSON."""
        counted = result.keys() == set(_COUNTS)
        self._update(key, result if counted else {"details": json.dumps(result)})

    def complete(self, key: str) -> None:
        """Mark the work as done, with the time of the database."""
        self._update(key, {}, f"{self._session.sql('loaded_at')} = {self._session.now_sql}")

    def _update(self, key: str, values: Mapping[str, Any], *more: str) -> None:
        sql = self._session
        sets = [f"{sql.sql(name)} = {sql.placeholder.format(n)}" for n, name in enumerate(values, 2)]
        sql.run(
            f"UPDATE {sql.sql(self.table)} SET {', '.join([*sets, *more])}"
            f" WHERE {sql.sql('effect_key')} = {sql.placeholder.format(1)}",
            [key, *values.values()],
        )
