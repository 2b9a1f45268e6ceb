"""The interface of mail transports.

Any failure before :meth:`Session.data` means that nothing was sent. ``data`` raises
:class:`~flowrunner_provider.core.errors.OutcomeUnknown` if nobody knows whether the message was accepted; any other
error means that it was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.email.addresses import Mailbox

__all__ = ["Addressed", "Capabilities", "Envelope", "Refusal", "Session", "Transport"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a transport supports.

    :param each_recipient: single recipients can be refused; otherwise a mail is accepted for all or for none.
    :param max_recipients: maximum recipients per message. None: the server announces its limit itself, and the
        remaining recipients get the message in a further round.
    :param rewrites: headers, in lower case, that the transport replaces, so they are not signed. If ``message-id`` is
        one of them, a repeated mail is not recognised as the same.
    """

    each_recipient: bool
    max_recipients: int | None = None
    rewrites: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a recipient was refused.

    :param status: the SMTP reply code: 5xx is permanent, anything else temporary.
    :param code: the enhanced status code of RFC 3463, or empty.
    :param text: the text of the reply.
    """

    status: int
    code: str = ""
    text: str = ""

    @property
    def for_good(self) -> bool:
        return self.status >= 500

    @property
    def too_many(self) -> bool:
        """Whether the server accepts this recipient in a further message (RFC 5321, 4.5.3.1.10)."""
        return self.status == 452 and self.code in ("", "4.5.3")

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.status, self.code, self.text) if part)


class Addressed(Protocol):
    """The part of a mail that the server needs before its bytes."""

    @property
    def sender(self) -> Mailbox: ...

    @property
    def needs_utf8(self) -> bool:
        """Whether the server must support SMTPUTF8."""


class Envelope(Protocol):
    """A mail server that knows sender and recipients and waits for the message."""

    @property
    def refused(self) -> dict[str, Refusal]:
        """The refused recipients; if all are refused, there is nothing to send."""

    async def data(self, message: bytes) -> None:
        """Send the message; return when the server has accepted it.

        :raises OutcomeUnknown: when nobody knows; any other error means that it was not accepted.
        """

    async def close(self) -> None:
        """Close the connection; never raises."""


class Session(Envelope, Protocol):
    """A connection that accepts one mail after another."""

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int, *, at_once: bool = False) -> None:
        """Send the envelope: sender and recipients. After any error, nothing was sent.

        :param at_once: ``data`` follows immediately if any recipient is accepted, so the server may be prepared for it.
        """

    async def reset(self) -> None:
        """Withdraw the envelope of a message that was not sent."""


class Transport(Protocol):
    """Connects to a mail service."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def seconds(self) -> float:
        """The longest time that one mail can take."""

    async def login(self, deadline: Deadline) -> Session:
        """Connect and log in."""

    async def envelope(self, mail: Addressed, recipients: Sequence[str], size: int, deadline: Deadline) -> Envelope:
        """Connect, log in and send the envelope. After any error, nothing was sent."""
