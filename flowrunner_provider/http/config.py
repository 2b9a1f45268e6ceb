"""Fields of an Airflow connection of type ``http``, including the official hook's flat extras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option

__all__ = ["HttpConfig", "flat_extra", "secret_headers"]

Auth = Literal[
    "none", "basic", "bearer", "api_key", "digest", "oauth2_client_credentials", "oauth2_refresh_token",
    "oauth2_jwt_bearer", "aws_sigv4", "hmac", "mtls",
]  # fmt: skip

PUBLIC_HEADERS = frozenset(
    {"accept", "accept-charset", "accept-language", "cache-control", "content-type", "user-agent", "x-api-version"}
)
"""Headers whose values are not masked."""

_IGNORED = frozenset({"stream", "check_response", "tcp_keep_alive", "srv_lookup", "flowrunner"})
"""Flat keys of the official hook that are ignored here; ``srv_lookup`` is refused if enabled."""


@dataclass(frozen=True, kw_only=True, repr=False)
class HttpConfig:
    """An ``http`` connection: the standard fields, the official flat extras, and the options under ``flowrunner``.

    Without ``auth``, a login means Basic authentication, as in the official hook, and a password alone is not sent.
    """

    host: str = option("", label="Host", help="Host name or URL, with or without scheme and path.")
    schema: str = option("", label="Scheme", help="http or https, if the host has no scheme; http by default.")
    port: int | None = option(None, label="Port")
    login: str = option("", label="Login")
    password: str = option("", label="Password, token or key", secret=True)
    auth: Auth | None = option(
        None, label="Authentication", help="Authentication method; basic if a login is set, otherwise none."
    )
    api_key_name: str = option(
        "X-Api-Key", label="API key name", help="Name of the header, parameter or cookie that carries the key."
    )
    api_key_in: Literal["header", "query", "cookie"] = option("header", label="API key in")
    oauth: dict[str, Any] = option(
        {}, label="OAuth 2.0", help="Options of the oauth2 grants: token_url or issuer, scope, ..."
    )
    rotated_tokens: Literal["file", "memory"] = option(
        "file",
        label="Rotated refresh tokens",
        help="file: stored encrypted in [flowrunner] state_path; memory: lost with the process.",
    )
    aws: dict[str, Any] = option({}, label="AWS", help="Options of aws_sigv4: region, service, session_token, profile.")
    hmac: dict[str, Any] = option(
        {}, label="HMAC", help="Options of hmac: header, signs, algorithm, secret_encoding, ..."
    )
    headers: dict[str, str] = option(
        {}, label="Headers", help="Sent with every request to this host, never to another one."
    )
    rate_limit: str | None = option(None, label="Rate limit", help="Shared by all tasks, e.g. 100/minute.")
    burst: int = option(1, label="Burst", help="Requests that may start at once within the rate limit.")
    timeout: float = option(120.0, label="Timeout", help="Seconds for one complete request and answer.")
    connect_timeout: float = option(10.0, label="Connect timeout", help="Seconds for TCP and TLS.")
    read_timeout: float = option(60.0, label="Read timeout", help="Longest pause within an answer, in seconds.")
    allow_hosts: tuple[str, ...] = option(
        (), label="Allowed hosts", help="Private hosts, *.suffixes or networks that redirects may target."
    )
    max_connections: int = option(32, label="Max connections", help="Open connections per task.")
    verify: bool = option(True, label="Verify TLS", help="False accepts any certificate: for tests only.")
    ca_file: str = option("", label="CA file", help="PEM file of a private certificate authority.")
    cert_file: str = option("", label="Client certificate", help="PEM file.")
    key_file: str = option("", label="Client key", help="PEM file, if the certificate file does not contain the key.")
    key_password: str = option("", label="Password of the client key", secret=True)
    proxies: dict[str, str] = option({}, label="Proxies", help="Maps scheme to proxy URL.")
    trust_env: bool = option(True, label="Proxies of the environment", help="Use HTTP_PROXY, HTTPS_PROXY, NO_PROXY.")
    follow_redirects: bool = option(True, label="Follow redirects")
    max_redirects: int = option(10, label="Max redirects")
    user_agent: str = option("", label="User agent")
    honours_idempotency_key: bool = option(
        False, label="Honours Idempotency-Key", help="The server deduplicates requests by Idempotency-Key."
    )
    check_endpoint: str = option("", label="Test endpoint", help="Endpoint that the connection test requests.")
    webhook: dict[str, Any] = option({}, label="Webhook", help="Signing options of webhook.send and webhook.notify.")


def flat_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options set by the flat keys of an official ``http`` connection: known settings, all other keys as
    headers.

    :raises ConfigError: for a value that cannot be sent as a header, and for ``srv_lookup``.
    """
    values: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for name, value in extra.items():
        if name == "srv_lookup" and str(value).lower() in ("true", "1", "yes"):
            raise ConfigError("srv_lookup is not supported", field=name, remedy="set the host name itself")
        if name in _IGNORED or (name in _RESERVED and value is None):
            continue
        if name in _RESERVED:
            values |= _RESERVED[name](value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            headers[name] = str(value)
        else:
            raise ConfigError(
                f"the extra {name!r} would be sent as a header, but its value is of type {type(value).__name__}",
                field=name,
                remedy="make it a string, remove it, or put FlowRunner options under 'flowrunner'",
            )
    return {**values, "headers": headers} if headers else values


def _verify(value: Any) -> dict[str, Any]:
    return {"ca_file": value} if isinstance(value, str) else {"verify": value}


def _cert(value: Any) -> dict[str, Any]:
    cert, key = value if isinstance(value, list | tuple) and len(value) == 2 else (value, "")
    return {"cert_file": cert, "key_file": key}


def _proxies(value: Any) -> dict[str, Any]:
    return {"proxies": {"http": value, "https": value} if isinstance(value, str) else value}


_RESERVED: dict[str, Any] = {
    "timeout": lambda value: {"timeout": value},
    "verify": _verify,
    "verify_ssl": _verify,
    "cert": _cert,
    "proxies": _proxies,
    "proxy": _proxies,
    "trust_env": lambda value: {"trust_env": value},
    "allow_redirects": lambda value: {"follow_redirects": value},
    "max_redirects": lambda value: {"max_redirects": value},
}


def secret_headers(config: HttpConfig) -> list[str]:
    """Return the values of the connection's headers that must be masked."""
    return [value for name, value in config.headers.items() if name.lower() not in PUBLIC_HEADERS]
