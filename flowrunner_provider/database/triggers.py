"""What the triggerer looks at in databases. Triggers only observe, and carry no secret."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import Json
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.runtime.watcher import FlowRunnerWatcher, Seen

if TYPE_CHECKING:
    from flowrunner_provider.database.changed import Growth
    from flowrunner_provider.database.hooks.base import SqlHook

__all__ = ["RowsChanged", "SqlRowTrigger"]

LOOK_SECONDS = 300.0
"""For one look."""


@dataclass(frozen=True, kw_only=True)
class RowsChanged:
    """A range of new rows, without any of them.

    :param id: the same whenever the same range is told again.
    :param table: the table that is watched; null for a query.
    :param rows: how many they were.
    :param after: column -> value, as text, of the last row before the range; null at the beginning.
    :param until: column -> value of the last row of the range.
    """

    id: str
    table: str | None
    rows: int
    after: dict[str, str] | None
    until: dict[str, str]


class SqlRowTrigger(FlowRunnerWatcher):
    """The asset has an event for each range of rows whose ``watermark`` has grown.

    A triggerer that is killed or started again goes on where it was: no range is left out, and one that was just being
    told may be told again, with the same ``id``. Each look is a connection of its own and one read-only
    transaction; failures are logged and waited out. The event holds counts, bounds and the id, and never a row: select
    what is behind ``after`` up to ``until``. A backlog comes in ranges of ``batch`` rows, at most 20 in one look.
    Rows without a watermark are not seen, nor are deletes. Put an index on the column.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param table: the table or view, ``table`` or ``schema.table``, taken literally.
    :param sql: in place of it: one query, which can stand in parentheses (SQL Server: no ``WITH``, no ``ORDER BY``).
    :param watermark: a column that grows with every change, e.g. ``updated_at`` or a serial number. SQL Server finds
        the latest number by an index, and the latest time by looking at all of them.
    :param tie_break: a unique column that orders rows with the same watermark; without one such rows stay together,
        and a range may have more than ``batch`` rows.
    :param batch: rows of one event.
    :param start: whether only rows are told that come from now on, or also those that are there.
    :param hold_back: tell a row one look after it was first there: a row that is committed late, with a smaller
        watermark than one that was seen already, is told as well if that took no longer than ``poll_interval``.
    :param poll_interval: the time between two looks, at least a second.
    :param name: tells apart two watchers of the same table.
    """

    action: ClassVar[str] = "sql.changed"
    returns: ClassVar[Any] = RowsChanged

    def __init__(
        self,
        *,
        conn_id: str,
        table: str | None = None,
        sql: str | None = None,
        watermark: str,
        tie_break: str | None = None,
        batch: int = 1000,
        start: Literal["new", "existing"] = "new",
        hold_back: bool = True,
        poll_interval: str | float | timedelta = "60s",
        name: str = "",
    ) -> None:
        seconds = parse_duration(poll_interval, "poll_interval").total_seconds()
        super().__init__(name=name, poll_interval=max(1.0, seconds))
        self.conn_id, self.table, self.sql = conn_id, table, sql
        self.watermark, self.tie_break, self.batch = watermark, tie_break, batch
        self.start, self.hold_back = start, hold_back

    def arguments(self) -> dict[str, Any]:
        return {
            "conn_id": self.conn_id, "table": self.table, "sql": self.sql, "watermark": self.watermark,
            "tie_break": self.tie_break, "batch": self.batch, "start": self.start, "hold_back": self.hold_back,
        }  # fmt: skip

    async def look(self, cursor: Json) -> Seen:
        from flowrunner_provider.database.changed import Growth
        from flowrunner_provider.database.sync.source import Origin

        growth = Growth(
            origin=Origin(sql=self.sql, table=self.table),
            watermark=self.watermark,
            tie_break=self.tie_break,
            batch=self.batch,
            existing=self.start == "existing",
            hold_back=self.hold_back,
        )
        hook = await self._hook()
        events, after = await asyncio.to_thread(_looked, growth, hook, cursor)
        return Seen(events=tuple(events), cursor=after)

    async def _hook(self) -> SqlHook[Any]:
        """The connection, read without blocking the event loop."""
        from flowrunner_provider.database.hook import ahook_for

        return await ahook_for(self.conn_id)


def _looked(growth: Growth, hook: SqlHook[Any], cursor: Json) -> tuple[list[dict[str, Json]], Json]:
    """One look, in a thread."""
    with hook.open(Deadline(LOOK_SECONDS)) as session:
        session.begin("repeatable read", read_only=True)
        found = growth.look(session, cursor)
        session.rollback()
    return found
