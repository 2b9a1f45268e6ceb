"""Microsoft Teams through a Workflows webhook: it accepts Adaptive Cards and returns no id.

The workflow answers 202 and posts afterwards. It has neither an idempotency key nor a list of messages, so nothing
shows what happened after a lost answer. https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/
"""

from __future__ import annotations

from typing import Any, ClassVar

from flowrunner_provider.chat.gateway import JSON, ChatGateway, Message, encoded
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["TeamsGateway"]

_ANSWERS = frozenset({200, 202, 204})
_ABOUT_MESSAGE = frozenset({400, 413, 422})


class TeamsGateway(ChatGateway):
    """One workflow.

    :param endpoint: path and query of its address; secret.
    """

    far: ClassVar[FarSide] = FarSide(title="Microsoft Teams")
    longest: ClassVar[int] = 28_000
    most_bytes: ClassVar[int] = 28_000
    threads: ClassVar[bool] = False

    def __init__(self, http: HttpTransport, endpoint: str) -> None:
        super().__init__(http)
        self._endpoint = endpoint

    def payload(self, message: Message) -> dict[str, Any]:
        card = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": message.card}
        return {"type": "message", "attachments": [card]}

    async def post(self, message: Message, key: str) -> str:
        answer = await self.http.request(
            "POST",
            self._endpoint,
            headers=JSON,
            body=encoded(self.payload(message)),
            expected=_ANSWERS | _ABOUT_MESSAGE,
            retry=False,
        )
        if answer.status in _ABOUT_MESSAGE:
            raise self.rejected(answer.status, None, answer.text()[:200])
        return ""

    async def probe(self) -> str:
        """A workflow starts with POST alone; that its host answers is all that can be seen without a message."""
        answer = await self.http.request("GET", "/", expected=frozenset(range(200, 500)), retry=False)
        return f"the host of the workflow is there (it answers {answer.status}); only a message tests the address"
