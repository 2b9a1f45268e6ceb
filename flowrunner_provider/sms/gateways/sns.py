"""Amazon SNS, ``Publish`` to a phone number (API 2010-03-31): no token, no list, delivery told to CloudWatch alone.

So of a message whose answer was lost nobody can tell, and ``on_unknown`` decides.
https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import ClassVar
from urllib.parse import urlencode

from flowrunner_provider.core.errors import AccessDenied, IntegrityError, Throttled
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.sms.gateway import Capabilities, Gateway, Sent, Text
from flowrunner_provider.sms.numbers import check_sender, is_e164
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["SnsGateway"]

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_VERSION = "2010-03-31"
_PLACES = {name: re.compile(rf"<{name}>([^<>]{{0,500}})</{name}>") for name in ("MessageId", "Code", "Message")}
_THROTTLED = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded")
_DENIED = re.compile(
    r"AuthorizationError|AccessDenied|InvalidClientTokenId|SignatureDoesNotMatch|OptedOutAccount|Expired"
)


class SnsGateway(Gateway):
    """Text messages of one AWS account and region.

    :param sms_type: ``Transactional`` goes the most reliable way, ``Promotional`` the cheapest.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(far=FarSide(title="Amazon SNS"))

    def __init__(self, http: HttpTransport, sms_type: str) -> None:
        super().__init__(http)
        self._sms_type = sms_type

    def check(self, text: Text) -> None:
        """A sender is optional: without one SNS takes a number, or a name, of the account."""
        if text.sender:
            check_sender(text.sender, "sender")
        super().check(text if text.sender else replace(text, sender="any"))

    async def send(self, text: Text, key: str, at: datetime) -> Sent:
        attributes = {"AWS.SNS.SMS.SMSType": self._sms_type}
        if text.sender:
            name = "AWS.MM.SMS.OriginationNumber" if is_e164(text.sender) else "AWS.SNS.SMS.SenderID"
            attributes[name] = text.sender
        form = {"Action": "Publish", "Version": _VERSION, "PhoneNumber": text.number, "Message": text.body}
        for place, (name, value) in enumerate(attributes.items(), 1):
            entry = f"MessageAttributes.entry.{place}"
            form |= {f"{entry}.Name": name, f"{entry}.Value.DataType": "String", f"{entry}.Value.StringValue": value}
        answer = await self._call(form)
        if answer.status == 200:
            return Sent(message_id=_found(answer, "MessageId"))
        code = _found(answer, "Code")
        if _THROTTLED.search(code):
            raise Throttled(f"Amazon SNS throttles ({code})", remedy="set `rate_limit` on the connection")
        if _DENIED.search(code):
            raise AccessDenied(
                f"Amazon SNS refuses us ({code})", remedy="check the keys, and the permission sns:Publish"
            )
        raise self._refused(text, answer.status, code, _found(answer, "Message"))

    async def probe(self) -> str:
        answer = await self._call({"Action": "GetSMSAttributes", "Version": _VERSION})
        if answer.status != 200:
            code = _found(answer, "Code")
            raise AccessDenied(f"Amazon SNS refuses us ({code})", remedy="allow sns:GetSMSAttributes and sns:Publish")
        return "Amazon SNS returned the account's settings for text messages"

    async def _call(self, form: dict[str, str]) -> Response:
        return await self.http.request(
            "POST", "/", headers=_FORM, body=urlencode(form).encode(), expected={200, 400, 403, 404}, retry=False
        )


def _found(answer: Response, name: str) -> str:
    """A leaf of the answer, which is XML; nothing is expanded, as nothing is parsed."""
    found = _PLACES[name].search(answer.text())
    if found is None:
        raise IntegrityError(f"the answer of Amazon SNS has no {name}", remedy="check host and region")
    return found[1]
