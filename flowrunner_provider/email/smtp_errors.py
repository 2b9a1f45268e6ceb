"""Maps failures of a mail server to our error classes."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConnectionLost,
    FlowRunnerError,
    MissingCredential,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
)
from flowrunner_provider.core.extras import load

__all__ = ["SmtpErrors", "enhanced", "said"]

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]+")
_NO_LOGIN = frozenset({530, 534, 535, 538})


@dataclass(frozen=True)
class SmtpErrors:
    """The errors of one server.

    :param server: its name, for messages.
    :param logs_in: whether the connection has a login.
    """

    server: str
    logs_in: bool

    @contextmanager
    def typed(self, what: str) -> Iterator[None]:
        """Raise our errors for those of aiosmtplib, TLS and sockets; use only before the final dot."""
        smtp = load("aiosmtplib", extra="email", needed_for="sending mail")
        server = self.server
        try:
            yield
        except smtp.SMTPResponseException as error:
            if error.code < 200:
                raise ConnectionLost(
                    f"could not {what} mail server {server}: {said(str(error.message))}",
                    remedy="look at host and port: this does not speak SMTP",
                ) from error
            raise self.reply(error.code, str(error.message), f"refused to {what.rpartition(' ')[0]}") from error
        except (smtp.SMTPException, OSError) as error:
            raise self.broken(what, error) from error

    def broken(self, what: str, error: BaseException) -> FlowRunnerError:
        """Return the error for a broken connection; nothing was sent."""
        server, cause = self.server, _cause(error)
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
        return self.lost(what, cause)

    def lost(self, what: str, cause: BaseException | None = None) -> ConnectionLost:
        """Return the error for a closed connection."""
        why = getattr(cause, "strerror", None) or (str(cause) if cause else "connection lost")
        return ConnectionLost(
            f"could not {what} mail server {self.server}: {said(why)}",
            remedy="look at host and port, and at whether the server runs",
        )

    def reply(self, status: int, message: str, what: str) -> FlowRunnerError:
        """Return the error for a reply that rejects the whole mail; nothing was sent."""
        code, server = enhanced(message), self.server
        text = f"mail server {server} {what}: {status} {said(message)}"
        if status in _NO_LOGIN and not self.logs_in:
            return MissingCredential(text, field="login", remedy="add login and password to the connection")
        if status in _NO_LOGIN or code in ("5.7.8", "5.7.9"):
            return AccessDenied(text, remedy="check login and password, or the access token, of the connection")
        if 500 <= status < 600:
            return Rejected(text, status=status, code=code, remedy="look at the reply; a retry cannot help")
        error = Throttled(text, remedy="the server asks to come again later")
        error.status = status
        return error


def _cause(error: BaseException) -> BaseException:
    """Return the operating system's error behind that of aiosmtplib."""
    while isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error


def enhanced(message: str) -> str:
    """Return the enhanced status code (RFC 3463) at the start of a reply, or empty text."""
    match = _ENHANCED.match(message)
    return match[1] if match else ""


def said(message: str) -> str:
    """Return the server's text on one short line."""
    return _UNSAFE.sub(" ", message)[:200].strip()
