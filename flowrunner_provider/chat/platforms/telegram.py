"""Telegram's Bot API: no token for repetitions and no list, so that of a lost answer nobody can tell.

https://core.telegram.org/bots/api
"""

from __future__ import annotations

from typing import Any, ClassVar

from flowrunner_provider.chat.gateway import JSON, ChatGateway, Message, encoded, object_of
from flowrunner_provider.core.errors import AccessDenied, ConfigError, NotFound, Throttled
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["TelegramGateway"]

_ANSWERS = frozenset({200, 400, 401, 403, 404, 429})


class TelegramGateway(ChatGateway):
    """One bot.

    :param token: of the bot; a part of every address.
    """

    far: ClassVar[FarSide] = FarSide(title="Telegram")
    longest: ClassVar[int] = 4096
    cards: ClassVar[bool] = False

    def __init__(self, http: HttpTransport, token: str) -> None:
        super().__init__(http)
        self._base = f"/bot{token}"

    def check(self, message: Message) -> None:
        super().check(message)
        if not message.channel:
            raise ConfigError("a bot wants to know where", field="channel", remedy="give the id of the chat, or @name")
        if message.thread and not message.thread.isdecimal():
            raise ConfigError("a topic of Telegram is a number", field="thread_key", remedy="give its id")

    def payload(self, message: Message) -> dict[str, Any]:
        body: dict[str, Any] = {"chat_id": message.channel, "text": message.text}
        return {**body, "message_thread_id": int(message.thread)} if message.thread.isdecimal() else body

    async def post(self, message: Message, key: str) -> str:
        answer = await self.http.request(
            "POST",
            f"{self._base}/sendMessage",
            headers=JSON,
            body=encoded(self.payload(message)),
            expected=_ANSWERS,
            retry=False,
        )
        return str(self._result(answer)["message_id"])

    async def probe(self) -> str:
        answer = await self.http.request("GET", f"{self._base}/getMe", expected=_ANSWERS)
        return f"Telegram knows the bot {str(self._result(answer).get('username') or '')[:80]!r}"

    def _result(self, answer: Response) -> dict[str, Any]:
        value = object_of(answer)
        if value.get("ok") is True:
            result: dict[str, Any] = value["result"]
            return result
        reason = str(value.get("description") or "")[:200]
        if answer.status == 429:
            seconds = float(value.get("parameters", {}).get("retry_after", 1))
            self.http.run.hold(seconds)
            raise Throttled("Telegram asks for a pause", retry_after=seconds, remedy="nothing to do: it waits")
        if answer.status in (401, 404):
            raise AccessDenied(f"Telegram does not know the bot: {reason}", remedy="check the token, the password")
        if answer.status == 403:
            raise AccessDenied(f"Telegram: {reason}", remedy="let the bot into the chat")
        if "chat not found" in reason.lower():
            raise NotFound(f"Telegram: {reason}", remedy="check the id of the chat, and that the bot is in it")
        raise self.rejected(answer.status, value.get("error_code"), reason)
