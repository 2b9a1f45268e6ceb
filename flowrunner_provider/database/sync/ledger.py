"""The watermark of a sync: a ledger row that all its runs share, and lock one after the other."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import json
from typing import Any

from flowrunner_provider.core.errors import Json
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import LEDGER_TABLE
from flowrunner_provider.database.sync.watermark import from_json, to_json

__all__ = ["Watermark"]


class Watermark:
    """The watermark of a sync, committed together with the rows that it stands for.

    :param table: the destination, with its schema.
    :param identity: the identity of the sync.
    """

    def __init__(self, session: Session, table: TableName, identity: str) -> None:
        self._session, self._table = session, table
        self.key = f"sync:{identity}"
        self._ledger = table.beside(LEDGER_TABLE)

    def read(self) -> Any:
        """Return the watermark, or None; other runs of the sync wait here until the transaction ends."""
        session = self._session
        session.acquire_lock(self.key)
        found = self._lock_and_read()
        if not found:
            row = {"effect_key": self.key, "fingerprint": "", "target": str(self._table)}
            session.insert_once(self._ledger, row, "effect_key")
            found = self._lock_and_read()
        details = found[0][0]
        return None if details is None else from_json(json.loads(details)["watermark"])

    def write(self, watermark: Any) -> None:
        """Store the watermark where the next run continues."""
        kept: Json = {"watermark": to_json(watermark)}
        self._update(f"details = {self._placeholder(2)}, loaded_at = {self._session.now_sql}", json.dumps(kept))

    def _lock_and_read(self) -> list[tuple[Any, ...]]:
        self._update("target = target")
        sql = self._session
        return sql.run(
            f"SELECT details FROM {sql.sql(self._ledger)} WHERE effect_key = {self._placeholder(1)}", [self.key]
        )

    def _update(self, change: str, *values: str) -> None:
        sql = self._session
        sql.run(
            f"UPDATE {sql.sql(self._ledger)} SET {change} WHERE effect_key = {self._placeholder(1)}",
            [self.key, *values],
        )

    def _placeholder(self, number: int) -> str:
        return self._session.placeholder.format(number)
