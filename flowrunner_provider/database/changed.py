"""Which rows are new: ranges of a growing column, each known by its bounds, without any row."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.errors import ConfigError, Json
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.identifiers import Identifier
from flowrunner_provider.database.sync.source import Origin, Text
from flowrunner_provider.database.sync.watermark import from_json, shown, to_json

__all__ = ["Growth"]

_MOST = 20  # ranges of one look


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What to look at; the parameters of the asset watcher ``sql.changed``.

    :raises ConfigError: naming the parameter to mend.
    """

    origin: Origin
    watermark: str
    tie_break: str | None
    batch: int
    existing: bool
    hold_back: bool

    def __post_init__(self) -> None:
        Identifier(self.watermark)
        if self.tie_break is not None:
            Identifier(self.tie_break)
            if self.tie_break == self.watermark:
                raise ConfigError(
                    "tie_break is the watermark itself", field="tie_break", remedy="name a key, or leave it away"
                )
        if not isinstance(self.batch, int) or isinstance(self.batch, bool) or self.batch < 1:
            raise ConfigError("batch must be 1 or more", field="batch", remedy="give a number of rows")

    def look(self, session: Session, cursor: Json) -> tuple[list[dict[str, Json]], Json]:
        """The ranges behind the cursor, and the next cursor.

        :param cursor: ``{"at": place, "seen": place}``; a place is the values of the columns of the last row, or null
            for the beginning. With ``hold_back`` nothing behind ``seen`` is told, which the last look has seen last.
        """
        known = self.origin.described(session)
        for name in self._columns:
            if name not in known:
                field = "watermark" if name == self.watermark else "tie_break"
                raise ConfigError(
                    f"there is no column {name!r} to watch", field=field, remedy=f"there are {', '.join(known)}"
                )
        last = self._place(session, None, None, last=True)
        if cursor is None and not self.existing:
            return [], {"at": _kept(last), "seen": _kept(last)}
        record: dict[str, Any] = cursor if isinstance(cursor, dict) else {"at": None, "seen": None}
        at = _place(record["at"])
        limit = _place(record["seen"]) if self.hold_back else last
        events: list[dict[str, Json]] = []
        while limit is not None and len(events) < _MOST:
            end = self._place(session, at, limit, last=False) or self._place(session, at, limit, last=True)
            if end is None:
                break
            rows = self._count(session, at, end)
            events.append(self._event(at, end, rows))
            at = end
        return events, {"at": _kept(at), "seen": _kept(last)}

    @property
    def _columns(self) -> list[str]:
        return [self.watermark] if self.tie_break is None else [self.watermark, self.tie_break]

    def _place(self, session: Session, after: Any, until: Any, *, last: bool) -> list[Any] | None:
        """The last row, or the one that ends a batch, between two places; None if there is none."""
        text = Text(session, self.origin, binds=after is not None or until is not None)
        names = [f"q.{text.name(column)}" for column in self._columns]
        order = ", ".join(f"{name} DESC" if last else name for name in names)
        window = "LIMIT 1" if last else f"LIMIT 1 OFFSET {self.batch - 1}"
        where = self._between(text, names, after, until)
        found = text.first(f"SELECT {', '.join(names)} FROM {text.source} WHERE {where} ORDER BY {order} {window}")
        return None if found is None else list(found)

    def _count(self, session: Session, after: Any, until: Any) -> int:
        text = Text(session, self.origin, binds=True)
        names = [f"q.{text.name(column)}" for column in self._columns]
        found = text.first(f"SELECT count(*) FROM {text.source} WHERE {self._between(text, names, after, until)}")
        return int(found[0]) if found else 0

    @staticmethod
    def _between(text: Text, names: Sequence[str], after: Any, until: Any) -> str:
        """Behind one place and up to another, written so that an index on the watermark serves."""
        parts = [f"{name} IS NOT NULL" for name in names]
        for place, sign, equal in ((after, ">", ""), (until, "<", "=")):
            if place is None:
                continue
            name, *key = names
            if not key:
                parts.append(f"{name} {sign}{equal} {text.value(place[0])}")
                continue
            parts.append(f"{name} {sign}= {text.value(place[0])}")
            parts.append(f"({name} {sign} {text.value(place[0])} OR {key[0]} {sign}{equal} {text.value(place[1])})")
        return " AND ".join(parts)

    def _event(self, after: Any, until: Any, rows: int) -> dict[str, Json]:
        bounds: list[Json] = [_kept(after), _kept(until)]
        name = [self.origin.table, self.origin.sql, self.watermark, self.tie_break]
        digest = hashlib.sha256(json.dumps([name, bounds], sort_keys=True).encode()).hexdigest()[:32]

        def told(place: Any) -> Json:
            return None if place is None else dict(zip(self._columns, map(shown, place), strict=True))

        return {"id": digest, "table": self.origin.table, "rows": rows, "after": told(after), "until": told(until)}


def _kept(place: Any) -> Json:
    return None if place is None else [to_json(value) for value in place]


def _place(kept: Any) -> list[Any] | None:
    return None if kept is None else [from_json(value) for value in kept]
