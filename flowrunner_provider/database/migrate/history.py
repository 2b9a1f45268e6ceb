"""The migration history: one row per started script, in the database that the scripts change.

Rows are only added, and each becomes ``done`` once. The latest row of a version, or of a repeatable script, counts.
A row is inserted before its script runs. Where DDL is transactional, both commit together and no unfinished row is
ever visible; elsewhere an unfinished row means that the script was interrupted.
"""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Column
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.migrate.scripts import Version, version_of

__all__ = ["History", "Row"]

_TEXTS = ("kind", "version", "script", "checksum", "state", "applied_by")
_COLUMNS = ("position", *_TEXTS, "applied_at", "duration_ms")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the history.

    :param kind: versioned, repeatable, undo or baseline.
    :param done: False if the script was started and may be incomplete.
    """

    position: int
    kind: str
    version: Version | None
    script: str
    checksum: str
    done: bool
    applied_by: str
    applied_at: str
    duration_ms: int | None

    @property
    def key(self) -> Version | str:
        """The version or repeatable script, of which the latest row counts."""
        return self.version or self.script


class History:
    """The history table, in one session.

    :param table: its name, with the schema.
    """

    def __init__(self, session: Session, table: TableName) -> None:
        self._session, self.table = session, table

    def exists(self) -> bool:
        """Return whether the table exists.

        :raises ConfigError: if it has other columns.
        """
        found = self._session.table(self.table)
        if found is not None and not set(_COLUMNS) <= set(found.columns):
            raise ConfigError(
                f"{self.table} is not a migration history", field="history_table", remedy="name another table"
            )
        return found is not None

    def ensure(self) -> None:
        """Create the table unless it exists; safe while others do the same."""
        columns = [
            Column("position", "integer"),
            *(Column(name, "string") for name in _TEXTS),
            Column("applied_at", "timestamp"),
            Column("duration_ms", "integer"),
        ]
        self._session.create_shared(self.table, columns, ["position"])

    def rows(self) -> list[Row]:
        """Return all rows in order."""
        sql = self._session
        found = sql.run(f"SELECT {sql.names(_COLUMNS)} FROM {sql.sql(self.table)} ORDER BY {sql.sql('position')}")
        return [_row(dict(zip(_COLUMNS, values, strict=True))) for values in found]

    def begin(self, *, kind: str, version: str | None, script: str, checksum: str, applied_by: str) -> int:
        """Record that a script starts; return the position of the row."""
        sql = self._session
        last = sql.run(f"SELECT coalesce(max({sql.sql('position')}), 0) FROM {sql.sql(self.table)}")[0][0]
        values: dict[str, Any] = {
            "position": int(last) + 1, "kind": kind, "version": version, "script": script, "checksum": checksum,
            "state": "running", "applied_by": applied_by,
        }  # fmt: skip
        marks = ", ".join(sql.placeholder.format(number) for number in range(1, len(values) + 1))
        sql.run(
            f"INSERT INTO {sql.sql(self.table)} ({sql.names([*values, 'applied_at'])}) VALUES ({marks}, {sql.now_sql})",
            list(values.values()),
        )
        return int(values["position"])

    def finish(self, position: int, *, checksum: str, duration_ms: int) -> None:
        """Record that a script is done."""
        sql = self._session
        sets = [f"{sql.sql(name)} = {sql.placeholder.format(n)}" for n, name in enumerate(_FINISHED, 2)]
        sql.run(
            f"UPDATE {sql.sql(self.table)} SET {', '.join(sets)}, {sql.sql('applied_at')} = {sql.now_sql}"
            f" WHERE {sql.sql('position')} = {sql.placeholder.format(1)}",
            [position, "done", checksum, duration_ms],
        )


_FINISHED = ("state", "checksum", "duration_ms")


def _row(found: dict[str, Any]) -> Row:
    when = found["applied_at"]
    return Row(
        position=int(found["position"]),
        kind=found["kind"],
        version=None if found["version"] is None else version_of(found["version"], "history_table"),
        script=found["script"],
        checksum=found["checksum"],
        done=found["state"] == "done",
        applied_by=found["applied_by"],
        applied_at=when.isoformat() if isinstance(when, datetime) else str(when),
        duration_ms=None if found["duration_ms"] is None else int(found["duration_ms"]),
    )
