"""The sensor that waits until text messages are delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from flowrunner_provider.sms.results import DeliveryReport

if TYPE_CHECKING:
    from flowrunner_provider.sms.triggers import SmsDeliveryTrigger

__all__ = ["SmsDeliverySensor"]


class SmsDeliverySensor(FlowRunnerSensor):
    """On success, every message is confirmed as delivered, and the result has the status of each.

    A killed or retried sensor polls again; polling changes nothing. Each poll sends one small request per message
    without a final status. If all statuses are final and some messages were not delivered, the task fails and names
    them with the vendor's codes. Only Twilio can be polled. Vonage, Amazon SNS and Azure report deliveries to webhooks
    and logs only, so their connections are refused.

    :param message_ids: one id, or a list of up to 500, as returned by ``sms.send``.
    :param sms_conn_id: the connection that sent the messages.
    :param success_states: statuses that count as delivered; by default ``delivered`` and ``read``. Add ``sent`` for
        carriers that confirm nothing.
    :param fail_states: statuses that count as failed; by default all other final statuses of the vendor.
    :param poke_interval: time between two polls, at least one second.
    :param timeout: maximum total waiting time.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
    """

    action: ClassVar[str] = "sms.wait_delivery"
    returns: ClassVar[Any] = DeliveryReport
    template_fields: Sequence[str] = ("message_ids", "sms_conn_id")

    def __init__(
        self,
        *,
        message_ids: list[str] | str,
        sms_conn_id: str = "sms_default",
        success_states: list[str] | None = None,
        fail_states: list[str] | None = None,
        poke_interval: str | float | timedelta = "30s",
        timeout: str | float | timedelta = "1h",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        interval = parse_duration(poke_interval, "poke_interval").total_seconds()
        if interval < 1:
            raise ConfigError("poke_interval is below a second", field="poke_interval", remedy="write '30s', say")
        seconds = parse_duration(timeout, "timeout").total_seconds()
        super().__init__(poke_interval=interval, timeout=seconds, deferrable=deferrable, **kwargs)
        self.message_ids, self.sms_conn_id = message_ids, sms_conn_id
        self.success_states, self.fail_states = success_states, fail_states
        self._settled: dict[str, str] = {}

    def trigger(self) -> SmsDeliveryTrigger:
        from flowrunner_provider.sms.delivery import Watch
        from flowrunner_provider.sms.triggers import SmsDeliveryTrigger

        ids = [self.message_ids] if isinstance(self.message_ids, str) else list(self.message_ids)
        watch = Watch(
            message_ids=tuple(ids), success=tuple(self.success_states or ()), fail=tuple(self.fail_states or ())
        )
        watch.check()
        trigger = SmsDeliveryTrigger(
            sms_conn_id=self.sms_conn_id,
            watch=watch.to_json(),
            poll_interval=self.poke_interval,
            patience=self.patience,
        )
        trigger.settled = self._settled
        return trigger
