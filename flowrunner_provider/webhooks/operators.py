"""Operator for outbound webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.operators.arguments import one_of, strings
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.webhooks.choices import Scheme
from flowrunner_provider.webhooks.results import Delivery

__all__ = ["WebhookSendOperator"]


class WebhookSendOperator(FlowRunnerOperator):
    """On success, the receiver accepted the message with an expected status.

    A killed or retried task sends the message with the same id. A message whose answer was lost is sent again if the
    receiver deduplicates ids (``idempotent_receiver``); otherwise the task stops with OutcomeUnknown (see
    ``on_unknown``). Every try is signed with the connection's current secret (``{"flowrunner": {"webhook": {"secret":
    "whsec_..."}}}`` in its extra). The response body is not read. Redirects are followed only within the origin, and
    410 Gone is final.

    :param endpoint: appended to the connection's host.
    :param payload: a JSON value; a template that renders to a string sends a JSON string.
    :param http_conn_id: id of an ``http`` connection.
    :param event_type: e.g. ``invoice.paid``. If set, the payload becomes ``data`` in an envelope with ``type`` and
        ``timestamp``, as Standard Webhooks recommends; otherwise the payload is the body.
    :param event_id: the id by which the receiver deduplicates; by default derived from DAG, run and task, so that it is
        the same in every attempt.
    :param sign: overrides the connection's signature scheme, which is Standard Webhooks if it has a secret.
    :param expected_status: statuses that count as success; by default every 2xx.
    :param headers: request headers; they override the connection's headers, but not those of the signature.
    :param idempotent_receiver: True if the receiver deduplicates by id, as Standard Webhooks requires.
    :param on_unknown: what to do when the outcome stays unknown: ``stop``, ``resend`` (may duplicate the message) or
        ``skip`` (treat it as done).
    """

    action: ClassVar[str] = "webhook.send"
    template_fields: Sequence[str] = ("http_conn_id", "endpoint", "payload", "event_type", "event_id", "headers")

    def __init__(
        self,
        *,
        endpoint: str,
        payload: Any,
        http_conn_id: str = "http_default",
        event_type: str | None = None,
        event_id: str | None = None,
        sign: Scheme | None = None,
        expected_status: list[int] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent_receiver: bool = False,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.payload = http_conn_id, endpoint, payload
        self.event_type, self.event_id, self.sign = event_type, event_id, sign
        self.expected_status, self.headers = expected_status, headers
        self.idempotent_receiver, self.on_unknown = idempotent_receiver, on_unknown

    async def perform(self, run: Run) -> Delivery:
        from flowrunner_provider.webhooks.hook import FlowRunnerWebhookHook
        from flowrunner_provider.webhooks.send import SUCCESS, Message, encode_payload, send_once

        one_of("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        if self.sign is not None:
            one_of("sign", self.sign, Scheme)
        if self.event_id is not None and not self.event_id:
            raise ConfigError("the event id is empty", field="event_id", remedy="omit it, or correct its template")
        message = Message(
            endpoint=self.endpoint,
            payload=encode_payload(self.payload),
            event_type=self.event_type or "",
            event_id=self.event_id or "",
            headers=strings(self.headers, "headers"),
            expected=frozenset(self.expected_status) if self.expected_status else SUCCESS,
            idempotent_receiver=self.idempotent_receiver,
            on_unknown=self.on_unknown,
        )
        hook = FlowRunnerWebhookHook(self.http_conn_id)
        signer = hook.signer(self.sign)
        async with hook.transport(run) as http:
            return await send_once(http, message, signer, run)
