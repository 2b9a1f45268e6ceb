"""An Airflow connection of type ``http``: its fields, and the official flat extras read into them."""

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

HARMLESS = frozenset(
    {"accept", "accept-charset", "accept-language", "cache-control", "content-type", "user-agent", "x-api-version"}
)
"""Headers whose values are not worth hiding."""

_IGNORED = frozenset({"stream", "check_response", "tcp_keep_alive", "srv_lookup", "flowrunner"})
"""Flat keys of the official hook that have no meaning here; ``srv_lookup`` is refused when it is on."""


@dataclass(frozen=True, kw_only=True, repr=False)
class HttpConfig:
    """An ``http`` connection: the standard fields, the official flat extras, and ours below ``flowrunner``.

    Without ``auth``, a login means Basic, as in the official hook, and a password alone is not sent.
    """

    host: str = option("", label="Host", help="Name or address, with or without scheme and path.")
    schema: str = option("", label="Scheme", help="http or https, when the host names none; http by default.")
    port: int | None = option(None, label="Port")
    login: str = option("", label="Login")
    password: str = option("", label="Password, token or key", secret=True)
    auth: Auth | None = option(
        None, label="Authentication", help="How we prove who we are; basic with a login, none without."
    )
    api_key_name: str = option("X-Api-Key", label="API key name", help="The header or parameter that takes the key.")
    api_key_in: Literal["header", "query", "cookie"] = option("header", label="API key in")
    oauth: dict[str, Any] = option({}, label="OAuth 2.0", help="Of the oauth2 grants: token_url or issuer, scope, ...")
    rotated_tokens: Literal["file", "memory"] = option(
        "file",
        label="Rotated refresh tokens",
        help="file: kept encrypted in [flowrunner] state_path; memory: forgotten.",
    )
    aws: dict[str, Any] = option({}, label="AWS", help="Of aws_sigv4: region, service, session_token, profile.")
    hmac: dict[str, Any] = option({}, label="HMAC", help="Of hmac: header, signs, algorithm, secret_encoding, ...")
    headers: dict[str, str] = option({}, label="Headers", help="Sent with every request to the host itself only.")
    rate_limit: str | None = option(None, label="Rate limit", help="Shared by all tasks, e.g. 100/minute.")
    burst: int = option(1, label="Burst", help="Requests that may come at once within the rate limit.")
    timeout: float = option(120.0, label="Timeout", help="Seconds for one whole exchange.")
    connect_timeout: float = option(10.0, label="Connect timeout", help="Seconds for TCP and TLS.")
    read_timeout: float = option(60.0, label="Read timeout", help="Seconds of silence within an answer.")
    allow_hosts: tuple[str, ...] = option(
        (), label="Allowed hosts", help="Private hosts, *.suffixes or networks that redirects may lead to."
    )
    max_connections: int = option(32, label="Connections", help="At a time, per task.")
    verify: bool = option(True, label="Verify TLS", help="False accepts any certificate: for tests only.")
    ca_file: str = option("", label="CA file", help="PEM file of a private certificate authority.")
    cert_file: str = option("", label="Client certificate", help="PEM file.")
    key_file: str = option("", label="Client key", help="PEM file, if the certificate's does not hold it.")
    key_password: str = option("", label="Password of the client key", secret=True)
    proxies: dict[str, str] = option({}, label="Proxies", help="Scheme to proxy URL.")
    trust_env: bool = option(True, label="Proxies of the environment", help="Use HTTP_PROXY, HTTPS_PROXY, NO_PROXY.")
    follow_redirects: bool = option(True, label="Follow redirects")
    max_redirects: int = option(10, label="Most redirects")
    user_agent: str = option("", label="User agent")
    honours_idempotency_key: bool = option(
        False, label="Honours Idempotency-Key", help="True when the server recognises a repeated Idempotency-Key."
    )
    check_endpoint: str = option("", label="Test endpoint", help="What the connection test asks for.")
    webhook: dict[str, Any] = option({}, label="Webhook", help="How webhook.send and webhook.notify sign; never sent.")


def flat_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The options behind the flat keys of an official ``http`` connection: its settings, and the rest as headers.

    :raises ConfigError: for a value that cannot be sent, and for ``srv_lookup``.
    """
    values: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for name, value in extra.items():
        if name == "srv_lookup" and str(value).lower() in ("true", "1", "yes"):
            raise ConfigError("srv_lookup is not supported", field=name, remedy="give the host's own name")
        if name in _IGNORED or (name in _RESERVED and value is None):
            continue
        if name in _RESERVED:
            values |= _RESERVED[name](value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            headers[name] = str(value)
        else:
            raise ConfigError(
                f"the extra {name!r} would be sent as a header, and is {type(value).__name__}",
                field=name,
                remedy="make it text, remove it, or put our own options below 'flowrunner'",
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
    """The values of the connection's headers that must not be shown."""
    return [value for name, value in config.headers.items() if name.lower() not in HARMLESS]
