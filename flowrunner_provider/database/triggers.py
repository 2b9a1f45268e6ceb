"""The asset watcher of databases. Triggers only observe, and carry no secret."""

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

POLL_TIMEOUT_SECONDS = 300.0
"""The deadline of one poll."""


@dataclass(frozen=True, kw_only=True)
class RowsChanged:
    """A range of new rows, without the rows themselves.

    :param id: identifies the range; the same if the range is reported again.
    :param table: the watched table; null for a query.
    :param rows: the number of rows in the range.
    :param after: column -> value, as text, of the last row before the range; null at the beginning.
    :param until: column -> value of the last row of the range.
    """

    id: str
    table: str | None
    rows: int
    after: dict[str, str] | None
    until: dict[str, str]


class SqlRowTrigger(FlowRunnerWatcher):
    """Emit an event for the asset for each range of rows whose ``watermark`` has grown.

    A killed or restarted triggerer resumes at its cursor: no range is lost, and the last range may be reported again
    with the same ``id``. Each poll opens a connection and runs one read-only transaction; after a failure, it logs and
    polls again. An event holds the row count, the bounds and the id, never a row: select the rows after ``after`` up to
    ``until``. A backlog is reported in ranges of ``batch`` rows, at most 20 per poll. Rows without a watermark and
    deletes are not reported. Create an index on the column.

    :param conn_id: a connection of type ``postgres``, ``mysql``, ``mssql`` or ``sqlite``.
    :param table: the table or view, ``table`` or ``schema.table``, taken literally.
    :param sql: one query to watch instead of ``table``; it runs as a subquery (SQL Server: without ``WITH`` and
        ``ORDER BY``).
    :param watermark: a column that grows with every change, e.g. ``updated_at`` or a serial number. SQL Server finds
        the latest number through an index, but the latest timestamp by a scan.
    :param tie_break: a unique column that orders rows with the same watermark. Without it, such rows stay together, and
        a range may have more than ``batch`` rows.
    :param batch: the number of rows per event.
    :param start: ``new`` reports only rows that appear from now on, ``existing`` also those that exist already.
    :param hold_back: report a row one poll after it was first visible. A row that is committed late, with a smaller
        watermark than a visible one, is then also reported if the delay is at most ``poll_interval``.
    :param poll_interval: the time between two polls, at least one second, e.g. ``"5m"``.
    :param name: distinguishes two watchers of the same table.
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

    async def poll(self, cursor: Json) -> Seen:
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
        events, after = await asyncio.to_thread(_poll, growth, hook, cursor)
        return Seen(events=tuple(events), cursor=after)

    async def _hook(self) -> SqlHook[Any]:
        """Return the hook; read the connection without blocking the event loop."""
        from flowrunner_provider.database.hook import ahook_for

        return await ahook_for(self.conn_id)


def _poll(growth: Growth, hook: SqlHook[Any], cursor: Json) -> tuple[list[dict[str, Json]], Json]:
    """Poll once, in a thread."""
    with hook.open(Deadline(POLL_TIMEOUT_SECONDS)) as session:
        session.begin("repeatable read", read_only=True)
        found = growth.poll(session, cursor)
        session.rollback()
    return found
