"""Delivery of one message to one receiver: serialised once, signed for each try, accepted once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urljoin

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Effect, Intent, OnUnknown
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    MissingCredential,
    OutcomeUnknown,
    PermanentError,
    Rejected,
    TargetForbidden,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.net_guard import same_origin
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_errors import unknown
from flowrunner_provider.transport.http_urls import is_absolute
from flowrunner_provider.webhooks.results import Delivery
from flowrunner_provider.webhooks.signing import Signer

__all__ = ["SUCCESS", "Message", "check_message", "deliver", "encode_payload", "send_once"]

SUCCESS = frozenset(range(200, 300))
"""Statuses with which a receiver accepts a message."""

_EFFECT = "webhook"
_GONE = 410
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_METHOD_PRESERVING = frozenset({307, 308})
_ID = re.compile(r"[!-~]{1,256}")
_CHECK_RECEIVER = (
    "check the receiver; set idempotent_receiver if it deduplicates ids, or clear the task with "
    "on_unknown='resend' or 'skip'"
)


@dataclass(frozen=True, kw_only=True)
class Message:
    """A checked and serialised message.

    :param payload: JSON, in UTF-8.
    :param event_type: if set, the payload becomes ``data`` in the envelope that Standard Webhooks recommends.
    :param event_id: empty for the key of the effect.
    :param idempotent_receiver: the receiver deduplicates ids, so the message may be sent again.
    """

    endpoint: str
    payload: bytes
    event_type: str = ""
    event_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: frozenset[int] = SUCCESS
    idempotent_receiver: bool = False
    on_unknown: OnUnknown = "stop"

    def body(self, at: str) -> bytes:
        """Return the bytes to sign and send; ``at`` is when the event was first announced, in ISO 8601."""
        if not self.event_type:
            return self.payload
        prefix = f'{{"type":{json.dumps(self.event_type)},"timestamp":{json.dumps(at)},"data":'
        return prefix.encode() + self.payload + b"}"


def encode_payload(payload: Any) -> bytes:
    """Return the payload as compact JSON.

    :raises ConfigError: if it is not JSON.
    """
    try:
        return json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the payload is not JSON ({type(error).__name__})",
            field="payload",
            remedy="use mappings, lists, strings and finite numbers only",
        ) from None


def check_message(message: Message, signer: Signer, base_url: str) -> None:
    """Raise unless the message can be delivered, before any effect.

    :param base_url: the connection's address.
    :raises ConfigError: naming the parameter to correct.
    """
    if message.event_id and not _ID.fullmatch(message.event_id):
        raise ConfigError(
            "the event id must be printable ASCII without spaces, at most 256 characters",
            field="event_id",
            remedy="omit it to derive it from dag, run and task",
        )
    signer.check_id(message.event_id)
    reserved = sorted(name for name in message.headers if name.lower() in signer.header_names)
    if reserved:
        raise ConfigError(
            f"the header {reserved[0]!r} is set by the webhook itself",
            field="headers",
            remedy="remove it, or rename it",
        )
    if signer.signs and is_absolute(message.endpoint) and not same_origin(message.endpoint, base_url):
        raise ConfigError(
            "the endpoint is on another server, but the connection's secret would sign the message",
            field="endpoint",
            remedy="create a connection for that receiver, or use sign='none'",
        )


async def send_once(http: HttpTransport, message: Message, signer: Signer, run: Run) -> Delivery:
    """Deliver ``message`` once over all attempts of the task.

    :raises OutcomeUnknown: if the receiver may have accepted it and does not deduplicate ids.
    :raises PermanentError: if the endpoint is gone (410).
    """
    check_message(message, signer, http.settings.base_url)
    tries = run.retry.attempts
    effect = Effect(
        name=_EFFECT,
        fingerprint=fingerprint(message.endpoint, message.event_type, message.event_id, message.payload),
        seconds=run.deadline.limit(tries * (http.settings.timeout + run.retry.in_place + run.patience)),
        repeatable=message.idempotent_receiver,
        on_unknown=message.on_unknown,
    )

    async def act(intent: Intent) -> Any:
        identified = replace(message, event_id=message.event_id or intent.key)
        try:
            return asdict(await deliver(http, identified, signer, run, at=intent.at))
        except OutcomeUnknown as error:
            error.effect_key, error.remedy = intent.key, _CHECK_RECEIVER
            error.reconcilable = message.idempotent_receiver or message.on_unknown != "stop"
            raise

    answer = await run.effects.perform(effect, act)
    if answer is None:  # on_unknown='skip'
        return Delivery(event_id=message.event_id or run.effects.key(_EFFECT), status=0, bytes=0, signed=signer.signs)
    return Delivery(**answer)


async def deliver(http: HttpTransport, message: Message, signer: Signer, run: Run, *, at: str) -> Delivery:
    """Post the message; retry in place if the receiver did not accept it, or deduplicates ids.

    :param message: including its id.
    :param at: when the event was first announced.
    """
    body = message.body(at)

    async def once() -> int:
        failpoint("webhook.send.before_send")
        try:
            status = await _post(http, message, body, signer, run)
        except MissingCredential as error:
            if not signer.signs:
                raise
            raise AccessDenied(error.message, remedy="check the signing secret of the connection") from error
        failpoint("webhook.send.after_send")
        return status

    status = await run.retry.acall(once, run.deadline)
    return Delivery(event_id=message.event_id, status=status, bytes=len(body), signed=signer.signs)


async def _post(http: HttpTransport, message: Message, body: bytes, signer: Signer, run: Run) -> int:
    """Make one try, following redirects within the origin; the response body is not read."""
    endpoint, limit = message.endpoint, run.deadline.sub(http.settings.timeout)
    for _ in range(http.settings.max_redirects + 1):
        limit.check("the delivery")
        proof = signer.headers(message.event_id, int(run.clock.now().timestamp()), body)
        async with http.stream(
            "POST",
            endpoint,
            headers={"Content-Type": "application/json", **_normalised(message.headers), **proof},
            body=body,
            repeatable=message.idempotent_receiver,
            timeout=limit.remaining(),
            expected=message.expected | _REDIRECTS | {_GONE},
        ) as answer:
            status, here, location = answer.status, answer.url, answer.headers.get("Location", "")
        if status in message.expected:
            return status
        what = f"POST {redact_url(here)} was answered {status}"
        if status == _GONE:
            raise PermanentError(
                f"{what}: the endpoint is gone", remedy="get the new endpoint from the receiver, or remove the task"
            )
        endpoint = _redirect_target(message, what, status, here, location)
    raise Rejected("too many redirects", status=status, remedy="correct the endpoint")


def _redirect_target(message: Message, what: str, status: int, here: str, location: str) -> str:
    """Return where to post again; only 307 and 308 preserve the method, and only within the origin."""
    target = urljoin(here, location)
    if status in _METHOD_PRESERVING and location:
        if same_origin(here, target):
            return target
        raise TargetForbidden(
            f"{what}: webhooks do not follow a redirect to another origin",
            remedy="if the receiver has moved, correct the connection's host; nothing was sent there",
        )
    if message.idempotent_receiver:
        raise Rejected(what, status=status, remedy="add the status to `expected_status`, or correct the endpoint")
    raise unknown(what)


def _normalised(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with one spelling of Content-Type, because it has a default."""
    return {"Content-Type" if name.lower() == "content-type" else name: value for name, value in headers.items()}
