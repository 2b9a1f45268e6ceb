"""An SMTP server that keeps what it gets in a directory and misbehaves as the test says.

::

    with SmtpSink(directory) as sink:
        sink.refuse["bob@example.com"] = "550 5.1.1 no such user"
        sink.after_data = [AfterData.DROP]         # the first message: taken, but the client never hears
        ...
        assert [mail.message["Message-ID"] for mail in sink.mails()] == [...]

Every message that the server *accepted* is a file, written before the reply: what the directory holds
is what would be delivered, whatever the client believes, and it survives the client's death.
"""

from __future__ import annotations

import asyncio
import email.policy
import itertools
import json
import ssl
import threading
from dataclasses import dataclass, field
from email.message import EmailMessage
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.loop import LoopThread
from tests.support.servers import HOST

__all__ = ["AfterData", "Mail", "SmtpSink"]


class AfterData(Enum):
    """What the server does once it has the whole message."""

    ACCEPT = "keep it, reply 250"
    DROP = "keep it, drop the connection instead of replying"
    LOSE = "forget it, drop the connection instead of replying"
    HANG = "keep it, never reply"


@dataclass(frozen=True)
class Mail:
    """One accepted message."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes

    @property
    def message(self) -> EmailMessage:
        """The message, parsed."""
        return email.message_from_bytes(self.data, policy=email.policy.default)  # type: ignore[return-value]


@dataclass
class SmtpSink:
    """The server; all fields may be changed while it runs, except ``tls``, ``starttls`` and ``users``.

    :param directory: gets one ``<number>.eml`` and ``<number>.json`` (the envelope) for each message.
    :param refuse: recipient -> the reply to its RCPT, e.g. ``"451 4.7.1 try again later"``.
    :param after_data: what happens to the next messages, in turn; ACCEPT once the list is empty.
        A string is a reply that refuses the message, e.g. ``"452 4.3.1 full"``.
    :param tls: the server's context; offers STARTTLS.
    :param starttls: refuse everything before STARTTLS.
    :param users: login -> password; when given, AUTH is required.
    """

    directory: Path
    refuse: dict[str, str] = field(default_factory=dict)
    after_data: list[AfterData | str] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    starttls: bool = False
    users: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sessions = 0
        self.host = HOST
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._loop = LoopThread("smtp-sink")
        self.port = 0

    def mails(self) -> list[Mail]:
        """Every accepted message, in the order of arrival."""
        envelopes = [
            (path, json.loads(path.with_suffix(".json").read_text())) for path in sorted(self.directory.glob("*.eml"))
        ]
        return [Mail(env["sender"], tuple(env["recipients"]), path.read_bytes()) for path, env in envelopes]

    def start(self) -> Self:
        """Listen on a free port."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._loop.start()
        self._server = self._loop.run(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def _listen(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._session, HOST, 0)

    def _session(self) -> SMTP:
        self.sessions += 1
        return SMTP(
            _Handler(self),
            hostname="sink.test",
            enable_SMTPUTF8=True,
            tls_context=self.tls,
            require_starttls=self.starttls,
            auth_required=bool(self.users),
            auth_require_tls=self.tls is not None,
            authenticator=self.authenticate,
        )

    def stop(self) -> None:
        """Stop listening and end the thread; what was kept stays."""
        self._loop.end(self._server)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def keep(self, envelope: Envelope) -> None:
        """Store a message; the ``.eml`` appears last and whole."""
        path = self.directory / f"{next(self._numbers):06d}.eml"
        path.with_suffix(".json").write_text(
            json.dumps({"sender": envelope.mail_from, "recipients": envelope.rcpt_tos})
        )
        partial = path.with_suffix(".partial")
        partial.write_bytes(envelope.original_content or b"")
        partial.rename(path)

    def next_action(self) -> AfterData | str:
        """What to do with the message that has just come."""
        with self._lock:
            return self.after_data.pop(0) if self.after_data else AfterData.ACCEPT

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        """Check a login for aiosmtpd."""
        good = isinstance(data, LoginPassword) and self.users.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=good, handled=False)


class _Handler:
    """The hooks that aiosmtpd calls."""

    def __init__(self, sink: SmtpSink) -> None:
        self.sink = sink

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self.sink.refuse.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        action = self.sink.next_action()
        if isinstance(action, str):
            return action
        if action is not AfterData.LOSE:
            self.sink.keep(envelope)
        if action is AfterData.ACCEPT:
            return "250 OK"
        if action is not AfterData.HANG:
            assert server.transport is not None
            server.transport.abort()
        await asyncio.Event().wait()  # until the end of the connection cancels it
        return ""
