"""What FTP servers, TLS and sockets say, as the errors that say what to do."""

from __future__ import annotations

import ftplib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConnectionLost,
    FlowRunnerError,
    PermanentError,
    Rejected,
    SecurityError,
    TimedOut,
    Unavailable,
)

__all__ = ["code_of", "ftp_errors", "said"]

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_CUT = ssl.SSLEOFError | ssl.SSLZeroReturnError
_WANTS_CERTIFICATE = re.compile(r"ALERT_(BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_\w+|ACCESS_DENIED)")
_AGAIN = "retry; it goes on where it was"
# With TLS 1.3 a server refuses a client after the handshake, and its alert may be lost with the connection.
_NO_LOGIN = "check host, port and firewall; if the server asks for a client certificate, set cert_file in the extra"


def code_of(error: BaseException) -> int:
    """The reply code that an error of ftplib begins with; 0 without one."""
    code = str(error)[:3]
    return int(code) if code.isascii() and code.isdigit() else 0


def said(error: object) -> str:
    """The server's words on one short line."""
    return _UNSAFE.sub(" ", str(error))[:200].strip()


@contextmanager
def ftp_errors(what: str, *, logging_in: bool = False) -> Iterator[None]:
    """Turn what ftplib raises into the error that says what to do.

    A refusal (550 and the like) becomes ``Rejected`` with its status: whether the thing is not there or not allowed
    is for the caller to find out.

    :param what: what was being done, on what; the message begins with it.
    :param logging_in: the session is being set up: a refusal concerns the credentials or TLS.
    """
    try:
        yield
    except (ftplib.error_perm, ftplib.error_temp, ftplib.error_reply) as error:
        raise _refused(what, error, logging_in) from error
    except ssl.SSLError as error:
        raise _tls(what, error, logging_in) from error
    except TimeoutError as error:
        raise TimedOut(f"{what}: the server was silent for too long", remedy=_AGAIN) from error
    except ftplib.error_proto as error:
        raise ConnectionLost(
            f"{what}: this is not an answer of an FTP server: {said(error)}", remedy="check host and port"
        ) from error
    except (OSError, EOFError, ftplib.Error) as error:
        why = getattr(error, "strerror", None) or said(error) or "the connection was closed"
        raise ConnectionLost(f"{what}: {why}", remedy=_NO_LOGIN if logging_in else _AGAIN) from error
    except UnicodeEncodeError as error:
        raise PermanentError(
            f"{what}: the name cannot be written in {error.encoding}",
            remedy="set the connection's extra `encoding` to the one that the server uses",
        ) from error


def _refused(what: str, error: ftplib.Error, logging_in: bool) -> FlowRunnerError:
    code, text = code_of(error), f"{what}: {said(error)}"
    if code in (421, 425, 426):
        return ConnectionLost(text, remedy="retry; if it says too many connections, lower `connections` in the extra")
    if 400 <= code < 500:
        return Unavailable(text, remedy="retry later")
    if code == 552:
        return PermanentError(text, remedy="free some space there, or have the quota raised, then retry")
    if logging_in and code in (530, 531, 532, 332):
        return AccessDenied(text, remedy="correct login and password of the connection")
    if code in (522, 533, 534, 535, 536):
        return SecurityError(text, remedy="the server wants another kind of TLS: use ftps:// and look at `implicit`")
    if code in (530, 532):
        return AccessDenied(text, remedy="ask the owner of the server for the permission")
    return Rejected(text, status=code, remedy="look at the reply; a retry cannot help")


def _tls(what: str, error: ssl.SSLError, logging_in: bool) -> FlowRunnerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SecurityError(
            f"{what}: the certificate of the server is not trusted: {error.verify_message}",
            remedy="for a private authority set ca_file in the extra's 'flowrunner'; check the host name",
        )
    if alert := _WANTS_CERTIFICATE.search(error.reason or ""):
        return AccessDenied(
            f"{what}: the server wants another client certificate ({alert[0]})",
            remedy="set cert_file and key_file in the extra's 'flowrunner'; does the server know their authority?",
        )
    if isinstance(error, _CUT) or not logging_in:
        remedy = _NO_LOGIN if logging_in else _AGAIN
        return ConnectionLost(f"{what}: the TLS connection broke ({error.reason or said(error)})", remedy=remedy)
    return SecurityError(
        f"{what}: no TLS with this server: {error.reason or said(error)}",
        remedy="look at the port, and at `implicit` in the extra's 'flowrunner': port 21 starts with AUTH TLS, "
        "port 990 with TLS at once; if the server asks for a client certificate, set cert_file",
    )
