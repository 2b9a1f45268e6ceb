"""Interpretation of token endpoint answers: a token, or the typed error.

No message contains an answer's body, because it may hold a token. Messages contain the server's ``error`` and
``error_description`` (RFC 6749, 5.2), without the secrets that were sent.

Lifetimes: ``expires_in`` may be a number or a numeric string. If absent or invalid, ``assumed_lifetime`` applies. More
than a day is cut to a day; zero and less raise :class:`CredentialExpired`, because such a token is unusable. A token is
used until 60 s before its end, or until 80 % of its lifetime have passed if that is later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    NotFound,
    Rejected,
    SecurityError,
    Throttled,
    Unavailable,
)
from flowrunner_provider.core.retry import parse_retry_after
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.transport.http_body import Response
from flowrunner_provider.transport.http_errors import excerpt, refused
from flowrunner_provider.transport.oauth_settings import OAuthSettings, RefreshToken, check_endpoint

__all__ = ["MAX_LIFETIME", "Token", "fresh_for", "read_discovery", "read_token"]

MAX_LIFETIME = 24 * 3600.0

_RENEW_BEFORE = 60.0
_RENEW_BEFORE_SHARE = 0.2
_VISIBLE = re.compile(r"[\x21-\x7e]+")  # RFC 6749, A.12; keeps line breaks out of the header
_NUMBER = re.compile(r"\s*-?\d{1,30}(\.\d*)?\s*", re.ASCII)
_CODE = re.compile(r"[\w.:/-]{1,64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Token:
    """An access token.

    :param fresh_until: when to fetch a new one, on the monotonic clock.
    :param dead_at: when it expires.
    :param refresh_token: the refresh token in the same answer; empty for none.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)
    fresh_until: float
    dead_at: float


def fresh_for(lifetime: float) -> float:
    """Return the seconds for which a token with ``lifetime`` is used."""
    return lifetime - min(_RENEW_BEFORE, _RENEW_BEFORE_SHARE * lifetime)


def read_token(
    answer: Response, settings: OAuthSettings, *, began: float, now: datetime, hide: Callable[[str], str]
) -> Token:
    """Return the token in ``answer``, or raise the error it contains.

    :param began: when the request was sent, on the monotonic clock; the lifetime counts from there.
    :param now: current time.
    :param hide: redacts the secrets that were sent.
    """
    where = f"the token endpoint {hide(redact_url(answer.url))}"
    body = _as_object(answer)
    code = body.get("error") if body is not None else None
    if isinstance(code, str) and code and (answer.status >= 400 or "access_token" not in (body or {})):
        raise _declined(where, answer, code, (body or {}).get("error_description"), settings, now, hide)
    if not 200 <= answer.status < 300:
        raise _unexpected(where, answer, now)
    if body is None:
        raise _malformed(where, f"did not answer in JSON ({_kind(answer)})")
    token, kind = body.get("access_token"), body.get("token_type", "Bearer")
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        raise _malformed(where, "answered without a usable access_token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise Rejected(
            f"{where} returned a token of type {excerpt(hide(str(kind)))[:40]!r}, not Bearer",
            status=answer.status,
            remedy="register the client for bearer tokens at the authorization server",
        )
    rotated = body.get("refresh_token")
    lifetime = _lifetime(where, body.get("expires_in"), settings.assumed_lifetime)
    return Token(
        access_token=token,
        refresh_token=rotated if isinstance(rotated, str) and _VISIBLE.fullmatch(rotated) else "",
        fresh_until=began + fresh_for(lifetime),
        dead_at=began + lifetime,
    )


def read_discovery(answer: Response, settings: OAuthSettings, *, now: datetime) -> str:
    """Return the token endpoint in the metadata of ``settings.issuer`` (OIDC Discovery, RFC 8414).

    :raises SecurityError: if the metadata belongs to another issuer.
    """
    where = f"the metadata of {redact_url(settings.issuer)}"
    if not 200 <= answer.status < 300:
        raise _unexpected(where, answer, now)
    body = _as_object(answer)
    issuer, endpoint = (body or {}).get("issuer"), (body or {}).get("token_endpoint")
    if not isinstance(endpoint, str) or not isinstance(issuer, str):
        raise _malformed(where, f"names no token endpoint ({_kind(answer)})")
    if issuer.rstrip("/") != settings.issuer.rstrip("/"):
        raise SecurityError(
            f"{where} belongs to another issuer, {excerpt(redact_url(issuer))[:100]!r}",
            remedy="set `issuer` to that one if you trust it, or set `token_url`",
        )
    check_endpoint(endpoint, "token_endpoint", allow_http=settings.allow_http)
    return endpoint


def _as_object(answer: Response) -> Mapping[str, Any] | None:
    """Return the body as a JSON object; None if it is anything else."""
    try:
        value = json.loads(answer.content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lifetime(where: str, value: Any, assumed: float) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return min(assumed, MAX_LIFETIME)
    if value <= 0:
        raise CredentialExpired(f"{where} returned an expired token", remedy="check the server's clock")
    return float(min(value, MAX_LIFETIME))


def _kind(answer: Response) -> str:
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    return f"{len(answer.content)} bytes of {excerpt(kind)[:60] or 'unknown type'}"


def _malformed(where: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{where} {what}", remedy="check `token_url` or `issuer`; a proxy or login page may have answered"
    )


def _unexpected(where: str, answer: Response, now: datetime) -> FlowRunnerError:
    """Return the error for an answer that is neither a token nor an OAuth error."""
    status, text = answer.status, f"{where} answered {answer.status} ({_kind(answer)})"
    if 300 <= status < 400:
        return Rejected(
            f"{text}: redirects of token requests are not followed",
            status=status,
            remedy="set `token_url` to the target of the redirect",
        )
    if status in (404, 405, 410):
        return NotFound(text, remedy="check `token_url` or `issuer`")
    if status in (401, 407) or (status == 403 and "Retry-After" not in answer.headers):
        return AccessDenied(text, remedy="check `client_id`, its credentials, `client_auth` and the proxy")
    return refused(
        where, status, answer.headers, "", now=now, repeatable=True, has_credentials=True, sent_credentials=True
    )


def _declined(
    where: str,
    answer: Response,
    code: str,
    description: Any,
    settings: OAuthSettings,
    now: datetime,
    hide: Callable[[str], str],
) -> FlowRunnerError:
    """Return the error for an OAuth error code (RFC 6749, 5.2; RFC 8707, 2; OpenID Connect)."""
    said = f": {excerpt(hide(description))}" if isinstance(description, str) and description else ""
    code = hide(code) if _CODE.fullmatch(code) else "an error without a proper code"
    text = f"{where} refused with {code}{said}"
    wait = parse_retry_after(answer.headers.get("Retry-After"), now)
    if answer.status == 429 or code == "slow_down":
        return Throttled(text, retry_after=wait, remedy="request fewer tokens, or have the server's limit raised")
    if answer.status >= 500 or code in ("temporarily_unavailable", "server_error"):
        return Unavailable(text, retry_after=wait, remedy="check the authorization server; the request was retried")
    if code == "invalid_client":
        proof = "private_key and key_id" if settings.client_auth == "private_key_jwt" else "client_secret"
        return AccessDenied(text, remedy=f"check `client_id`, {proof} and `client_auth` of the connection")
    if code == "invalid_grant":
        return _invalid_grant(text, settings)
    if code == "unsupported_grant_type":
        return ConfigError(text, field="auth", remedy="use a grant that the authorization server supports")
    remedy = {
        "unauthorized_client": f"allow `client_id` the grant {settings.grant_type} at the authorization server",
        "invalid_scope": "correct `scope`, or allow it to `client_id` at the authorization server",
        "invalid_target": "correct `resource` or `audience`, or allow it to `client_id` at the authorization server",
    }.get(code)
    if remedy or answer.status == 401:
        return AccessDenied(text, remedy=remedy or "check `client_id` and its credentials")
    return Rejected(text, status=answer.status, code=code, remedy="correct the connection's OAuth fields")


def _invalid_grant(text: str, settings: OAuthSettings) -> FlowRunnerError:
    if isinstance(settings, RefreshToken):
        return MissingCredential(
            text,
            field="refresh_token",
            remedy="the refresh token has expired, was revoked or was used already: "
            "consent again and put the new one into the connection",
        )
    return AccessDenied(text, remedy="check `subject`, `assertion_audience`, `private_key` and this worker's clock")
