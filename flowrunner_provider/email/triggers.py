"""What the triggerer looks at for mailboxes. Triggers only observe, and carry no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import Json
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.email.mailbox.results import MailEvent
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger
from flowrunner_provider.runtime.watcher import FlowRunnerWatcher, Seen

__all__ = ["MailMessageTrigger", "MailTrigger"]

LOOK_SECONDS = 300.0
"""For one look."""


class MailTrigger(FlowRunnerTrigger):
    """Looks at a folder until the messages that are waited for are there.

    :param imap_conn_id: the connection.
    :param watch: a :class:`MailWatch` in its JSON form.
    """

    def __init__(self, *, imap_conn_id: str, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.imap_conn_id, self.watch = imap_conn_id, dict(watch)

    def arguments(self) -> dict[str, Any]:
        return {"imap_conn_id": self.imap_conn_id, "watch": self.watch}

    async def observe(self) -> Json:
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.watch import MailWatch

        watch = MailWatch.from_json(self.watch)
        watch.check()
        connect = await FlowRunnerImapHook(self.imap_conn_id).aconnector()
        found = await watch.look(connect, Deadline(LOOK_SECONDS))
        return None if found is None else asdict(found)


class MailMessageTrigger(FlowRunnerWatcher):
    """The asset has an event for each message that came into the folder and matches.

    A triggerer that is killed or started again goes on where it was: no message is left out, and one that was just
    being told may be told again, with the same ``id``. Each look is a connection of its own that opens the folder
    read-only, so nothing is marked and no connection can go silent; failures are logged and waited out. When the
    server gives its messages new UIDs, those that were told, and those older than the newest one that was seen, are
    not told again. A message is told when it comes: what is only marked later is not found. At most 20 events in
    one look; the others come with the next ones. The event names the message: ``uid``, ``uidvalidity``,
    ``message_id``, ``from``, ``subject``; pass the first two on to ``email.read``.

    :param imap_conn_id: the connection, of type ``imap``.
    :param folder: e.g. ``INBOX``.
    :param search: which messages, e.g. ``{"from": "billing@", "has_attachment": True}``.
    :param attachment_pattern: a glob; only messages with an attachment of such a name, without regard to case.
    :param start: whether only messages are told that come from now on, or also those that are there.
    :param poll_interval: the time between two looks, at least a second.
    :param name: tells apart two watchers of the same folder.
    """

    action: ClassVar[str] = "email.received"
    returns: ClassVar[Any] = MailEvent

    def __init__(
        self,
        *,
        imap_conn_id: str = "imap_default",
        folder: str = "INBOX",
        search: dict[str, Any] | None = None,
        attachment_pattern: str | None = None,
        start: Literal["new", "existing"] = "new",
        poll_interval: str | float | timedelta = "60s",
        name: str = "",
    ) -> None:
        seconds = parse_duration(poll_interval, "poll_interval").total_seconds()
        super().__init__(name=name, poll_interval=max(1.0, seconds))
        self.imap_conn_id, self.folder, self.search = imap_conn_id, folder, dict(search or {})
        self.attachment_pattern, self.start = attachment_pattern, start

    def arguments(self) -> dict[str, Any]:
        return {
            "imap_conn_id": self.imap_conn_id, "folder": self.folder, "search": self.search,
            "attachment_pattern": self.attachment_pattern, "start": self.start,
        }  # fmt: skip

    async def look(self, cursor: Json) -> Seen:
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.arrivals import arrivals
        from flowrunner_provider.email.mailbox.search import MailSearch
        from flowrunner_provider.email.mailbox.watch import MailWatch

        search = MailSearch.of(self.search).to_json()
        watch = MailWatch(folder=self.folder, search=search, attachment_pattern=self.attachment_pattern)
        watch.check()
        connect = await FlowRunnerImapHook(self.imap_conn_id).aconnector()
        events, cursor = await arrivals(
            connect, Deadline(LOOK_SECONDS), watch, cursor, existing=self.start == "existing", log=self.log
        )
        return Seen(events=tuple(events), cursor=cursor)
