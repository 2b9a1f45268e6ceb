"""What an IMAP server says no with, and what breaks on the way to it, as the package's own errors."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.extras import load

__all__ = ["said", "typed"]

_CODE = re.compile(r"\[([A-Z][A-Z0-9-]*)")
_UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\uffff]+")
_BUSY = re.compile(r"too many|limit exceeded|throttl|try again|temporar", re.IGNORECASE)

_ABSENT = re.compile(r"(does not|doesn't) exist|no such|unknown mailbox|nonexistent", re.IGNORECASE)

_REFUSALS: dict[str, tuple[type[FlowRunnerError], str]] = {
    "ALREADYEXISTS": (AlreadyExists, "choose another name"),
    "AUTHENTICATIONFAILED": (AccessDenied, "check login and password, or the token, of the connection"),
    "AUTHORIZATIONFAILED": (AccessDenied, "ask the mailbox's owner for access"),
    "CONTACTADMIN": (AccessDenied, "ask the server's administrator"),
    "EXPIRED": (AccessDenied, "renew the login"),
    "INUSE": (Unavailable, "nothing to do: the retry tries it again"),
    "LIMIT": (Throttled, "the server asks for a slower pace"),
    "NONEXISTENT": (NotFound, "correct the folder's name"),
    "NOPERM": (AccessDenied, "ask the mailbox's owner for the right to do this"),
    "OVERQUOTA": (PermanentError, "make room in the mailbox"),
    "PRIVACYREQUIRED": (SecurityError, "use TLS or STARTTLS"),
    "SERVERBUG": (Unavailable, "look at the server's log"),
    "THROTTLED": (Throttled, "the server asks for a slower pace"),
    "TRYCREATE": (NotFound, "set create_target=True, or correct the folder's name"),
    "UNAVAILABLE": (Unavailable, "nothing to do: the retry tries it again"),
}
"""Response codes of RFC 5530 and RFC 3501."""


def said(text: object) -> str:
    """The server's words on one short line."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return _UNSAFE.sub(" ", words)[:200].strip()


@contextmanager
def typed(what: str, server: str) -> Iterator[None]:
    """Everything that imapclient, imaplib, TLS and sockets raise, as our errors.

    :param what: what was being done, e.g. ``log in to``.
    """
    exceptions = load("imapclient.exceptions", extra="imap", needed_for="reading mail")
    try:
        yield
    except (exceptions.ProtocolError, RecursionError) as error:  # parts within parts within parts
        raise IntegrityError(
            f"mail server {server} answered what is no IMAP when asked to {what}", remedy="look at the message there"
        ) from error
    except exceptions.IMAPClientReadOnlyError as error:
        raise AccessDenied(
            f"the folder on {server} is read-only", remedy="only read it, or use another login"
        ) from error
    except exceptions.IMAPClientAbortError as error:
        raise _lost(what, server, error) from error
    except exceptions.LoginError as error:
        raise _refused(what, server, str(error), default=AccessDenied) from error
    except exceptions.IMAPClientError as error:
        raise _refused(what, server, str(error), default=Rejected) from error
    except OSError as error:
        raise _broken(what, server, error) from error


def _refused(what: str, server: str, text: str, *, default: type[FlowRunnerError]) -> FlowRunnerError:
    match = _CODE.search(text)
    code = match[1] if match else ""
    message = f"mail server {server} refused to {what}: {said(text)}"
    if code in _REFUSALS:
        kind, remedy = _REFUSALS[code]
        return kind(message, remedy=remedy)
    if code == "BADCHARSET":
        return Rejected(message, code=code, remedy="search for ASCII text only: this server knows no UTF-8")
    if what.startswith("open") and _ABSENT.search(text):  # for servers that know no codes
        return NotFound(message, remedy=_REFUSALS["NONEXISTENT"][1])
    if _BUSY.search(text):
        return Throttled(message, remedy="the server asks for a slower pace")
    if default is AccessDenied:
        return AccessDenied(message, remedy=_REFUSALS["AUTHENTICATIONFAILED"][1])
    return Rejected(message, code=code, remedy="look at the reply; a retry cannot help")


def _lost(what: str, server: str, error: BaseException) -> FlowRunnerError:
    text = said(error)
    if _BUSY.search(text):
        return Throttled(f"mail server {server} hung up: {text}", remedy="the server asks for a slower pace")
    return ConnectionLost(
        f"could not {what} mail server {server}: {text or 'connection lost'}",
        remedy="look at host and port, and at whether the server runs",
    )


def _broken(what: str, server: str, error: OSError) -> FlowRunnerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SecurityError(
            f"the certificate of mail server {server} is not trusted: {error.verify_message}",
            remedy="for a private authority set ca_file in the extra's 'flowrunner'; check the host name",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(
            f"could not {what} mail server {server}: no answer in time",
            remedy="look at host, port and firewall, or raise timeout in the extra",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return SecurityError(
            f"no TLS with mail server {server}: {error.reason or said(error)}",
            remedy="if it expects STARTTLS on this port, set use_ssl=false in the extra",
        )
    return _lost(what, server, OSError(error.strerror or str(error)))
