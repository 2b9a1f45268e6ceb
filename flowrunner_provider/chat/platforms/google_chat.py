"""Google Chat through an incoming webhook: ``spaces.messages.create`` with ids that the client assigns.

A repeated ``requestId`` is answered with the message that it made, and a repeated ``messageId`` with 409, so that a
lost answer is simply asked for again. https://developers.google.com/workspace/chat/api/reference/rest
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

from flowrunner_provider.chat.gateway import JSON, ChatGateway, Message, encoded, object_of
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["GoogleChatGateway"]

_TAKEN_BEFORE = 409


class GoogleChatGateway(ChatGateway):
    """One webhook of one space.

    :param endpoint: path and query of its address; secret.
    """

    far: ClassVar[FarSide] = FarSide(title="Google Chat", remembers=inf)
    longest: ClassVar[int] = 32_000
    most_bytes: ClassVar[int] = 32_000

    def __init__(self, http: HttpTransport, endpoint: str) -> None:
        super().__init__(http)
        self._endpoint = endpoint

    def payload(self, message: Message) -> dict[str, Any]:
        body: dict[str, Any] = {"text": message.text} if message.text else {}
        if message.card:
            body["cardsV2"] = [{"cardId": "flowrunner", "card": message.card}]
        if message.thread:
            body["thread"] = {"threadKey": message.thread}
        return body

    async def post(self, message: Message, key: str) -> str:
        query = {"requestId": key, "messageId": f"client-{key}"}
        if message.thread:
            query["messageReplyOption"] = "REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"
        answer = await self.http.request(
            "POST",
            self._endpoint,
            params=query,
            headers=JSON,
            body=encoded(self.payload(message)),
            expected={200, 400, _TAKEN_BEFORE},
            retry=False,
        )
        if answer.status == _TAKEN_BEFORE:
            return f"{self._endpoint.partition('?')[0].removeprefix('/v1/')}/client-{key}"
        value = object_of(answer)
        if answer.status != 200:
            raise self.rejected(answer.status, value["error"].get("status"), value["error"].get("message"))
        return str(value["name"])

    async def probe(self) -> str:
        """A webhook can do nothing but post; that its host answers is all that can be seen without a message."""
        answer = await self.http.request("GET", "/", expected=frozenset(range(200, 500)), retry=False)
        return f"the host of the webhook is there (it answers {answer.status}); only a message tests the address"
