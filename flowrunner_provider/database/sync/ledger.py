"""What all runs of a sync share: a row of the ledger, which they take turns to hold, with the watermark."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import json
from typing import Any

from flowrunner_provider.core.errors import Json
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import NAME
from flowrunner_provider.database.sync.watermark import from_json, to_json

__all__ = ["Mark"]


class Mark:
    """The watermark of a sync. It is committed with the rows, so it never says more, or less, than what is there.

    :param table: the destination, with its schema.
    :param identity: of the sync.
    """

    def __init__(self, session: Session, table: TableName, identity: str) -> None:
        self._session, self._table = session, table
        self.key = f"sync:{identity}"
        self._ledger = table.beside(NAME)

    def read(self) -> Any:
        """The watermark, or None; until the transaction ends no other run of the sync gets further than here."""
        session = self._session
        session.hold(self.key)
        found = self._locked()
        if not found:
            row = {"effect_key": self.key, "fingerprint": "", "target": str(self._table)}
            session.insert_once(self._ledger, row, "effect_key")
            found = self._locked()
        details = found[0][0]
        return None if details is None else from_json(json.loads(details)["watermark"])

    def write(self, watermark: Any) -> None:
        """The watermark, from which the next run goes on."""
        kept: Json = {"watermark": to_json(watermark)}
        self._update(f"details = {self._place(2)}, loaded_at = {self._session.moment}", json.dumps(kept))

    def _locked(self) -> list[tuple[Any, ...]]:
        self._update("target = target")
        sql = self._session
        return sql.run(f"SELECT details FROM {sql.sql(self._ledger)} WHERE effect_key = {self._place(1)}", [self.key])

    def _update(self, change: str, *values: str) -> None:
        sql = self._session
        sql.run(f"UPDATE {sql.sql(self._ledger)} SET {change} WHERE effect_key = {self._place(1)}", [self.key, *values])

    def _place(self, number: int) -> str:
        return self._session.placeholder.format(number)
