"""Azure Communication Services, ``Sms - Send`` (2021-03-07): an idempotency key that is valid for some minutes.

Each recipient carries a repeatability id and the time at which it was first sent. The service remembers both for five
minutes and then answers 412, whether or not it has sent the message. Only Event Grid reports the delivery.
https://learn.microsoft.com/rest/api/communication/dataplane/sms/send
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import ConfigError, OutcomeUnknown, Throttled, Unavailable
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.sms.gateway import Capabilities, Gateway, Sent, Text
from flowrunner_provider.sms.numbers import check_sender
from flowrunner_provider.transport.http_settings import Outgoing

__all__ = ["AccessKey", "AzureGateway"]

_FORGOTTEN = 412


class AzureGateway(Gateway):
    """One resource of Azure Communication Services."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        far=FarSide(title="Azure Communication Services", remembers=240.0)
    )

    def check(self, text: Text) -> None:
        super().check(text)
        check_sender(text.sender, "sender")

    async def send(self, text: Text, key: str, at: datetime) -> Sent:
        recipient = {
            "to": text.number,
            "repeatabilityRequestId": str(uuid.UUID(key[:32])),
            "repeatabilityFirstSent": format_datetime(at, usegmt=True),
        }
        options = {"enableDeliveryReport": True}
        message = {"from": text.sender, "smsRecipients": [recipient], "message": text.body, "smsSendOptions": options}
        answer = await self.http.request(
            "POST",
            "/sms",
            params={"api-version": "2021-03-07"},
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=json.dumps(message).encode(),
            expected={202, 400},
            retry=False,
        )
        value = self._json(answer)
        if answer.status != 202:
            error = value.get("error") or value
            raise self._refused(text, answer.status, error.get("code"), error.get("message") or error.get("title"))
        item = value["value"][0]
        return self._judged(text, item, int(item["httpStatusCode"]))

    def _judged(self, text: Text, item: dict[str, Any], status: int) -> Sent:
        if item["successful"]:
            return Sent(message_id=str(item["messageId"]))
        if status == _FORGOTTEN or str(item.get("repeatabilityResult") or "").lower() == "rejected":
            raise OutcomeUnknown("Azure does not know any more whether it has taken the message", reconcilable=False)
        if status == 429:
            raise Throttled("Azure takes no more messages now", remedy="set `rate_limit` on the connection")
        if status >= 500:
            raise Unavailable(f"Azure could not take the message ({status})", remedy="nothing to do: it is repeated")
        raise self._refused(text, status, "", item.get("errorMessage"))

    async def probe(self) -> str:
        """Send a message without recipients: the service checks the credentials first."""
        nobody = {"from": "+10000000000", "smsRecipients": [], "message": "test"}
        answer = await self.http.request(
            "POST",
            "/sms",
            params={"api-version": "2021-03-07"},
            headers={"Content-Type": "application/json"},
            body=json.dumps(nobody).encode(),
            expected={400},
            retry=False,
        )
        return f"the resource knows the key (it answers {answer.status} to a message to nobody)"


class AccessKey:
    """Credentials that sign each request with the key of the resource.

    :param key: in base64, as the portal shows it.
    :raises ConfigError: if it is not base64.
    """

    configured: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("password",)
    fixed: ClassVar[Mapping[str, str]] = {}
    query: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[bool] = True

    def __init__(self, key: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._text, self._clock = key, clock
        try:
            self._key = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(
                "the access key is not base64", field="password", remedy="copy it whole from the portal, under Keys"
            ) from None

    def secrets(self) -> Iterable[str]:
        return (self._text,)

    async def headers(self) -> Mapping[str, str]:
        return {}

    async def renew(self, refused: object) -> bool:
        return False

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        """Method, path, date, host and the hash of the body, under HMAC-SHA256."""
        body = request.body if isinstance(request.body, bytes) else b""
        parts = urlsplit(request.url)
        date = format_datetime(self._clock.now(), usegmt=True)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        text = f"{request.method}\n{path}\n{date};{parts.netloc};{digest}"
        signature = base64.b64encode(hmac.digest(self._key, text.encode(), "sha256")).decode()
        return {
            "x-ms-date": date,
            "x-ms-content-sha256": digest,
            "Authorization": f"HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}",
        }
