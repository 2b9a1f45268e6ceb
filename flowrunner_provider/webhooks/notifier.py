"""Notifier for task and DAG run callbacks and for deadline alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.operators.arguments import one_of, strings
from flowrunner_provider.runtime.callbacks import event_of, facts_of, id_of
from flowrunner_provider.runtime.masking import masking_async
from flowrunner_provider.runtime.notifier import FlowRunnerNotifier
from flowrunner_provider.webhooks.choices import Scheme

__all__ = ["WebhookNotifier"]

_ATTEMPTS = 3
_MAX_WAIT = 5.0


class WebhookNotifier(FlowRunnerNotifier):
    """On success, the receiver accepted the notification with a 2xx status.

    If killed, or called again for the same attempt, it sends the notification again with the same id, so a receiver
    that deduplicates ids notifies people once. A lost answer is retried, too. It makes at most three tries within
    ``timeout``; a failure raises a typed error, which Airflow logs beside the task's own outcome. Use it for
    ``on_failure_callback``, ``on_success_callback``, ``on_retry_callback`` and deadline alerts.

    :param endpoint: appended to the connection's host.
    :param http_conn_id: id of an ``http`` connection; its ``webhook`` option configures the signature.
    :param payload: JSON value for ``data``; by default DAG, run, task, state, exception class, try number, log link and
        logical date.
    :param event_type: by default e.g. ``airflow.task.failed``; it is part of the id.
    :param sign: overrides the connection's signature scheme.
    :param headers: request headers; they override the connection's headers.
    """

    action: ClassVar[str] = "webhook.notify"
    template_fields: Sequence[str] = ("http_conn_id", "endpoint", "payload", "event_type", "headers")

    def __init__(
        self,
        *,
        endpoint: str,
        http_conn_id: str = "http_default",
        payload: Any = None,
        event_type: str | None = None,
        sign: Scheme | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.payload = http_conn_id, endpoint, payload
        self.event_type, self.sign, self.headers = event_type, sign, headers

    async def send(self, context: Any) -> None:
        """Notify the receiver about the task or run of ``context``."""
        from flowrunner_provider.webhooks.hook import FlowRunnerWebhookHook
        from flowrunner_provider.webhooks.send import Message, check_message, deliver, encode_payload

        event, facts = event_of(context), facts_of(context)
        kind = self.event_type or event
        message = Message(
            endpoint=self.endpoint,
            payload=encode_payload(facts if self.payload is None else self.payload),
            event_type=kind,
            event_id=id_of(context, kind),
            headers=strings(self.headers, "headers"),
            idempotent_receiver=True,
        )
        run = Run.alone(timeout=self.seconds, retry=RetryPlan(attempts=_ATTEMPTS, in_place=_MAX_WAIT))
        if self.sign is not None:
            one_of("sign", self.sign, Scheme)
        hook = FlowRunnerWebhookHook(self.http_conn_id)
        async with masking_async():
            transport = await hook.atransport(run)
            signer = hook.signer(self.sign)
        check_message(message, signer, transport.settings.base_url)
        async with transport as http:
            await deliver(http, message, signer, run, at=run.clock.now().isoformat())
