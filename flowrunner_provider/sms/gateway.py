"""The common interface of SMS vendors: send a text and find out its status.

What a vendor supports is declared in its :class:`Capabilities`, never probed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.core.handover import FarSide
from flowrunner_provider.sms.numbers import masked
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["Capabilities", "Gateway", "Sent", "State", "Text"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """One message.

    :param number: in E.164.
    :param sender: a number, a short code, a name, or another sender that the vendor supports.
    :param segments: the number of billed segments.
    """

    number: str = field(repr=False)
    body: str = field(repr=False)
    sender: str
    channel: str
    segments: int


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message that the vendor has accepted.

    :param message_id: the vendor's id.
    :param segments: the vendor's count; 0 if it reports none.
    """

    message_id: str
    segments: int = 0


@dataclass(frozen=True, kw_only=True)
class State:
    """The delivery status of a message, and its error code if there is one."""

    status: str
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a vendor's API supports.

    :param far: how a message whose answer was lost can be reconciled.
    :param channels: the supported channels.
    :param final: statuses that never change; empty if the vendor reports no deliveries.
    :param delivered: the final statuses that mean success.
    """

    far: FarSide
    channels: frozenset[str] = frozenset({"sms"})
    final: frozenset[str] = frozenset()
    delivered: frozenset[str] = frozenset()


class Gateway:
    """A vendor's API during one run.

    :param http: an open transport to the vendor.
    """

    capabilities: ClassVar[Capabilities]

    def __init__(self, http: HttpTransport) -> None:
        self.http = http

    def check(self, text: Text) -> None:
        """Raise :class:`ConfigError`, naming the parameter, if the vendor does not support the text's channel or
        sender."""
        title, channels = self.capabilities.far.title, self.capabilities.channels
        if text.channel not in channels:
            raise ConfigError(
                f"{title} has no channel {text.channel!r} here", field="channel", remedy=f"use {' or '.join(channels)}"
            )
        if not text.sender:
            raise ConfigError(
                f"{title} wants to know who sends",
                field="sender",
                remedy='give `sender` here, or {"flowrunner": {"sender": "..."}} in the connection\'s extra',
            )

    async def send(self, text: Text, key: str, at: datetime) -> Sent:
        """Send the message once.

        :param key: the same in every attempt; the idempotency token where the vendor supports one.
        :param at: when the message was first announced.
        :raises Rejected: when the vendor refused this message.
        :raises OutcomeUnknown: when it may have been accepted.
        """
        raise self._cannot("send")

    async def find(self, text: Text, since: datetime, taken: Collection[str]) -> Sent | None:
        """Return the message with this text to this number that the vendor has accepted since then, if there is one.

        :param taken: ids that belong to other messages of the task.
        """
        raise self._cannot("look messages up")

    async def state(self, message_id: str) -> State:
        """Return the delivery status of a message."""
        raise self._cannot("tell of the delivery when it is asked; it reports to webhooks or logs only")

    async def probe(self) -> str:
        """Test the credentials with a harmless request and describe the result in one sentence."""
        raise self._cannot("be tested")

    def _cannot(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.capabilities.far.title} cannot {what}", field="conn_id", remedy="use another gateway"
        )

    def _refused(self, text: Text, status: int, code: Any, reason: Any) -> Rejected:
        """The vendor's own words about a message, without the number."""
        said = " ".join(str(reason or "").split())[:200]
        for number in (text.number, text.number[1:]):
            said = said.replace(number, masked(text.number))
        shown = f" {code}" if code not in (None, "") else ""
        return Rejected(
            f"{self.capabilities.far.title} refused the message ({status}{shown}): {said}",
            status=status,
            code="" if code is None else str(code),
            remedy="look the code up at the vendor; correct the number, the sender, or the account",
        )

    def _json(self, answer: Response) -> dict[str, Any]:
        """The answer as a JSON object.

        :raises IntegrityError: when it is none.
        """
        value = answer.json()
        if not isinstance(value, dict):
            raise IntegrityError(
                f"{self.capabilities.far.title} answered with JSON that is no object", remedy="check the host"
            )
        return value
