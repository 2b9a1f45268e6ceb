"""Discord, through a webhook or as a bot (API v10).

A webhook knows no token, so that of a lost answer nobody can tell. A bot's message carries a nonce, which Discord
checks for "the past few minutes" and answers with the message that it made.
https://docs.discord.com/developers/resources/webhook · /resources/message
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from flowrunner_provider.chat.gateway import JSON, ChatGateway, Message, encoded, object_of
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["DiscordBotGateway", "DiscordWebhookGateway"]

_NONCE = 25
_ANSWERS = frozenset({200, 201, 400})


class _Discord(ChatGateway):
    longest: ClassVar[int] = 2000

    def payload(self, message: Message) -> dict[str, Any]:
        body: dict[str, Any] = {"content": message.text, "allowed_mentions": {"parse": []}}
        return {**body, "embeds": [message.card]} if message.card else body

    def _id(self, answer: Response) -> str:
        value = object_of(answer)
        if answer.status == 400:
            raise self.rejected(answer.status, value.get("code"), value.get("message"))
        return str(value["id"])


class DiscordWebhookGateway(_Discord):
    """One webhook of one channel. Mentions in a text notify nobody.

    :param endpoint: path and query of its address; secret.
    """

    far: ClassVar[FarSide] = FarSide(title="Discord")

    def __init__(self, http: HttpTransport, endpoint: str) -> None:
        super().__init__(http)
        self._endpoint = endpoint

    async def post(self, message: Message, key: str) -> str:
        query = {"wait": "true"} | ({"thread_id": message.thread} if message.thread else {})
        answer = await self.http.request(
            "POST",
            self._endpoint,
            params=query,
            headers=JSON,
            body=encoded(self.payload(message)),
            expected=_ANSWERS,
            retry=False,
        )
        return self._id(answer)

    async def probe(self) -> str:
        value = object_of(await self.http.request("GET", self._endpoint))
        return f"the webhook {str(value.get('name') or '')[:80]!r} is there"


class DiscordBotGateway(_Discord):
    """A bot. Mentions in a text notify nobody; a thread is a channel."""

    far: ClassVar[FarSide] = FarSide(title="Discord", remembers=120.0)

    def check(self, message: Message) -> None:
        super().check(message)
        if not (message.thread or message.channel):
            raise ConfigError("a bot wants to know where", field="channel", remedy="give the id of the channel")

    async def post(self, message: Message, key: str) -> str:
        channel = quote(message.thread or message.channel, safe="")
        answer = await self.http.request(
            "POST",
            f"/api/v10/channels/{channel}/messages",
            headers=JSON,
            body=encoded({**self.payload(message), "nonce": key[:_NONCE], "enforce_nonce": True}),
            expected=_ANSWERS,
            retry=False,
        )
        return self._id(answer)

    async def probe(self) -> str:
        value = object_of(await self.http.request("GET", "/api/v10/users/@me"))
        return f"Discord knows the bot {str(value.get('username') or '')[:80]!r}"
