"""Settings of ``smtp`` connections: the official fields, validated strictly, and our options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import option
from flowrunner_provider.email.message import MAX_TOTAL_SIZE

__all__ = ["OutgoingConfig", "Security", "SmtpConfig", "official_values"]

Security = Literal["tls", "starttls", "plain"]

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "none", "off"})
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*|\[[0-9A-Fa-f:.]{2,45}\]")


@dataclass(frozen=True, kw_only=True)
class OutgoingConfig:
    """The settings that all connections for sending mail share."""

    from_email: str = option("", label="From", help="Default sender of mails.")
    timeout: float = option(30.0, label="Timeout", help="Seconds for each step of the protocol.")
    subject_template: str = option(
        "", label="Subject template", help="Template file of the subject for tasks that set none."
    )
    html_content_template: str = option(
        "", label="HTML template", help="Template file of the body for tasks that set none."
    )
    rate_limit: str = option("", label="Rate limit", help="Maximum rate of mails, e.g. '100/minute'.")
    burst: int = option(1, label="Burst", help="Mails that may be sent at once within the rate limit.")
    message_id_domain: str = option(
        "", label="Message-ID domain", help="Domain of Message-IDs; by default the sender's."
    )
    max_total_size: int = option(MAX_TOTAL_SIZE, label="Largest mail", help="Maximum size of an encoded mail in bytes.")
    dkim_domain: str = option("", label="DKIM domain", help="Domain to sign mails for.")
    dkim_selector: str = option("", label="DKIM selector", help="Name of the key in the domain's DNS.")
    dkim_private_key: str = option("", label="DKIM private key", help="RSA key in PEM.", secret=True)

    def __post_init__(self) -> None:
        for field in ("timeout", "max_total_size", "burst"):
            _check_positive(self, field)
        if self.message_id_domain and not _DOMAIN.fullmatch(self.message_id_domain):
            raise ConfigError(
                f"{self.message_id_domain!r} is not a domain",
                field="message_id_domain",
                remedy="write 'example.com'",
            )
        given = {name: bool(getattr(self, name)) for name in ("dkim_domain", "dkim_selector", "dkim_private_key")}
        if any(given.values()) and not all(given.values()):
            missing = next(name for name, is_given in given.items() if not is_given)
            raise MissingCredential(f"DKIM needs {missing}", field=missing, remedy=f"add {missing} to the extra")


def _check_positive(config: Any, field: str) -> None:
    if not 0 < getattr(config, field) < float("inf"):
        raise ConfigError(f"{field} must be positive", field=field, remedy=f"correct {field}")


@dataclass(frozen=True, kw_only=True)
class SmtpConfig(OutgoingConfig):
    """The settings of a mail server.

    ``host``, ``port``, ``login``, ``password``, ``from_email``, ``timeout``, ``auth_type``, ``access_token`` and the
    templates are those of the official connection. ``security`` replaces its ``disable_ssl`` and ``disable_tls``,
    ``verify`` its ``ssl_context``. The others are our options, under the key ``flowrunner`` of the extra.
    """

    host: str = option(label="Host")
    port: int = option(0, label="Port", help="0: 465 for TLS, 587 for STARTTLS, 25 for neither.")
    login: str = option("", label="Login")
    password: str = option("", label="Password", secret=True)
    security: Security = option("tls", label="Security", help="TLS, STARTTLS, or no encryption.")
    verify: bool = option(True, label="Verify the certificate")
    auth_type: Literal["basic", "oauth2"] = option("basic", label="Auth type")
    access_token: str = option("", label="Access token", help="For auth_type oauth2.", secret=True)
    ca_file: str = option(
        "", label="CA file", help="PEM file of certificate authorities to trust instead of the system's."
    )
    reply_timeout: float = option(
        600.0, label="Reply timeout", help="Seconds for the reply to the whole mail (RFC 5321, 4.5.3.2.6)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "reply_timeout")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port {self.port} is out of range", field="port", remedy="correct the port")
        if self.auth_type == "oauth2" and not self.access_token:
            raise MissingCredential(
                "auth_type is oauth2, but the extra has no access_token",
                field="access_token",
                remedy="put a token into the extra; client credentials are not supported yet",
            )
        if self.auth_type == "oauth2" and not self.user:
            raise MissingCredential("oauth2 needs a login or from_email", field="login", remedy="set the login")
        if self.auth_type == "basic" and self.login and not self.password:
            raise MissingCredential(
                "the connection has a login but no password", field="password", remedy="add the password"
            )

    @property
    def user(self) -> str:
        """The user to log in as; empty for no login."""
        return self.login or (self.from_email if self.auth_type == "oauth2" else "")

    @property
    def server(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.effective_port}"

    @property
    def effective_port(self) -> int:
        return self.port or {"tls": 465, "starttls": 587, "plain": 25}[self.security]


def official_values(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the official hook's extra fields as values of :class:`SmtpConfig`.

    TLS is on unless ``disable_ssl`` is true; then STARTTLS is used unless ``disable_tls`` is true. A connection that is
    given as a URI has texts here, and ``disable_tls=false`` means false. ``retry_limit`` is ignored: repeating a mail
    blindly makes duplicates. Airflow retries the task instead.

    :raises ConfigError: naming the invalid key.
    """
    values: dict[str, Any] = {"security": "tls"}
    if _flag(extra, "disable_ssl"):
        values["security"] = "plain" if _flag(extra, "disable_tls") else "starttls"
    else:
        _flag(extra, "disable_tls")
    context = extra.get("ssl_context")
    if context not in (None, "", "default", "none"):
        raise ConfigError(
            "ssl_context must be 'default' or 'none'",
            field="ssl_context",
            remedy="leave it out; for a private authority set ca_file under 'flowrunner'",
        )
    values["verify"] = context != "none"
    if (timeout := extra.get("timeout")) not in (None, ""):
        values["timeout"] = _number(timeout, "timeout")
    for name in ("from_email", "auth_type", "access_token", "subject_template", "html_content_template"):
        if extra.get(name):
            values[name] = extra[name]
    return values


def _flag(extra: Mapping[str, Any], name: str) -> bool:
    value = extra.get(name, False)
    text = ("true" if value else "false") if isinstance(value, bool) else str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ConfigError(f"{name} must be true or false", field=name, remedy=f"correct {name} in the extra")


def _number(value: Any, name: str) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{name} must be a number of seconds", field=name, remedy=f"correct {name} in the extra")
