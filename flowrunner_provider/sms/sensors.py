"""Waiting until text messages have arrived."""

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
    """The carriers have confirmed every message, and the result has the status of each.

    Killed or retried, it simply asks again: asking changes nothing. One small request per ``poke_interval`` for each
    message that is still on its way; when all are settled and some have not arrived, it fails and names them with
    the vendor's codes. Twilio can be asked; Vonage, Amazon SNS and Azure report to webhooks and logs only, and are
    refused here.

    :param message_ids: one, or a list of up to 500, as ``sms.send`` returned them.
    :param sms_conn_id: the connection that they were sent with.
    :param success_states: statuses that count as arrived; by default ``delivered`` and ``read``. Some carriers
        confirm nothing: there ``sent`` is the last that will be seen.
    :param fail_states: statuses that count as failed; by default the vendor's other final ones.
    :param poke_interval: the time between two looks, at least a second.
    :param timeout: how long to wait in all.
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
