"""Which rows are new: ranges of a growing column, each known by its bounds, without any row."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
        rows = _Rows(session, self.origin, {name: known[name] for name in self._columns}, self.batch)
        last = rows.place(None, None, last=True)
        if cursor is None and not self.existing:
            return [], {"at": _kept(last), "seen": _kept(last)}
        record: dict[str, Any] = cursor if isinstance(cursor, dict) else {"at": None, "seen": None}
        at = _place(record["at"])
        limit = _place(record["seen"]) if self.hold_back else last
        events: list[dict[str, Json]] = []
        while limit is not None and len(events) < _MOST:
            end = rows.place(at, limit, last=False) or rows.place(at, limit, last=True)
            if end is None:
                break
            events.append(self._event(at, end, rows.count(at, end)))
            at = end
        return events, {"at": _kept(at), "seen": _kept(last)}

    @property
    def _columns(self) -> list[str]:
        return [self.watermark] if self.tie_break is None else [self.watermark, self.tie_break]

    def _event(self, after: Any, until: Any, rows: int) -> dict[str, Json]:
        bounds: list[Json] = [_kept(after), _kept(until)]
        name = [self.origin.table, self.origin.sql, self.watermark, self.tie_break]
        digest = hashlib.sha256(json.dumps([name, bounds], sort_keys=True).encode()).hexdigest()[:32]

        def told(place: Any) -> Json:
            return None if place is None else dict(zip(self._columns, map(shown, place), strict=True))

        return {"id": digest, "table": self.origin.table, "rows": rows, "after": told(after), "until": told(until)}


class _Rows:
    """The rows to look at, in the order of the watermark."""

    def __init__(self, session: Session, origin: Origin, kinds: Mapping[str, str], batch: int) -> None:
        self._session, self._origin, self._kinds, self._batch = session, origin, kinds, batch

    def place(self, after: Any, until: Any, *, last: bool) -> list[Any] | None:
        """The last row, or the one that ends a batch, between two places; None if there is none."""
        text = Text(self._session, self._origin, binds=after is not None or until is not None)
        places = [self._session.exact(kind, f"q.{text.name(column)}") for column, kind in self._kinds.items()]
        where = self._between(text, after, until)
        order = ", ".join(f"{place} DESC" if last else place for place in places)
        chosen = ", ".join(f"{place} AS place_{number}" for number, place in enumerate(places))
        query = f"SELECT {chosen} FROM {text.source} WHERE {where}"
        found = text.first(self._session.nth(query, order, 0 if last else self._batch - 1))
        return None if found is None else list(found)

    def count(self, after: Any, until: Any) -> int:
        text = Text(self._session, self._origin, binds=True)
        where = self._between(text, after, until)
        found = text.first(f"SELECT {self._session.counts} AS counted FROM {text.source} WHERE {where}")
        return int(found[0]) if found else 0

    def _between(self, text: Text, after: Any, until: Any) -> str:
        """Behind one place and up to another, written so that an index on the watermark serves."""
        columns = [(kind, f"q.{text.name(column)}") for column, kind in self._kinds.items()]
        parts = [f"{name} IS NOT NULL" for _, name in columns]

        def bounded(number: int, sign: str, place: Any) -> str:
            return self._session.bounded(*columns[number], sign, lambda: text.value(place[number]))

        for place, sign, equal in ((after, ">", ""), (until, "<", "=")):
            if place is None:
                continue
            if len(columns) == 1:
                parts.append(bounded(0, sign + equal, place))
                continue
            parts.append(bounded(0, f"{sign}=", place))
            parts.append(f"({bounded(0, sign, place)} OR {bounded(1, sign + equal, place)})")
        return " AND ".join(parts)


def _kept(place: Any) -> Json:
    return None if place is None else [to_json(value) for value in place]


def _place(kept: Any) -> list[Any] | None:
    return None if kept is None else [from_json(value) for value in kept]
