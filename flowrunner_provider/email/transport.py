"""Ways to send mail: what each of them offers, and what it says when it fails.

Whatever fails before :meth:`Session.data` is known not to have been sent. ``data`` itself raises
:class:`~flowrunner_provider.core.errors.OutcomeUnknown` where nobody can tell; every other error of it says that the
message was not taken.
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
    """What a way to send mail can and cannot do.

    :param each_recipient: one recipient can be refused and the others taken; otherwise it is all or nothing.
    :param max_recipients: of one message; a mail to more is refused. None: the server says so itself, and those
        beyond come in a further message.
    :param rewrites: headers, in lower case, that it replaces by its own: they are not signed, and where
        ``message-id`` is one of them, a mail that is sent again is not recognised as the same.
    """

    each_recipient: bool
    max_recipients: int | None = None
    rewrites: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a recipient was refused.

    :param status: the SMTP reply code; 5xx is for good, everything else for now.
    :param code: the enhanced status code of RFC 3463, or empty.
    :param text: what the server said.
    """

    status: int
    code: str = ""
    text: str = ""

    @property
    def for_good(self) -> bool:
        return self.status >= 500

    @property
    def too_many(self) -> bool:
        """The server takes the others in a message of their own (RFC 5321, 4.5.3.1.10)."""
        return self.status == 452 and self.code in ("", "4.5.3")

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.status, self.code, self.text) if part)


class Addressed(Protocol):
    """What a mail server is told of a mail before its bytes."""

    @property
    def sender(self) -> Mailbox: ...

    @property
    def needs_utf8(self) -> bool:
        """Only a server that knows SMTPUTF8 takes it."""


class Envelope(Protocol):
    """A mail server that has been told sender and recipients and waits for the message."""

    @property
    def refused(self) -> dict[str, Refusal]:
        """The recipients that it does not take; when that is all of them, there is nothing to send."""

    async def data(self, message: bytes) -> None:
        """Hand the message over; returns when the server has taken it.

        :raises OutcomeUnknown: when nobody can tell; any other error says that it was not taken.
        """

    async def close(self) -> None:
        """Say goodbye; never raises."""


class Session(Envelope, Protocol):
    """A connection that takes one mail after the other."""

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int, *, at_once: bool = False) -> None:
        """Tell sender and recipients. Nothing is sent yet, so any error says that nothing was.

        :param at_once: ``data`` follows without delay if anybody is taken: the server may be got ready for it.
        """

    async def reset(self) -> None:
        """Forget sender and recipients of a message that was not handed over."""


class Transport(Protocol):
    """A way to send mail."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def seconds(self) -> float:
        """The longest that one mail may take."""

    async def login(self, deadline: Deadline) -> Session:
        """Connect, and say who one is."""

    async def envelope(self, mail: Addressed, recipients: Sequence[str], size: int, deadline: Deadline) -> Envelope:
        """Connect, log in, announce. Nothing is sent yet, so any error says that nothing was."""
