"""The SMTP transport (RFC 5321): aiosmtplib connects and logs in, :mod:`smtp_line` sends the mails.

The meaning of an error depends on the phase. Before the final dot, the server must not deliver, so nothing was sent.
Between the dot and its reply, nobody knows: :class:`OutcomeUnknown`. The reply itself is definite.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, OutcomeUnknown, Rejected, SecurityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.email.config import SmtpConfig
from flowrunner_provider.email.smtp_errors import SmtpErrors, enhanced, said
from flowrunner_provider.email.smtp_line import Reply, SmtpLine
from flowrunner_provider.email.transport import Addressed, Capabilities, Refusal

if TYPE_CHECKING:
    import aiosmtplib

__all__ = ["SmtpEnvelope", "SmtpTransport"]

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_GROUP = 100
"""Commands in one write."""
_BARE_DOT = re.compile(rb"^\.", re.MULTILINE)


@dataclass(frozen=True)
class SmtpTransport:
    """Sends mail through one server.

    :param config: the connection's settings.
    """

    config: SmtpConfig

    capabilities: ClassVar[Capabilities] = Capabilities(each_recipient=True)

    @property
    def seconds(self) -> float:
        return 20 * self.config.timeout + self.config.reply_timeout

    async def envelope(self, mail: Addressed, recipients: Sequence[str], size: int, deadline: Deadline) -> SmtpEnvelope:
        """Connect, log in, and send the envelope.

        :raises SecurityError: when TLS is not available as configured.
        :raises FlowRunnerError: as :class:`SmtpErrors` maps the server's reply.
        """
        session = await self.login(deadline)
        try:
            await session.announce(mail, recipients, size)
        except BaseException:
            session.line.close()
            raise
        return session

    async def login(self, deadline: Deadline) -> SmtpEnvelope:
        """Connect, negotiate TLS and log in; each step has the connection's timeout."""
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        config = self.config
        errors = SmtpErrors(config.server, bool(config.user))
        client = smtp.SMTP(
            hostname=config.host,
            port=config.effective_port,
            use_tls=config.security == "tls",
            start_tls=False,
            tls_context=None if config.security == "plain" else _tls_context(config),
            local_hostname=_own_name(),
            timeout=max(0.001, deadline.limit(config.timeout)),
        )
        try:
            with errors.typed("connect to"):
                await client.connect()
                await client.ehlo()
            await self._secure(client, errors, deadline)
            await self._authenticate(client, errors, deadline)
            if client.transport is None:
                raise errors.lost("connect to")
            line = SmtpLine(client.transport, tls=config.security != "plain")
        except BaseException:
            client.close()
            raise
        return SmtpEnvelope(line, config, deadline, dict(client.esmtp_extensions), errors)

    async def _secure(self, client: aiosmtplib.SMTP, errors: SmtpErrors, deadline: Deadline) -> None:
        """Use STARTTLS if it is configured; refuse a server that does not offer it."""
        if self.config.security != "starttls":
            return
        if not client.supports_extension("starttls"):
            raise SecurityError(
                f"mail server {self.config.server} does not offer STARTTLS, or somebody took the offer away",
                remedy="ask the server's administrator; disable_tls=true in the extra sends in clear text",
            )
        with errors.typed("start TLS with"):
            await client.starttls(timeout=max(0.001, deadline.limit(self.config.timeout)))
            await client.ehlo(timeout=max(0.001, deadline.limit(self.config.timeout)))

    async def _authenticate(self, client: aiosmtplib.SMTP, errors: SmtpErrors, deadline: Deadline) -> None:
        """Log in with the first mechanism that both sides support."""
        config = self.config
        if not config.user:
            return
        offered = [name.lower() for name in client.server_auth_methods]
        wanted = ("xoauth2",) if config.auth_type == "oauth2" else ("plain", "login")
        mechanism = next((name for name in wanted if name in offered), None)
        if mechanism is None:
            raise ConfigError(
                f"mail server {config.server} offers no {' or '.join(name.upper() for name in wanted)} login"
                f" (it offers: {', '.join(offered) or 'none'})",
                field="auth_type",
                remedy="turn TLS on if it is off, take the login out, or choose another auth_type",
            )
        timeout = max(0.001, deadline.limit(config.timeout))
        with errors.typed("log in to"):
            if mechanism == "xoauth2":
                await client.auth_xoauth2(config.user, config.access_token, timeout=timeout)
            else:
                login = client.auth_plain if mechanism == "plain" else client.auth_login
                await login(config.user, config.password, timeout=timeout)


@dataclass
class SmtpEnvelope:
    """One connection, and one message on it.

    :param extensions: the server's extensions in lower case, with their parameters.
    """

    line: SmtpLine
    config: SmtpConfig
    deadline: Deadline
    extensions: Mapping[str, str]
    errors: SmtpErrors
    refused: dict[str, Refusal] = field(default_factory=dict)
    _ready: Reply | None = None

    @property
    def _timeout(self) -> float:
        return max(0.001, self.deadline.limit(self.config.timeout))

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int, *, at_once: bool = False) -> None:
        """Send MAIL and one RCPT per recipient; refusals are collected in :attr:`refused`.

        :param at_once: also send DATA, unless every recipient is refused.
        """
        self.refused.clear()
        sender = f"MAIL FROM:<{mail.sender.address}>".encode()
        commands = [b" ".join((sender, *self._options(mail, recipients, size)))]
        commands += [f"RCPT TO:<{recipient}>".encode() for recipient in recipients]
        if at_once:
            commands.append(b"DATA")
        first, *replies = await self._ask(commands)
        if first.code != 250:
            if replies and replies[-1].code == 354:  # whatever came next would be a message to it
                self.line.close()
            raise self.errors.reply(first.code, first.text, f"refused the sender {mail.sender.address}")
        for recipient, reply in zip(recipients, replies, strict=False):
            if reply.code == 421:
                raise self.errors.reply(reply.code, reply.text, "closed the connection")
            if not reply.good:
                code = enhanced(reply.text)
                self.refused[recipient] = Refusal(
                    status=reply.code, code=code, text=said(reply.text.removeprefix(code))
                )
        if len(replies) < len(recipients):
            raise self.errors.lost("talk to")
        self._ready = replies[-1] if len(replies) > len(recipients) else None
        if self._ready and len(self.refused) == len(recipients):
            if self._ready.code == 354:  # RFC 2920, 3.1
                await self._ask([b"."])
            self._ready = None

    def _options(self, mail: Addressed, recipients: Sequence[str], size: int) -> list[bytes]:
        """Return the parameters of MAIL."""
        options = []
        limit = self.extensions.get("size", "")
        if limit.isdigit() and 0 < int(limit) < size:
            raise Rejected(
                f"mail server {self.config.server} takes {int(limit):,} bytes, the mail has {size:,}",
                status=552,
                code="5.3.4",
                remedy="send less, or a link",
            )
        if limit:
            options.append(f"SIZE={size}".encode())
        if mail.needs_utf8:
            if "smtputf8" not in self.extensions:
                raise Rejected(
                    f"mail server {self.config.server} takes no address with letters like those in "
                    f"{', '.join(who for who in (mail.sender.address, *recipients) if not who.isascii())}",
                    status=553,
                    code="5.6.7",
                    remedy="use a server that knows SMTPUTF8",
                )
            options += [b"SMTPUTF8", b"BODY=8BITMIME"]
        return options

    async def data(self, message: bytes) -> None:
        """Send DATA if it was not sent yet, the message and the final dot; return after the reply."""
        ready, self._ready = self._ready, None
        if ready is None:
            (ready,) = await self._ask([b"DATA"])
        if ready.code != 354:
            raise self.errors.reply(ready.code, ready.text, "refused the message")
        try:
            await self.line.write(_stuffed(message) + b".\r\n", self._timeout)
        except OSError as error:
            raise self.errors.broken("send the message to", error) from error
        reply = await self._final_reply()
        if not reply.good:
            raise self.errors.reply(reply.code, reply.text, "refused the message")

    async def _final_reply(self) -> Reply:
        # A little less than is left, so that it is this wait that ends and not the task.
        timeout = max(0.001, min(self.config.reply_timeout, 0.95 * self.deadline.remaining()))
        try:
            reply = await self.line.reply(timeout)
        except OSError as error:
            self.line.close()
            late = isinstance(error, TimeoutError)
            raise OutcomeUnknown(
                f"mail server {self.config.server} has the whole message and "
                + (f"did not reply in {timeout:.0f} s" if late else "dropped the connection without a reply")
            ) from error
        if not 200 <= reply.code < 600:
            raise OutcomeUnknown(f"mail server {self.config.server} has the message; its reply makes no sense")
        return reply

    async def _ask(self, commands: Sequence[bytes]) -> list[Reply]:
        """Return the replies to a group of commands, up to the reply that ends it."""
        replies: list[Reply] = []
        group = _GROUP if "pipelining" in self.extensions else 1
        for start in range(0, len(commands), group):
            some = commands[start : start + group]
            if start and some == [b"DATA"] and not any(reply.good for reply in replies[1:]):
                break
            try:
                replies += await self.line.ask(*some, timeout=self._timeout)
            except OSError as error:
                raise self.errors.broken("talk to", error) from error
            if not self.line.alive or replies[0].code >= 400:
                break
        return replies

    async def reset(self) -> None:
        """Withdraw the envelope of a message that was not sent."""
        if self._ready:
            self.line.close()
        await self._command(b"RSET")

    async def noop(self) -> None:
        """Check that the server still answers."""
        await self._command(b"NOOP")

    async def _command(self, command: bytes) -> None:
        (reply,) = await self._ask([command])
        if reply.code != 250:
            raise self.errors.reply(reply.code, reply.text, f"refused {command.decode()}")

    async def close(self) -> None:
        """Send QUIT and close the connection without waiting long."""
        if self.line.alive and not self._ready:
            with suppress(OSError):
                await self.line.ask(b"QUIT", timeout=min(2.0, self._timeout))
        self.line.close()


def _stuffed(message: bytes) -> bytes:
    """Double the dot of lines that start with one (RFC 5321, 4.5.2)."""
    end = message.rfind(b".") + 1  # encoded attachments hold none, and to look for one is quick
    if message.startswith(b".") or message.find(b"\n.", 0, end) >= 0:
        return _BARE_DOT.sub(b"..", message)
    return message


def _tls_context(config: SmtpConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca_file {config.ca_file!r} cannot be read",
            field="ca_file",
            remedy="name a PEM file that every worker has",
        ) from error
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _own_name() -> str:
    """Return the name for EHLO, without a DNS lookup, which could hang."""
    name = socket.gethostname()
    return name if _HOST.fullmatch(name) else "localhost"
