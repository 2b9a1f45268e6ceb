"""The common interface of chat platforms: post a message and find out whether it was posted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["JSON", "ChatGateway", "Message", "encoded", "object_of"]

JSON = {"Content-Type": "application/json; charset=utf-8", "Accept": "application/json"}
"""Headers of a request that carries and wants JSON."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """The content of a message.

    :param text: in the platform's own markup.
    :param card: in the platform's own JSON: an Adaptive Card, a Google Chat card, an embed, an attachment.
    :param thread: the platform's id of the thread; empty for none.
    :param channel: the channel or chat, if the URL does not name it.
    """

    text: str = ""
    card: Mapping[str, Any] | None = None
    thread: str = ""
    channel: str = ""

    @property
    def identity(self) -> tuple[Any, ...]:
        """All that a retry must find the same."""
        return self.text, self.card, self.thread, self.channel


class ChatGateway:
    """A platform's API during one run.

    :param http: an open transport to the platform.
    """

    far: ClassVar[FarSide]
    longest: ClassVar[int]
    """The most characters of a text."""
    cards: ClassVar[bool] = True
    threads: ClassVar[bool] = True
    most_bytes: ClassVar[int] = 1 << 20
    """The most bytes of a whole message."""

    def __init__(self, http: HttpTransport) -> None:
        self.http = http

    def check(self, message: Message) -> None:
        """Refuse what the platform would refuse, or cut.

        :raises ConfigError: naming the parameter.
        """
        title = self.far.title
        if not message.text.strip() and not message.card:
            raise ConfigError("the message has no content", field="text", remedy="give text, or a card")
        if message.card and not self.cards:
            raise ConfigError(f"{title} has no cards", field="card", remedy="write it as text")
        if message.thread and not self.threads:
            raise ConfigError(f"{title} has no threads here", field="thread_key", remedy="remove thread_key")
        if len(message.text) > self.longest:
            raise ConfigError(
                f"the text has {len(message.text):,} characters; {title} takes {self.longest:,}",
                field="text",
                remedy="shorten it, or post a link to the whole",
            )
        size = len(encoded(self.payload(message)))
        if size > self.most_bytes:
            raise ConfigError(
                f"the message has {size:,} bytes; {title} takes {self.most_bytes:,}",
                field="card" if message.card else "text",
                remedy="shorten it, or post a link to the whole",
            )

    def payload(self, message: Message) -> dict[str, Any]:
        """The message in the platform's JSON."""
        return {"text": message.text}

    async def post(self, message: Message, key: str) -> str:
        """Post it once and return its id.

        :param key: the token, where the platform knows one.
        :raises OutcomeUnknown: when it may have been posted.
        """
        raise ConfigError(f"{self.far.title} cannot post", field="platform")

    async def find(self, message: Message, key: str, since: datetime) -> str | None:
        """The id of the message that was posted under ``key``, if there is one."""
        raise ConfigError(f"{self.far.title} cannot look messages up", field="platform")

    async def probe(self) -> str:
        """Ask for something harmless with the credentials, and say in one sentence what was seen."""
        raise ConfigError(f"{self.far.title} cannot be tested", field="platform")

    def rejected(self, status: int, code: Any, reason: Any) -> Rejected:
        """The platform's own words about a message."""
        said = " ".join(str(reason or "").split())[:200]
        return Rejected(
            f"{self.far.title} refused the message ({status}): {said}",
            status=status,
            code="" if code is None else str(code),
            remedy="correct the message, or the connection",
        )


def encoded(value: Any) -> bytes:
    """A payload as JSON.

    :raises ConfigError: when it is none.
    """
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the message is not JSON ({type(error).__name__})", field="card", remedy="give plain values"
        ) from None


def object_of(answer: Response) -> dict[str, Any]:
    """The answer as a JSON object.

    :raises IntegrityError: when it is none; without the address, which is a secret.
    """
    try:
        value = json.loads(answer.content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise IntegrityError(
            f"the answer ({answer.status}) is no JSON object", remedy="check the address of the connection"
        )
    return value
