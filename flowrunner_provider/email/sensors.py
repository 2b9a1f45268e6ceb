"""Waiting for mail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow.sdk.configuration import conf

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.email.mailbox.results import MailWaitResult
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["MailMessageSensor"]


class MailMessageSensor(FlowRunnerSensor):
    """At least ``min_messages`` messages that match are in the folder, and the result names them.

    Killed or retried, it simply looks again: looking changes nothing, and marks no message as read. Each look is a
    connection of its own that opens the folder read-only, so a waiting task holds none. A folder that is not there,
    or a login that is refused, is an error and not waited for.

    :param folder: e.g. ``INBOX``.
    :param search: which messages, e.g. ``{"from": "billing@", "subject": "Invoice", "unseen": True}``.
    :param min_messages: so many must be there.
    :param attachment_pattern: a glob; only messages with an attachment of such a name, without regard to case, count.
    :param poke_interval: the time between two looks, at least a second.
    :param timeout: how long to wait in all.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
    :param imap_conn_id: the connection, of type ``imap``.
    """

    action: ClassVar[str] = "email.wait"
    returns: ClassVar[Any] = MailWaitResult
    template_fields: Sequence[str] = ("folder", "search", "attachment_pattern", "imap_conn_id")

    def __init__(
        self,
        *,
        folder: str = "INBOX",
        search: dict[str, Any] | None = None,
        min_messages: int = 1,
        attachment_pattern: str | None = None,
        poke_interval: str | float | timedelta = "60s",
        timeout: str | float | timedelta = "12h",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        imap_conn_id: str = "imap_default",
        **kwargs: Any,
    ) -> None:
        interval = parse_duration(poke_interval, "poke_interval").total_seconds()
        if interval < 1:
            raise ConfigError("poke_interval is below a second", field="poke_interval", remedy="write '30s', say")
        seconds = parse_duration(timeout, "timeout").total_seconds()
        super().__init__(poke_interval=interval, timeout=seconds, deferrable=deferrable, **kwargs)
        self.folder, self.search, self.min_messages = folder, search, min_messages
        self.attachment_pattern, self.imap_conn_id = attachment_pattern, imap_conn_id

    def trigger(self) -> FlowRunnerTrigger:
        from flowrunner_provider.email.mailbox.search import MailSearch
        from flowrunner_provider.email.mailbox.watch import MailWatch
        from flowrunner_provider.email.triggers import MailTrigger

        watch = MailWatch(
            folder=self.folder,
            search=MailSearch.of(self.search).to_json(),
            min_messages=self.min_messages,
            attachment_pattern=self.attachment_pattern,
        )
        watch.check()
        return MailTrigger(
            imap_conn_id=self.imap_conn_id,
            watch=watch.to_json(),
            poll_interval=self.poke_interval,
            patience=self.patience,
        )
