"""Finds the messages that arrived in a folder since the last poll.

The cursor is the largest UID that was examined, with its UIDVALIDITY. It also keeps the identities of recently reported
messages and the time of the newest message, so that polling can continue after the server has renumbered the folder.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import Json
from flowrunner_provider.email.mailbox.description import Message, describe
from flowrunner_provider.email.mailbox.imap import ImapSession, Selected
from flowrunner_provider.email.mailbox.search import MailSearch
from flowrunner_provider.email.mailbox.session import Connect
from flowrunner_provider.email.mailbox.watch import MailWatch, news

__all__ = ["arrivals"]

MAX_EVENTS = 20
"""Per poll: what fits into a watcher's record."""

_REMEMBERED = 300
_WINDOW = 100
_SLACK = timedelta(hours=1)


async def arrivals(
    connect: Connect, deadline: Deadline, watch: MailWatch, cursor: Any, *, existing: bool, log: Any
) -> tuple[list[dict[str, Json]], Json]:
    """Return the events since ``cursor``, and the cursor of the next poll.

    :param cursor: of the last poll; None at first.
    :param existing: whether the first poll reports the messages that are already there.
    """
    session = await connect(deadline)
    try:
        selected = await session.select(watch.folder, readonly=True)
        if cursor is None and not existing:
            return [], await _now(session, selected)
        return await _Poll(session, selected, watch, dict(cursor or {}), log).events()
    finally:
        await session.close()


async def _now(session: ImapSession, selected: Selected) -> dict[str, Json]:
    """Return a cursor behind all messages that are there."""
    last = (await session.search(MailSearch().criteria()))[-1:]
    newest = [m.received for m in (await describe(session, last)).values() if m and m.received] if last else []
    return {
        "uidvalidity": selected.uidvalidity, "uid": max([selected.uidnext - 1, *last]), "told": "",
        "newest": newest[0].isoformat() if newest else None, "renumbered": 0, "floor": None,
    }  # fmt: skip


class _Poll:
    def __init__(
        self, session: ImapSession, selected: Selected, watch: MailWatch, cursor: dict[str, Any], log: Any
    ) -> None:
        self._session, self._selected, self._watch = session, selected, watch
        self._uid: int = cursor.get("uid", 0)
        self._told: str = cursor.get("told", "")
        self._newest: str | None = cursor.get("newest")
        self._renumbered: int = cursor.get("renumbered", 0)
        self._floor: str | None = cursor.get("floor")
        if cursor and cursor["uidvalidity"] != selected.uidvalidity:
            log.warning(
                "Folder %r was renumbered (UIDVALIDITY %s, before %s); reported messages are recognised by Message-ID.",
                watch.folder, selected.uidvalidity, cursor["uidvalidity"],
            )  # fmt: skip
            self._uid, self._renumbered, self._floor = 0, selected.uidnext - 1, self._newest

    async def events(self) -> tuple[list[dict[str, Json]], Json]:
        events: list[dict[str, Json]] = []
        criteria = MailSearch.of(self._watch.search).criteria(above=self._uid)
        # Messages that arrive between SELECT and SEARCH are left to the next poll.
        end = self._selected.uidnext
        uids = [uid for uid in await self._session.search(criteria) if self._uid < uid and (uid < end or not end)]
        for start in range(0, len(uids), _WINDOW):
            described = await describe(self._session, uids[start : start + _WINDOW])
            for uid in sorted(described):
                message = described[uid]
                if message is not None and self._watch.wanted(message) and self._is_new(message):
                    events.append(self._event(message))
                self._uid = uid
                if len(events) == MAX_EVENTS:
                    return events, self._cursor()
        self._uid = max([self._uid, end - 1, *uids])
        return events, self._cursor()

    def _is_new(self, message: Message) -> bool:
        """Return whether a message is new, which after a renumbering its UID alone does not show."""
        if message.uid > self._renumbered:
            return True
        told = {self._told[start : start + 8] for start in range(0, len(self._told), 8)}
        if message.identity in told:
            return False
        floor = datetime.fromisoformat(self._floor) - _SLACK if self._floor else None
        return floor is None or message.received is None or message.received >= floor

    def _event(self, message: Message) -> dict[str, Json]:
        self._told = (self._told + message.identity)[-8 * _REMEMBERED :]
        if message.received and (self._newest is None or message.received > datetime.fromisoformat(self._newest)):
            self._newest = message.received.isoformat()
        validity = self._selected.uidvalidity
        return {
            "id": f"{validity}-{message.uid}",
            "folder": self._watch.folder,
            "uidvalidity": validity,
            "message": news(message),
        }

    def _cursor(self) -> Json:
        return {
            "uidvalidity": self._selected.uidvalidity, "uid": self._uid, "told": self._told, "newest": self._newest,
            "renumbered": self._renumbered, "floor": self._floor,
        }  # fmt: skip
