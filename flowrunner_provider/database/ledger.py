"""The ledger: one row per load, in the target's own database and committed with the target's rows.

A load first inserts its row. The key is the same in every attempt of a task, and unique: an attempt that
runs beside another one waits here for the other's end, and then sees whether the work is done.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.errors import AccessDenied, PermanentError
from flowrunner_provider.database.dialects.base import Column, Row, Session
from flowrunner_provider.database.identifiers import TableName

__all__ = ["NAME", "Counts", "Ledger"]

NAME = "flowrunner_ledger"

_COUNTS = ("rows", "inserted", "updated", "skipped", "rejected")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the rows of the source: ``rows`` is the sum of the others."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    rejected: int = 0


class Ledger:
    """The ledger beside one target.

    :param target: with its schema.
    """

    def __init__(self, session: Session, target: TableName) -> None:
        self._session, self._target = session, target
        self.table = target.beside(NAME)

    def ensure(self) -> None:
        """The table is there; safe while others do the same.

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
                f"the table {self.table}, which makes loads happen once, is missing and cannot be created"
                f" ({error.message})",
                remedy="let the login create it once, or create it for it as the documentation says",
            ) from None

    def claim(self, key: str, fingerprint: str) -> Counts | None:
        """Begin the load ``key`` in the open transaction: None, or what a finished one did.

        Waits while another transaction has the key.

        :raises PermanentError: if an earlier attempt loaded something else under this key.
        """
        found = self._claim(key, fingerprint, _COUNTS, f"loaded other data into {self._target}")
        return None if found is None else Counts(**dict(zip(_COUNTS, map(int, found), strict=True)))

    def claim_work(self, key: str, fingerprint: str) -> dict[str, Any] | None:
        """The same for work whose result is a JSON object."""
        found = self._claim(key, fingerprint, ("details",), "done other work")
        return None if found is None else dict(json.loads(found[0]))

    def _claim(self, key: str, fingerprint: str, columns: Sequence[str], other: str) -> Row | None:
        row = {"effect_key": key, "fingerprint": fingerprint, "target": str(self._target)}
        if self._session.insert_once(self.table, row, "effect_key"):
            return None
        sql = self._session
        found = sql.run(
            f"SELECT {sql.names(['fingerprint', *columns])} FROM {sql.sql(self.table)}"
            f" WHERE {sql.sql('effect_key')} = {sql.placeholder.format(1)}",
            [key],
        )[0]
        if found[0] != fingerprint:
            raise PermanentError(
                f"an earlier attempt of this task has {other}; it stays",
                remedy="clear the task after a success, or start a new run, to do it again",
            )
        return found[1:]

    def record(self, key: str, counts: Counts) -> None:
        """Complete the row of the load ``key``; the time is the database's."""
        self._record(key, asdict(counts))

    def record_work(self, key: str, result: Mapping[str, Any]) -> None:
        """Complete the row of the work ``key``."""
        self._record(key, {"details": json.dumps(result)})

    def _record(self, key: str, values: Mapping[str, Any]) -> None:
        sql = self._session
        sets = ", ".join(f"{sql.sql(name)} = {sql.placeholder.format(n)}" for n, name in enumerate(values, 2))
        sql.run(
            f"UPDATE {sql.sql(self.table)} SET {sets}, {sql.sql('loaded_at')} = CURRENT_TIMESTAMP"
            f" WHERE {sql.sql('effect_key')} = {sql.placeholder.format(1)}",
            [key, *values.values()],
        )
