"""The sensor that waits for mail."""

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
    """On success, at least ``min_messages`` matching messages are in the folder, and the result describes them.

    A killed or retried sensor polls again; polling changes nothing and never marks a message as read. Each poll opens
    its own connection and selects the folder read-only, so a waiting task holds no connection. A missing folder or a
    refused login fails at once.

    :param folder: the folder to watch, e.g. ``INBOX``.
    :param search: which messages, e.g. ``{"from": "billing@", "subject": "Invoice", "unseen": True}``.
    :param min_messages: number of messages to wait for.
    :param attachment_pattern: count only messages with an attachment whose name matches this glob, case-insensitive.
    :param poke_interval: time between two polls, at least one second.
    :param timeout: maximum total waiting time.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
    :param imap_conn_id: a connection of type ``imap``.
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
