"""Twilio's Messages resource (API 2010-04-01): no idempotency key, but a list of the accepted messages.

https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.sms.gateway import Capabilities, Gateway, Sent, State, Text
from flowrunner_provider.sms.numbers import check_sender
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["TwilioGateway"]

_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_MESSAGE = re.compile(r"(?:SM|MM)[0-9a-fA-F]{32}")
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_ABOUT_MESSAGE = frozenset({400, 404, 409, 422})
_PAGE = 200
_PAGES = 5
_SKEW = timedelta(seconds=5)


class TwilioGateway(Gateway):
    """One account of Twilio.

    :param account: its SID, ``AC...``.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        far=FarSide(title="Twilio", reconciles=True),
        channels=frozenset({"sms", "whatsapp"}),
        final=frozenset({"delivered", "read", "undelivered", "failed", "canceled", "partially_delivered"}),
        delivered=frozenset({"delivered", "read"}),
    )

    def __init__(self, http: HttpTransport, account: str) -> None:
        super().__init__(http)
        self._base = f"/2010-04-01/Accounts/{account}"

    def check(self, text: Text) -> None:
        super().check(text)
        if not _SERVICE.fullmatch(text.sender):
            check_sender(text.sender, "sender")

    async def send(self, text: Text, key: str, at: datetime) -> Sent:
        kind = "MessagingServiceSid" if _SERVICE.fullmatch(text.sender) else "From"
        sender = text.sender if kind != "From" else _address(text, text.sender)
        form = {"To": _address(text, text.number), kind: sender, "Body": text.body}
        answer = await self.http.request(
            "POST",
            f"{self._base}/Messages.json",
            headers=_FORM,
            body=urlencode(form).encode(),
            expected={201, *_ABOUT_MESSAGE},
            retry=False,
        )
        value = self._json(answer)
        if answer.status != 201:
            raise self._refused(text, answer.status, value.get("code"), value.get("message"))
        return _sent(value)

    async def find(self, text: Text, since: datetime, taken: Collection[str]) -> Sent | None:
        """By number and text, among what was created since; Twilio lists the newest first.

        :raises IntegrityError: when it cannot be told: a long list, or another text that Twilio may have altered.
        """
        query: dict[str, Any] | None = {"To": _address(text, text.number), "PageSize": _PAGE}
        endpoint, others = f"{self._base}/Messages.json", False
        for _ in range(_PAGES):
            page = self._json(await self.http.request("GET", endpoint, params=query))
            messages = page["messages"]
            for message in _outbound(messages, since - _SKEW):
                if str(message.get("body") or "").endswith(text.body):  # trial accounts put words before it
                    if message["sid"] not in taken:
                        return _sent(message)
                else:
                    others = True
            endpoint, query = page.get("next_page_uri") or "", None
            if not endpoint or (messages and not any(_created(each) >= since - _SKEW for each in messages)):
                if others and _SERVICE.fullmatch(text.sender):
                    raise IntegrityError("there are other messages, and a messaging service may alter characters")
                return None
        raise IntegrityError(f"more than {_PAGES * _PAGE:,} messages went to this number since")

    async def state(self, message_id: str) -> State:
        if not _MESSAGE.fullmatch(message_id):
            raise ConfigError(
                "that is no id of a message of Twilio", field="message_ids", remedy="pass the result of sms.send"
            )
        value = self._json(await self.http.request("GET", f"{self._base}/Messages/{quote(message_id)}.json"))
        return State(status=str(value["status"]), code=str(value.get("error_code") or ""))

    async def probe(self) -> str:
        value = self._json(await self.http.request("GET", f"{self._base}.json"))
        return f"the Twilio account is {value.get('status', 'there')}"


def _address(text: Text, number: str) -> str:
    return f"whatsapp:{number}" if text.channel == "whatsapp" else number


def _sent(message: dict[str, Any]) -> Sent:
    segments = str(message.get("num_segments") or "0")  # 0 while a messaging service has not chosen the sender
    return Sent(message_id=str(message["sid"]), segments=int(segments) if segments.isdecimal() else 0)


def _outbound(messages: list[dict[str, Any]], since: datetime) -> Iterator[dict[str, Any]]:
    return (each for each in messages if each.get("direction") == "outbound-api" and _created(each) >= since)


def _created(message: dict[str, Any]) -> datetime:
    try:
        moment = parsedate_to_datetime(str(message["date_created"]))
    except (KeyError, ValueError, TypeError):
        raise IntegrityError("a message in the list of Twilio has no date") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
