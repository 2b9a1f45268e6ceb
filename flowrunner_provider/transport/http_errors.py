"""Maps failed HTTP exchanges to typed errors.

The deciding question is whether the request may have been carried out. A repeatable request gets a transient error; a
non-repeatable one that may have reached the server gets :class:`OutcomeUnknown`.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    NotFound,
    OutcomeUnknown,
    Rejected,
    SecurityError,
    TargetForbidden,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.retry import parse_retry_after

__all__ = ["BODY_SHOWN", "broken", "refused", "unknown"]

BODY_SHOWN = 300
"""Characters of an error response shown in the message."""

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_ALERT = re.compile(
    r"\bTLSV?[\d_]*_?ALERT_(CERTIFICATE_\w+|UNKNOWN_CA|BAD_CERTIFICATE\w*|ACCESS_DENIED)|"
    r"\bSSLV3_ALERT_(\w*CERTIFICATE\w*|HANDSHAKE_FAILURE)"
)
_CODE = re.compile(r"[\w.:-]{1,64}")
_CHECK_SERVER = "check the server's log; the request was retried as often as is safe"
_CHECK_FAR_SIDE = "check the far side before sending it again, or use `idempotency_key` or `reconcile`"


def excerpt(body: str) -> str:
    """Return at most 300 characters on one line; the caller has redacted the text."""
    text = _BLANKS.sub(" ", body).strip()
    return text if len(text) <= BODY_SHOWN else f"{text[: BODY_SHOWN - 1]}…"


def _error_code(body: str) -> str:
    """Return the server's error code in a JSON body: ``{"error": {"code": …}}``, ``{"code": …}``, ``{"error": …}``."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    for key in ("error", "code"):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
    return str(value) if isinstance(value, str | int) and _CODE.fullmatch(str(value)) else ""


def unknown(what: str) -> OutcomeUnknown:
    """Return the error for a request that may have been carried out."""
    return OutcomeUnknown(f"{what}; it may have been carried out", remedy=_CHECK_FAR_SIDE)


def refused(
    what: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    now: datetime,
    repeatable: bool,
    has_credentials: bool,
    sent_credentials: bool,
    fields: tuple[str, ...] = (),
) -> FlowRunnerError:
    """Return the error for an unexpected status.

    :param what: method and redacted URL.
    :param body: beginning of the body, redacted.
    :param repeatable: whether the request may be sent again.
    :param has_credentials: whether the connection has credentials.
    :param sent_credentials: False after a redirect to another origin.
    :param fields: the fields of the connection that hold the credentials.
    """
    shown = excerpt(body)
    text = f"{what} was answered {status}" + (f": {shown}" if shown else "")
    wait = parse_retry_after(headers.get("Retry-After"), now)
    if status == 429 or (status == 403 and wait is not None):
        return Throttled(text, retry_after=wait, remedy="set `rate_limit` on the connection")
    if status in (408, 425) or (status == 503 and (repeatable or wait is not None)):
        return Unavailable(text, retry_after=wait, remedy=_CHECK_SERVER)
    if status >= 500:
        return (
            Unavailable(text, remedy=_CHECK_SERVER)
            if repeatable and status != 501
            else _server_error(text, status, body)
        )
    if status in (401, 403, 407):
        return _denied(text, status, has_credentials, sent_credentials, fields)
    if status in (404, 410):
        return NotFound(text, remedy="check the endpoint, and the host of the connection")
    if status < 400 and not repeatable:
        return unknown(f"{text}, which `expected_status` does not list")
    remedy = "add the status to `expected_status` if it is a success" if status < 400 else "correct the request"
    return Rejected(text, status=status, code=_error_code(body), remedy=remedy)


def _server_error(text: str, status: int, body: str) -> FlowRunnerError:
    if status == 501:
        return Rejected(text, status=status, code=_error_code(body), remedy="the server does not support this request")
    return unknown(text)


def _denied(
    text: str, status: int, has_credentials: bool, sent_credentials: bool, fields: tuple[str, ...]
) -> FlowRunnerError:
    if status == 407:
        return AccessDenied(text, remedy="check the proxy's user and password in `proxies`")
    if not sent_credentials:
        return AccessDenied(
            f"{text} (credentials are not sent to another origin)",
            remedy="use the target of the redirect as the connection's host",
        )
    if status == 401 and not has_credentials:
        return MissingCredential(
            text, field="auth", remedy='set login and password, or `auth` to "bearer" or "api_key", on the connection'
        )
    check = " and ".join(f"`{name}`" for name in fields) or "credentials"
    return AccessDenied(text, remedy=f"check the connection's {check}, and the permissions of its account")


def broken(what: str, error: BaseException, *, repeatable: bool) -> FlowRunnerError:
    """Return the error for an incomplete exchange.

    :param what: method and redacted URL.
    :param error: the exception from aiohttp or the event loop.
    """
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectionLost(
            f"{what}: the name {error.host!r} cannot be resolved", remedy="check the connection's host and the DNS"
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _untrusted(what, error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _handshake(what, error.os_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = getattr(error.os_error, "strerror", None) or type(error.os_error).__name__
        return ConnectionLost(
            f"{what}: no connection to {error.host}:{error.port} ({reason})",
            remedy="check host, port and firewall, and that the server is running",
        )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimedOut(f"{what}: connecting timed out", remedy="check host, port and firewall, or raise the timeout")
    if isinstance(error, aiohttp.InvalidURL):
        return ConfigError(f"{what}: the address is malformed", field="endpoint", remedy="correct it")
    if isinstance(error, aiohttp.NonHttpUrlClientError):
        return TargetForbidden(f"{what}: only http and https are allowed", remedy="correct the address")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Rejected(f"{what}: the proxy refused with {error.status}", status=error.status, remedy="check `proxies`")
    return _lost(what, error, repeatable)


def _lost(what: str, error: BaseException, repeatable: bool) -> FlowRunnerError:
    """Return the error for a failure after the request may have been sent."""
    import aiohttp

    if _ALERT.search(str(error)):
        return _certificate_refused(what, str(error))
    if isinstance(error, TimeoutError):
        how = f"{what}: the answer timed out"
        return (
            TimedOut(how, remedy="raise the timeout, or find out why the server is slow")
            if repeatable
            else unknown(how)
        )
    if isinstance(error, aiohttp.ClientResponseError):
        how = f"{what}: the answer is not valid HTTP ({error.message[:80]!r})"
        return IntegrityError(how, remedy="check scheme and port of the connection") if repeatable else unknown(how)
    how = f"{what}: the connection broke ({type(error).__name__})"
    return ConnectionLost(how, remedy=_CHECK_SERVER) if repeatable else unknown(how)


def _untrusted(what: str, error: Exception) -> FlowRunnerError:
    reason: Any = getattr(error, "verify_message", "") or type(error).__name__
    return SecurityError(
        f"{what}: the server's certificate is not trusted ({reason})",
        remedy="set `ca_file` for a private authority, or have the certificate fixed; nothing was sent",
    )


def _handshake(what: str, error: OSError) -> FlowRunnerError:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ConnectionLost(f"{what}: the connection broke in the TLS handshake", remedy=_CHECK_SERVER)
    reason = getattr(error, "reason", None) or type(error).__name__
    if _ALERT.search(reason):
        return _certificate_refused(what, reason)
    return SecurityError(
        f"{what}: the TLS handshake failed ({reason})",
        remedy="check scheme, port and, if required, the client certificate; nothing was sent",
    )


def _certificate_refused(what: str, reason: str) -> FlowRunnerError:
    """Return the error for a refused or missing client certificate: the server has not read the request."""
    found = _ALERT.search(reason)
    return AccessDenied(
        f"{what}: the server refused the client certificate ({found[0] if found else reason})",
        remedy="check the connection's `cert_file` and `key_file`, and that the server trusts their authority",
    )
