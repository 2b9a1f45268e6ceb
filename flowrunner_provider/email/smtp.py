"""The SMTP transport (RFC 5321), on aiosmtplib.

What an error says depends on the phase. Until the final dot is written the server must not deliver, so
whatever fails is known not to have been sent. Between the dot and its reply nobody can tell:
:class:`OutcomeUnknown`. The reply decides again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    MissingCredential,
    OutcomeUnknown,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.email.config import SmtpConfig
from flowrunner_provider.email.transport import Addressed, Capabilities, Refusal

if TYPE_CHECKING:
    import aiosmtplib

__all__ = ["SmtpEnvelope", "SmtpTransport"]

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_BARE_DOT = re.compile(rb"^\.", re.MULTILINE)
_CHUNK = 64 * 1024
_NO_LOGIN = frozenset({530, 534, 535, 538})


@dataclass(frozen=True)
class SmtpTransport:
    """Mail through one server.

    :param config: the connection.
    """

    config: SmtpConfig

    capabilities: ClassVar[Capabilities] = Capabilities(each_recipient=True)

    @property
    def seconds(self) -> float:
        return 20 * self.config.timeout + self.config.reply_timeout

    async def envelope(self, mail: Addressed, recipients: Sequence[str], size: int, deadline: Deadline) -> SmtpEnvelope:
        """Connect, log in, and tell the server sender and recipients.

        :raises SecurityError: when TLS cannot be had as configured.
        :raises FlowRunnerError: as :func:`_error` says for the server's reply.
        """
        session = await self.login(deadline)
        try:
            await session.announce(mail, recipients, size)
        except BaseException:
            session.client.close()
            raise
        return session

    async def login(self, deadline: Deadline) -> SmtpEnvelope:
        """Connect, make the connection safe, log in; each step within the connection's timeout."""
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        config = self.config
        client = smtp.SMTP(
            hostname=config.host,
            port=config.effective_port,
            use_tls=config.security == "tls",
            start_tls=False,
            tls_context=None if config.security == "plain" else _tls_context(config),
            local_hostname=_own_name(),
            timeout=max(0.001, deadline.limit(config.timeout)),
        )
        session = SmtpEnvelope(client, config, deadline)
        try:
            with session.typed("connect to"):
                await client.connect()
                await client.ehlo()
            await session.secure()
            await session.authenticate()
        except BaseException:
            client.close()
            raise
        return session


@dataclass
class SmtpEnvelope:
    """One connection, and one message on it."""

    client: aiosmtplib.SMTP
    config: SmtpConfig
    deadline: Deadline
    refused: dict[str, Refusal] = field(default_factory=dict)
    _writer: asyncio.StreamWriter | None = None

    @property
    def _timeout(self) -> float:
        return max(0.001, self.deadline.limit(self.config.timeout))

    async def secure(self) -> None:
        """STARTTLS if it is configured; a server that does not offer it is refused."""
        if self.config.security != "starttls":
            return
        if not self.client.supports_extension("starttls"):
            raise SecurityError(
                f"mail server {self.config.server} does not offer STARTTLS, or somebody took the offer away",
                remedy="ask the server's administrator; disable_tls=true in the extra sends in clear text",
            )
        with self.typed("start TLS with"):
            await self.client.starttls(timeout=self._timeout)
            await self.client.ehlo(timeout=self._timeout)

    async def authenticate(self) -> None:
        """Log in once, with the first mechanism that both sides know."""
        config, client = self.config, self.client
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
        with self.typed("log in to"):
            if mechanism == "xoauth2":
                await client.auth_xoauth2(config.user, config.access_token, timeout=self._timeout)
            else:
                login = client.auth_plain if mechanism == "plain" else client.auth_login
                await login(config.user, config.password, timeout=self._timeout)

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int) -> None:
        """MAIL and one RCPT for each recipient; who is refused is kept in :attr:`refused`."""
        client, options = self.client, []
        self.refused.clear()
        limit = client.esmtp_extensions.get("size", "")
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
            if not client.supports_extension("smtputf8"):
                raise Rejected(
                    f"mail server {self.config.server} takes no address with letters like those in "
                    f"{', '.join(who for who in (mail.sender.address, *recipients) if not who.isascii())}",
                    status=553,
                    code="5.6.7",
                    remedy="use a server that knows SMTPUTF8",
                )
            options += [b"SMTPUTF8", b"BODY=8BITMIME"]
        reply = await self._command(b"MAIL", f"FROM:<{mail.sender.address}>".encode(), *options)
        if reply.code != 250:
            raise self._error(reply.code, reply.message, f"refused the sender {mail.sender.address}")
        for recipient in recipients:
            reply = await self._command(b"RCPT", f"TO:<{recipient}>".encode())
            if reply.code == 421:
                raise self._error(reply.code, reply.message, "closed the connection")
            if not 200 <= reply.code < 300:
                code = _enhanced(reply.message)
                text = _said(reply.message.removeprefix(code))
                self.refused[recipient] = Refusal(status=reply.code, code=code, text=text)

    async def data(self, message: bytes) -> None:
        """DATA, the message, the final dot and its reply."""
        reply = await self._command(b"DATA")
        if reply.code != 354:
            raise self._error(reply.code, reply.message, "refused the message")
        if b"\n." in message or message.startswith(b"."):
            message = _BARE_DOT.sub(b"..", message)
        with self.typed("send the message to"):
            await self._write(message)
        protocol = self.client.protocol
        if protocol is None or not protocol.is_connected:
            raise self._lost("send the message to")
        reply = await self._final_dot(protocol)
        if not 200 <= reply.code < 300:
            raise self._error(reply.code, reply.message, "refused the message")

    async def _write(self, body: bytes) -> None:
        """The message without its final dot; when this returns the kernel has all of it."""
        protocol = self.client.protocol
        transport: Any = self.client.transport  # uvloop's is no subclass of asyncio.WriteTransport
        if protocol is None or transport is None:
            raise self._lost("send the message to")
        # asyncio's TLS pauses at the mark and not above it: with 0 an empty buffer would never let go again.
        transport.set_write_buffer_limits(high=0 if self.config.security == "plain" else 1, low=0)
        if self._writer is None:  # kept on self: a StreamWriter that is forgotten closes the connection
            self._writer = asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())
        writer = self._writer
        for start in range(0, len(body), _CHUNK):
            writer.write(body[start : start + _CHUNK])
            async with asyncio.timeout(self._timeout):
                await writer.drain()

    async def _final_dot(self, protocol: Any) -> Any:
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        # A little less than is left, so that it is this wait that ends and not the task.
        timeout = max(0.001, min(self.config.reply_timeout, 0.95 * self.deadline.remaining()))
        try:
            reply = await protocol.execute_command(b".", timeout=timeout)
        except (smtp.SMTPException, OSError) as error:
            self.client.close()
            late = isinstance(error, TimeoutError)
            raise OutcomeUnknown(
                f"mail server {self.config.server} has the whole message and "
                + (f"did not reply in {timeout:.0f} s" if late else "dropped the connection without a reply")
            ) from error
        if not 200 <= reply.code < 600:
            raise OutcomeUnknown(f"mail server {self.config.server} has the message; its reply makes no sense")
        return reply

    async def _command(self, *words: bytes) -> Any:
        with self.typed("talk to"):
            return await self.client.execute_command(*words, timeout=self._timeout)

    async def reset(self) -> None:
        """Forget sender and recipients of a message that was not handed over."""
        reply = await self._command(b"RSET")
        if reply.code != 250:
            raise self._error(reply.code, reply.message, "refused RSET")

    async def noop(self) -> None:
        """Ask whether the server is still there."""
        reply = await self._command(b"NOOP")
        if reply.code != 250:
            raise self._error(reply.code, reply.message, "refused NOOP")

    async def close(self) -> None:
        """QUIT, briefly; the server has decided already."""
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        with suppress(smtp.SMTPException, OSError):
            await self.client.quit(timeout=min(2.0, self._timeout))
        self.client.close()

    @contextmanager
    def typed(self, what: str) -> Iterator[None]:
        """Everything that aiosmtplib, TLS and sockets raise, as our errors; all of it before the final dot."""
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        server = self.config.server
        try:
            yield
        except smtp.SMTPResponseException as error:
            if error.code < 200:
                raise ConnectionLost(
                    f"could not {what} mail server {server}: {_said(str(error.message))}",
                    remedy="look at host and port: this does not speak SMTP",
                ) from error
            raise self._error(error.code, str(error.message), f"refused to {what.rpartition(' ')[0]}") from error
        except (smtp.SMTPException, OSError) as error:
            raise self._broken(what, error) from error

    def _broken(self, what: str, error: BaseException) -> FlowRunnerError:
        server, cause = self.config.server, _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SecurityError(
                f"the certificate of mail server {server} is not trusted: {cause.verify_message}",
                remedy="for a private authority set ca_file in the extra's 'flowrunner'; check the host name",
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return SecurityError(
                f"no TLS with mail server {server}: {cause.reason or cause}",
                remedy="if it expects STARTTLS on this port, set disable_ssl=true in the extra",
            )
        if isinstance(cause, TimeoutError) or isinstance(error, TimeoutError):
            return TimedOut(
                f"could not {what} mail server {server}: no answer in time",
                remedy="look at host, port and firewall, or raise timeout in the extra",
            )
        return self._lost(what, cause)

    def _lost(self, what: str, cause: BaseException | None = None) -> ConnectionLost:
        why = getattr(cause, "strerror", None) or (str(cause) if cause else "connection lost")
        return ConnectionLost(
            f"could not {what} mail server {self.config.server}: {_said(why)}",
            remedy="look at host and port, and at whether the server runs",
        )

    def _error(self, status: int, message: str, what: str) -> FlowRunnerError:
        """What a reply means for the whole mail; nothing was sent."""
        code, server = _enhanced(message), self.config.server
        text = f"mail server {server} {what}: {status} {_said(message)}"
        if status in _NO_LOGIN and not self.config.user:
            return MissingCredential(text, field="login", remedy="add login and password to the connection")
        if status in _NO_LOGIN or code in ("5.7.8", "5.7.9"):
            return AccessDenied(text, remedy="check login and password, or the access token, of the connection")
        if 500 <= status < 600:
            return Rejected(text, status=status, code=code, remedy="look at the reply; a retry cannot help")
        error = Throttled(text, remedy="the server asks to come again later")
        error.status = status
        return error


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
    """For EHLO; no look-up, which could hang."""
    name = socket.gethostname()
    return name if _HOST.fullmatch(name) else "localhost"


def _cause(error: BaseException) -> BaseException:
    """The operating system's error below aiosmtplib's."""
    while isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error


def _enhanced(message: str) -> str:
    match = _ENHANCED.match(message)
    return match[1] if match else ""


def _said(message: str) -> str:
    """The server's words on one short line."""
    return _UNSAFE.sub(" ", message)[:200].strip()
