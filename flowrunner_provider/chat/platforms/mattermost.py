"""Mattermost, as a bot (API v4) or through an incoming webhook.

A bot's post carries our key in its ``props``, by which the posts of the channel tell whether it was taken. A webhook
gives no list, so that of a lost answer nobody can tell. https://developers.mattermost.com/api-documentation/
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from flowrunner_provider.chat.gateway import JSON, ChatGateway, Message, encoded, object_of
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["MattermostBotGateway", "MattermostWebhookGateway"]

_KEY = "flowrunner_key"
_SKEW = timedelta(minutes=5)


class _Mattermost(ChatGateway):
    longest: ClassVar[int] = 16_383


class MattermostWebhookGateway(_Mattermost):
    """One incoming webhook.

    :param endpoint: path and query of its address; secret.
    """

    far: ClassVar[FarSide] = FarSide(title="Mattermost")
    threads: ClassVar[bool] = False

    def __init__(self, http: HttpTransport, endpoint: str) -> None:
        super().__init__(http)
        self._endpoint = endpoint

    def payload(self, message: Message) -> dict[str, Any]:
        body: dict[str, Any] = {"text": message.text}
        if message.channel:
            body["channel"] = message.channel
        return {**body, "attachments": [message.card]} if message.card else body

    async def post(self, message: Message, key: str) -> str:
        answer = await self.http.request(
            "POST",
            self._endpoint,
            headers=JSON,
            body=encoded(self.payload(message)),
            expected={200, 400, 413},
            retry=False,
        )
        if answer.status != 200:
            raise self.rejected(answer.status, None, answer.text()[:200])
        return ""

    async def probe(self) -> str:
        value = object_of(await self.http.request("GET", "/api/v4/system/ping"))
        return f"Mattermost is there ({value.get('status')}); only a message tests the webhook"


class MattermostBotGateway(_Mattermost):
    """A bot, or a person's access token; a thread is the id of its first post."""

    far: ClassVar[FarSide] = FarSide(title="Mattermost", reconciles=True, settle=5.0)

    def check(self, message: Message) -> None:
        super().check(message)
        if not message.channel:
            raise ConfigError("a bot wants to know where", field="channel", remedy="give the id of the channel")

    def payload(self, message: Message) -> dict[str, Any]:
        props: dict[str, Any] = {"attachments": [message.card]} if message.card else {}
        body: dict[str, Any] = {"channel_id": message.channel, "message": message.text, "props": props}
        return {**body, "root_id": message.thread} if message.thread else body

    async def post(self, message: Message, key: str) -> str:
        body = self.payload(message)
        body["props"] = {**body["props"], _KEY: key}
        answer = await self.http.request(
            "POST", "/api/v4/posts", headers=JSON, body=encoded(body), expected={201, 400}, retry=False
        )
        value = object_of(answer)
        if answer.status != 201:
            raise self.rejected(answer.status, value.get("id"), value.get("message"))
        return str(value["id"])

    async def find(self, message: Message, key: str, since: datetime) -> str | None:
        """By our key; a post that somebody has deleted meanwhile was posted all the same."""
        moment = int((since - _SKEW).timestamp() * 1000)
        path = f"/api/v4/channels/{quote(message.channel, safe='')}/posts"
        value = object_of(await self.http.request("GET", path, params={"since": moment}))
        posts: dict[str, Any] = value["posts"]
        return next((name for name, post in posts.items() if (post.get("props") or {}).get(_KEY) == key), None)

    async def probe(self) -> str:
        value = object_of(await self.http.request("GET", "/api/v4/users/me"))
        return f"Mattermost knows {str(value.get('username') or '')[:80]!r}"
