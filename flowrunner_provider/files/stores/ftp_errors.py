"""Translation of the errors of ftplib, TLS and sockets."""

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
_RETRY = "retry; the transfer resumes where it stopped"
# With TLS 1.3 a server refuses a client after the handshake, and its alert may be lost with the connection.
_NO_LOGIN = "check host, port and firewall; if the server requires a client certificate, set cert_file in the extra"


def code_of(error: BaseException) -> int:
    """Return the FTP reply code of an ftplib error, or 0."""
    code = str(error)[:3]
    return int(code) if code.isascii() and code.isdigit() else 0


def said(error: object) -> str:
    """Return the server's reply as one short line."""
    return _UNSAFE.sub(" ", str(error))[:200].strip()


@contextmanager
def ftp_errors(what: str, *, logging_in: bool = False) -> Iterator[None]:
    """Translate the errors of ftplib.

    A refusal such as 550 becomes ``Rejected`` with its status; the caller finds out whether the path is missing or
    not permitted.

    :param what: the operation and its path; messages start with it.
    :param logging_in: the session is being opened, so a refusal concerns credentials or TLS.
    """
    try:
        yield
    except (ftplib.error_perm, ftplib.error_temp, ftplib.error_reply) as error:
        raise _refusal(what, error, logging_in) from error
    except ssl.SSLError as error:
        raise _tls_error(what, error, logging_in) from error
    except TimeoutError as error:
        raise TimedOut(f"{what}: the server did not answer in time", remedy=_RETRY) from error
    except ftplib.error_proto as error:
        raise ConnectionLost(
            f"{what}: this is not an answer of an FTP server: {said(error)}", remedy="check host and port"
        ) from error
    except (OSError, EOFError, ftplib.Error) as error:
        reason = getattr(error, "strerror", None) or said(error) or "the connection was closed"
        raise ConnectionLost(f"{what}: {reason}", remedy=_NO_LOGIN if logging_in else _RETRY) from error
    except UnicodeEncodeError as error:
        raise PermanentError(
            f"{what}: the name cannot be encoded as {error.encoding}",
            remedy="set the extra `encoding` of the connection to the encoding of the server",
        ) from error


def _refusal(what: str, error: ftplib.Error, logging_in: bool) -> FlowRunnerError:
    code, text = code_of(error), f"{what}: {said(error)}"
    if code in (421, 425, 426):
        return ConnectionLost(
            text, remedy="retry; if the server reports too many connections, lower `connections` in the extra"
        )
    if 400 <= code < 500:
        return Unavailable(text, remedy="retry later")
    if code == 552:
        return PermanentError(text, remedy="free disk space on the server or raise the quota, then retry")
    if logging_in and code in (530, 531, 532, 332):
        return AccessDenied(text, remedy="correct login and password of the connection")
    if code in (522, 533, 534, 535, 536):
        return SecurityError(
            text, remedy="the server requires another TLS mode: use ftps:// and check `implicit` in the extra"
        )
    if code in (530, 532):
        return AccessDenied(text, remedy="ask the owner of the server for permission")
    return Rejected(text, status=code, remedy="see the server's reply; a retry does not help")


def _tls_error(what: str, error: ssl.SSLError, logging_in: bool) -> FlowRunnerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SecurityError(
            f"{what}: the certificate of the server is not trusted: {error.verify_message}",
            remedy="check the host name; for a private authority set ca_file under 'flowrunner' in the extra",
        )
    if alert := _WANTS_CERTIFICATE.search(error.reason or ""):
        return AccessDenied(
            f"{what}: the server did not accept the client certificate ({alert[0]})",
            remedy="set cert_file and key_file under 'flowrunner' in the extra; the server must trust their issuer",
        )
    if isinstance(error, _CUT) or not logging_in:
        remedy = _NO_LOGIN if logging_in else _RETRY
        return ConnectionLost(f"{what}: the TLS connection broke ({error.reason or said(error)})", remedy=remedy)
    return SecurityError(
        f"{what}: the TLS handshake failed: {error.reason or said(error)}",
        remedy="check the port, and `implicit` under 'flowrunner' in the extra: port 21 uses AUTH TLS, port 990 "
        "implicit TLS; if the server requires a client certificate, set cert_file",
    )
