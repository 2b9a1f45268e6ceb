"""Vonage's Messages API (v1): no token for repetitions, no list of messages, delivery reported to webhooks alone.

So of a message whose answer was lost nobody can tell, and ``on_unknown`` decides.
https://developer.vonage.com/en/api/messages
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar

from flowrunner_provider.core.errors import AccessDenied, ConfigError
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.sms.gateway import Capabilities, Gateway, Sent, Text
from flowrunner_provider.sms.numbers import check_sender

__all__ = ["VonageGateway"]

_LONGEST = 3200
_ABOUT_MESSAGE = frozenset({400, 404, 409, 422})
_NO_CREDIT = 402


class VonageGateway(Gateway):
    """One account of Vonage."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        far=FarSide(title="Vonage"), channels=frozenset({"sms", "whatsapp"})
    )

    def check(self, text: Text) -> None:
        super().check(text)
        check_sender(text.sender, "sender")
        if text.channel == "sms" and len(text.body) > _LONGEST:
            raise ConfigError(f"Vonage takes {_LONGEST:,} characters", field="body", remedy="shorten the text")

    async def send(self, text: Text, key: str, at: datetime) -> Sent:
        message: dict[str, Any] = {
            "message_type": "text",
            "channel": text.channel,
            "to": text.number.removeprefix("+"),
            "from": text.sender.removeprefix("+"),
            "text": text.body,
            "client_ref": key,
        }
        answer = await self.http.request(
            "POST",
            "/v1/messages",
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=json.dumps(message).encode(),
            expected={202, _NO_CREDIT, *_ABOUT_MESSAGE},
            retry=False,
        )
        value = self._json(answer)
        if answer.status == _NO_CREDIT:
            raise AccessDenied("the Vonage account has no credit left", remedy="top it up; a retry sends the rest")
        if answer.status != 202:
            kind = str(value.get("type") or "").rpartition("#")[2]
            raise self._refused(text, answer.status, kind, value.get("detail") or value.get("title"))
        return Sent(message_id=str(value["message_uuid"]))

    async def probe(self) -> str:
        """Nothing but sending can be asked of the host of the Messages API: that it is there must do."""
        answer = await self.http.request(
            "GET", "/v1/messages", expected={200, 202, 400, 404, 405, 406, 415, 422}, retry=False
        )
        return f"the Messages API is there (it answers {answer.status}); the first message tests the credentials"
