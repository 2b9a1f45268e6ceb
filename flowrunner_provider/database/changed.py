"""Find new rows: ranges of a growing column, identified by their bounds, without any row."""

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
from flowrunner_provider.database.sync.source import Origin, QueryBuilder
from flowrunner_provider.database.sync.watermark import display_text, from_json, to_json

__all__ = ["Growth"]

_MAX_RANGES = 20  # per poll


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What to watch; the parameters of the asset watcher ``sql.changed``.

    :raises ConfigError: naming the parameter to correct.
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
                    "tie_break is the watermark itself", field="tie_break", remedy="pass a key, or remove it"
                )
        if not isinstance(self.batch, int) or isinstance(self.batch, bool) or self.batch < 1:
            raise ConfigError("batch must be 1 or more", field="batch", remedy="pass a number of rows")

    def poll(self, session: Session, cursor: Json) -> tuple[list[dict[str, Json]], Json]:
        """Return the ranges after the cursor, and the next cursor.

        :param cursor: ``{"at": bound, "seen": bound}``. A bound is the values of the watched columns in the last row,
            or null for the beginning. With ``hold_back``, rows after ``seen``, where the last poll ended, are not
            reported yet.
        """
        known = self.origin.column_types(session)
        for name in self._columns:
            if name not in known:
                field = "watermark" if name == self.watermark else "tie_break"
                raise ConfigError(
                    f"there is no column {name!r} to watch", field=field, remedy=f"the columns are {', '.join(known)}"
                )
        query = _WatermarkQuery(session, self.origin, {name: known[name] for name in self._columns}, self.batch)
        last = query.find_bound(None, None, last=True)
        if cursor is None and not self.existing:
            return [], {"at": _to_json(last), "seen": _to_json(last)}
        record: dict[str, Any] = cursor if isinstance(cursor, dict) else {"at": None, "seen": None}
        at = _from_json(record["at"])
        limit = _from_json(record["seen"]) if self.hold_back else last
        events: list[dict[str, Json]] = []
        while limit is not None and len(events) < _MAX_RANGES:
            end = query.find_bound(at, limit, last=False) or query.find_bound(at, limit, last=True)
            if end is None:
                break
            events.append(self._event(at, end, query.count(at, end)))
            at = end
        return events, {"at": _to_json(at), "seen": _to_json(last)}

    @property
    def _columns(self) -> list[str]:
        return [self.watermark] if self.tie_break is None else [self.watermark, self.tie_break]

    def _event(self, after: Any, until: Any, rows: int) -> dict[str, Json]:
        bounds: list[Json] = [_to_json(after), _to_json(until)]
        name = [self.origin.table, self.origin.sql, self.watermark, self.tie_break]
        digest = hashlib.sha256(json.dumps([name, bounds], sort_keys=True).encode()).hexdigest()[:32]

        def shown_bound(bound: Any) -> Json:
            return None if bound is None else dict(zip(self._columns, map(display_text, bound), strict=True))

        return {
            "id": digest,
            "table": self.origin.table,
            "rows": rows,
            "after": shown_bound(after),
            "until": shown_bound(until),
        }


class _WatermarkQuery:
    """The watched rows, in watermark order."""

    def __init__(self, session: Session, origin: Origin, kinds: Mapping[str, str], batch: int) -> None:
        self._session, self._origin, self._kinds, self._batch = session, origin, kinds, batch

    def find_bound(self, after: Any, until: Any, *, last: bool) -> list[Any] | None:
        """Return the last row's bound, or that of the row that ends a batch, between two bounds."""
        builder = QueryBuilder(self._session, self._origin, binds=after is not None or until is not None)
        expressions = [self._session.exact(kind, f"q.{builder.name(column)}") for column, kind in self._kinds.items()]
        where = self._between(builder, after, until)
        order = ", ".join(f"{name} DESC" if last else name for name in expressions)
        selected = ", ".join(f"{name} AS bound_{number}" for number, name in enumerate(expressions))
        query = f"SELECT {selected} FROM {builder.source} WHERE {where}"
        found = builder.first(self._session.nth_row(query, order, 0 if last else self._batch - 1))
        return None if found is None else list(found)

    def count(self, after: Any, until: Any) -> int:
        builder = QueryBuilder(self._session, self._origin, binds=True)
        where = self._between(builder, after, until)
        found = builder.first(f"SELECT {self._session.count_sql} AS counted FROM {builder.source} WHERE {where}")
        return int(found[0]) if found else 0

    def _between(self, builder: QueryBuilder, after: Any, until: Any) -> str:
        """Return the condition for rows between two bounds, in a form that can use an index."""
        columns = [(kind, f"q.{builder.name(column)}") for column, kind in self._kinds.items()]
        parts = [f"{name} IS NOT NULL" for _, name in columns]

        def condition(column_index: int, sign: str, bound: Any) -> str:
            return self._session.bounded(*columns[column_index], sign, lambda: builder.value(bound[column_index]))

        for bound, sign, equal in ((after, ">", ""), (until, "<", "=")):
            if bound is None:
                continue
            if len(columns) == 1:
                parts.append(condition(0, sign + equal, bound))
                continue
            parts.append(condition(0, f"{sign}=", bound))
            parts.append(f"({condition(0, sign, bound)} OR {condition(1, sign + equal, bound)})")
        return " AND ".join(parts)


def _to_json(bound: Any) -> Json:
    return None if bound is None else [to_json(value) for value in bound]


def _from_json(stored: Any) -> list[Any] | None:
    return None if stored is None else [from_json(value) for value in stored]
