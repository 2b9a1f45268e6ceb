"""Triggers for mailboxes. They only observe, and serialise connection ids, never secrets."""

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

POLL_SECONDS = 300.0
"""Deadline of one poll."""


class MailTrigger(FlowRunnerTrigger):
    """Polls a folder until it holds the messages that :class:`MailMessageSensor` waits for.

    :param imap_conn_id: a connection of type ``imap``.
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
        found = await watch.poll(connect, Deadline(POLL_SECONDS))
        return None if found is None else asdict(found)


class MailMessageTrigger(FlowRunnerWatcher):
    """The asset gets one event for each matching message that arrives in the folder.

    A killed or restarted triggerer continues at its cursor: no message is missed, and one that was being reported may
    be reported again with the same ``id``. Each poll opens its own connection and selects the folder read-only, so no
    message is marked as read; failures are logged and retried. If the server renumbers the folder, messages that were
    already reported, or are older than the newest one seen, are not reported again. A message is only evaluated on
    arrival: later flag changes do not produce events. One poll yields at most 20 events; the rest follow with the next
    polls. An event has ``uid``, ``uidvalidity``, ``message_id``, ``from`` and ``subject``; pass the first two to
    ``email.read``.

    :param imap_conn_id: a connection of type ``imap``.
    :param folder: the folder to watch, e.g. ``INBOX``.
    :param search: which messages, e.g. ``{"from": "billing@", "has_attachment": True}``.
    :param attachment_pattern: only messages with an attachment whose name matches this glob, case-insensitive.
    :param start: ``new`` reports only messages that arrive from now on, ``existing`` also those already in the folder.
    :param poll_interval: time between two polls, at least one second.
    :param name: distinguishes several watchers of the same folder.
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

    async def poll(self, cursor: Json) -> Seen:
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.arrivals import arrivals
        from flowrunner_provider.email.mailbox.search import MailSearch
        from flowrunner_provider.email.mailbox.watch import MailWatch

        search = MailSearch.of(self.search).to_json()
        watch = MailWatch(folder=self.folder, search=search, attachment_pattern=self.attachment_pattern)
        watch.check()
        connect = await FlowRunnerImapHook(self.imap_conn_id).aconnector()
        events, cursor = await arrivals(
            connect, Deadline(POLL_SECONDS), watch, cursor, existing=self.start == "existing", log=self.log
        )
        return Seen(events=tuple(events), cursor=cursor)
