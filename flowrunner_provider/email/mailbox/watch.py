"""Polls a mailbox, without changing it, for the messages of a sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.mailbox.description import Message, describe, matches
from flowrunner_provider.email.mailbox.imap import ImapSession
from flowrunner_provider.email.mailbox.results import MailWaitResult
from flowrunner_provider.email.mailbox.search import MailSearch
from flowrunner_provider.email.mailbox.session import Connect

__all__ = ["MailWatch", "check_folder", "news"]

MOST = 10_000
SHOWN = 50
_WINDOW = 100
_MAX_TEXT = 200


@dataclass(frozen=True, kw_only=True)
class MailWatch:
    """The messages to wait for; see the parameters of ``email.wait``.

    :param search: a :class:`MailSearch` in its JSON form.
    """

    folder: str = "INBOX"
    search: dict[str, Any] = field(default_factory=dict)
    min_messages: int = 1
    attachment_pattern: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MailWatch:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raise :class:`ConfigError`, naming the parameter, unless the watch is valid."""
        MailSearch.of(self.search)
        least = self.min_messages
        if isinstance(least, bool) or not isinstance(least, int) or not 1 <= least <= MOST:
            raise ConfigError(
                f"min_messages is {least!r}", field="min_messages", remedy=f"write a whole number from 1 to {MOST}"
            )
        if self.attachment_pattern == "":
            raise ConfigError("attachment_pattern is empty", field="attachment_pattern", remedy="write '*.pdf', say")
        check_folder(self.folder)

    @property
    def _server_decides(self) -> bool:
        """Whether no message needs a check beyond the server's search."""
        return self.attachment_pattern is None and not MailSearch.of(self.search).needs_structure

    def wanted(self, message: Message | None) -> bool:
        """Return whether a message that the server found is one to wait for."""
        if message is None:
            return False
        if not MailSearch.of(self.search).accepts(message.received, bool(message.attachments)):
            return False
        pattern = self.attachment_pattern
        return pattern is None or any(matches(part.name, pattern) for part in message.attachments)

    async def poll(self, connect: Connect, deadline: Deadline) -> MailWaitResult | None:
        """Return the messages, or None while there are too few; opens its own connection."""
        session = await connect(deadline)
        try:
            selected = await session.select(self.folder, readonly=True)
            uids = await session.search(MailSearch.of(self.search).criteria())
            if len(uids) < self.min_messages:
                return None
            count, shown = await self._found(session, uids)
        finally:
            await session.close()
        if count < self.min_messages:
            return None
        return MailWaitResult(count=count, uidvalidity=selected.uidvalidity, messages=shown)

    async def _found(self, session: ImapSession, uids: list[int]) -> tuple[int, list[dict[str, Any]]]:
        found: list[dict[str, Any]] = []
        count = 0
        for start in range(0, len(uids), _WINDOW):
            if self._server_decides and start >= SHOWN:
                return len(uids), found
            described = await describe(session, uids[start : start + _WINDOW])
            for uid in sorted(described):
                message = described[uid]
                if message is not None and self.wanted(message):
                    count += 1
                    if len(found) < SHOWN:
                        found.append(news(message))
        return count, found


def check_folder(folder: str, *, field: str = "folder") -> None:
    """Raise :class:`ConfigError` unless ``folder`` is a valid folder name."""
    if not isinstance(folder, str) or not folder or any(ord(char) < 32 or ord(char) == 127 for char in folder):
        raise ConfigError(f"{folder!r} is no folder", field=field, remedy="write 'INBOX', or 'INBOX/Invoices'")


def news(message: Message) -> dict[str, Any]:
    """Return the summary of a message for an event or a sensor's result."""
    row = message.row()
    sender = row["from"][0]["address"] if row["from"] else ""
    return {
        "uid": message.uid,
        "message_id": message.message_id[:_MAX_TEXT],
        "from": sender[:_MAX_TEXT],
        "subject": row["subject"][:_MAX_TEXT],
        "received": row["received"],
        "size": message.size,
        "attachments": [part.name[:_MAX_TEXT] for part in message.attachments[:20]],
    }
