"""The trigger of the SMS sensor. It only observes, and serialises the connection id, never secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flowrunner_provider.core.errors import Json
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.masking import mask_soon
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger
from flowrunner_provider.sms.delivery import Watch
from flowrunner_provider.sms.hook import asms_hook

__all__ = ["SmsDeliveryTrigger"]

_POLL_SECONDS = 120.0


class SmsDeliveryTrigger(FlowRunnerTrigger):
    """Polls the vendor until the status of every message is final.

    :param sms_conn_id: the connection to the vendor.
    :param watch: a :class:`Watch` in its JSON form.
    """

    def __init__(self, *, sms_conn_id: str, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sms_conn_id, self.watch = sms_conn_id, dict(watch)
        self.settled: dict[str, str] = {}
        """Statuses from earlier polls; a restarted triggerer polls all messages again."""

    def arguments(self) -> dict[str, Any]:
        return {"sms_conn_id": self.sms_conn_id, "watch": self.watch}

    async def observe(self) -> Json:
        watch = Watch.from_json(self.watch)
        watch.check()
        hook = await asms_hook(self.sms_conn_id)
        run = Run.alone(timeout=_POLL_SECONDS, retry=RetryPlan(attempts=1))
        async with hook.open(run, mask_later=mask_soon) as gateway:
            found = await watch.poll(gateway, self.settled)
        return None if found is None else asdict(found)
