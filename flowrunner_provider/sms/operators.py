"""The operator that sends text messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.sms.choices import Channel, OnUnknown
from flowrunner_provider.sms.results import SmsResult

__all__ = ["SmsSendOperator"]


class SmsSendOperator(FlowRunnerOperator):
    """On success, the vendor has accepted one message for every recipient, and the result has the vendor's ids.

    A killed or retried task sends only messages that are not confirmed. If the vendor's answer was lost, Twilio's list
    of messages is searched, and Azure recognises a repeated token for four minutes. For Vonage, Amazon SNS and
    everything that stays unknown, ``on_unknown`` decides. A refused row does not stop the others; the task then fails
    with PartialFailure and the vendor's reason for each row. ``recipients`` = sent + duplicates + unknown.

    The type of the connection selects the vendor: ``twilio``, ``vonage``, ``azure_acs`` or ``aws`` (Amazon SNS); any
    other type needs ``{"flowrunner": {"vendor": "twilio"}}`` in its extra. Limit: 1,000 recipients, with three small
    state-store calls for each. Accepted does not mean delivered: see ``sms.wait_delivery``.

    :param to: a number in E.164 (``+14155550123``), a list of numbers or of mappings, or a dataset.
    :param body: the text; with mappings and datasets, ``{item.name}`` inserts a column of the row.
    :param sms_conn_id: the connection to the vendor.
    :param sender: number, short code, name, or Twilio messaging service (``MG...``); by default the connection's.
    :param channel: ``sms``, or ``whatsapp`` (Twilio and Vonage).
    :param to_column: the column with the number.
    :param max_segments: maximum segments per text; each one is billed. A text of one segment has up to 160 characters
        of the GSM alphabet or 70 others; in longer texts a segment has 153 or 67.
    :param dedupe: skip a row with the same number and text as an earlier row.
    :param rate_limit: maximum rate of messages, e.g. ``1/second``; by default the connection's limit.
    :param concurrency: number of messages in flight; at most this many are in doubt when a worker is killed.
    :param on_unknown: what to do with messages in doubt: ``stop`` and name them; ``resend`` them, which may deliver
        them twice; or ``skip`` them and count them as unknown.
    """

    action: ClassVar[str] = "sms.send"
    template_fields: Sequence[str] = ("to", "body", "sms_conn_id", "sender")

    def __init__(
        self,
        *,
        to: Dataset | Mapping[str, Any] | list[Any] | str,
        body: str,
        sms_conn_id: str = "sms_default",
        sender: str | None = None,
        channel: Channel = "sms",
        to_column: str = "phone",
        max_segments: int = 3,
        dedupe: bool = True,
        rate_limit: str | None = None,
        concurrency: int = 4,
        on_unknown: OnUnknown = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to, self.body, self.sms_conn_id, self.sender = to, body, sms_conn_id, sender
        self.channel, self.to_column, self.max_segments = channel, to_column, max_segments
        self.dedupe, self.rate_limit, self.concurrency = dedupe, rate_limit, concurrency
        self.on_unknown: Literal["stop", "resend", "skip"] = on_unknown

    async def perform(self, run: Run) -> SmsResult:
        """Validate all arguments, then send every message that no earlier attempt has sent."""
        from flowrunner_provider.http.operators.arguments import one_of
        from flowrunner_provider.sms.hook import sms_hook
        from flowrunner_provider.sms.recipients import Draft, addressed
        from flowrunner_provider.sms.send import Rules, send_all

        one_of("on_unknown", self.on_unknown, OnUnknown)
        one_of("channel", self.channel, Channel)
        for field in ("max_segments", "concurrency"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{field} must be a whole number from 1", field=field, remedy=f"correct {field}")
        hook = sms_hook(self.sms_conn_id)
        draft = Draft(
            body=self.body,
            sender=self.sender or hook.config.sender,
            channel=self.channel,
            column=self.to_column,
            max_segments=self.max_segments,
            dedupe=self.dedupe,
        )
        letters = addressed(self.to, draft)
        rules = Rules(on_unknown=self.on_unknown, settle=hook.config.settle, concurrency=self.concurrency)
        async with hook.open(run, rate_limit=self.rate_limit) as gateway:
            for text in letters.texts.values():
                gateway.check(text)
            return await send_all(gateway, letters, rules, run)
