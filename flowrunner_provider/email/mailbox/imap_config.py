"""The settings of an ``imap`` connection: the official fields, read strictly, and our options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import from_mapping, option
from flowrunner_provider.transport.oauth_settings import ClientCredentials, JwtBearer, OAuthSettings, RefreshToken

__all__ = ["ImapConfig", "official_imap_values"]

_GRANTS: dict[str, type[OAuthSettings]] = {
    "oauth2_client_credentials": ClientCredentials,
    "oauth2_refresh_token": RefreshToken,
    "oauth2_jwt_bearer": JwtBearer,
}
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})
_AUTH = Literal["password", "oauth2", "oauth2_client_credentials", "oauth2_refresh_token", "oauth2_jwt_bearer"]


@dataclass(frozen=True, kw_only=True)
class ImapConfig:
    """A mailbox and how to reach it.

    ``host``, ``port``, ``login`` and ``password`` are those of the official connection; ``security`` stands for its
    ``use_ssl``, ``verify`` for its ``ssl_context``. The others are our options, below the key ``flowrunner`` of the
    extra; ``auth_type`` and ``access_token`` may stand beside it, as in ``smtp`` connections.
    """

    host: str = option(label="Host")
    port: int = option(0, label="Port", help="0: 993 for TLS, 143 otherwise.")
    login: str = option("", label="Login")
    password: str = option("", label="Password", secret=True)
    timeout: float = option(30.0, label="Timeout", help="Seconds for each step of the protocol.")
    security: Literal["tls", "starttls", "plain"] = option(
        "tls", label="Security", help="TLS, STARTTLS, or no encryption."
    )
    verify: bool = option(True, label="Verify the certificate")
    ca_file: str = option(
        "", label="CA file", help="PEM file of certificate authorities to trust instead of the system's."
    )
    auth_type: Literal["basic", "oauth2"] = option("basic", label="Auth type")
    access_token: str = option("", label="Access token", help="For auth_type oauth2 without `auth`.", secret=True)
    auth: _AUTH | None = option(None, label="Auth", help="OAuth grant that fetches and renews tokens; needs `oauth`.")
    oauth: dict[str, Any] = option({}, label="OAuth 2.0", help="Settings of the grant: token_url or issuer, scope, ...")
    rotated_tokens: Literal["file", "memory"] = option(
        "file", label="Rotated refresh tokens", help="file: stored encrypted under state_path; memory: not stored."
    )

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise ConfigError("timeout must be positive", field="timeout", remedy="correct timeout")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port {self.port} is out of range", field="port", remedy="correct the port")
        if any(ord(char) < 32 or ord(char) == 127 for char in self.login + self.password + self.host):
            raise ConfigError("host, login or password holds a control character", field="login", remedy="correct it")
        if self.grant in _GRANTS:
            _ = self.oauth_settings
        elif self.oauth:
            raise ConfigError(
                "the connection has `oauth`, and no grant as its `auth`",
                field="auth",
                remedy=f"set `auth` to one of {', '.join(_GRANTS)}, or remove `oauth`",
            )
        elif self.grant == "oauth2" and not self.access_token:
            raise MissingCredential(
                "auth_type is oauth2, and there is neither an access_token nor a grant",
                field="access_token",
                remedy="set `auth` to a grant such as oauth2_client_credentials, and `oauth`",
            )

    def require_login(self) -> None:
        """Refuse a connection that lacks what a login needs."""
        if not self.login:
            raise MissingCredential("the connection has no login", field="login", remedy="add the mailbox's login")
        if self.grant == "password" and not self.password:
            raise MissingCredential("the connection has no password", field="password", remedy="add the password")

    @property
    def grant(self) -> str:
        """How the login is proved: ``password``, ``oauth2`` for a token that is given, or a grant."""
        return self.auth or ("oauth2" if self.auth_type == "oauth2" else "password")

    @property
    def oauth_settings(self) -> OAuthSettings | None:
        """Where tokens come from; None where none are fetched."""
        if self.grant not in _GRANTS:
            return None
        values = {name: value for name, value in self.oauth.items() if name != "ca_file"}
        return from_mapping(_GRANTS[self.grant], values, where="the connection's `oauth`")

    @property
    def effective_port(self) -> int:
        return self.port or (993 if self.security == "tls" else 143)

    @property
    def server(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.effective_port}"


def official_imap_values(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What the official hook reads from the extra, as values of :class:`ImapConfig`.

    ``use_ssl=false`` means STARTTLS here, and never clear text unasked: that takes ``"security": "plain"`` among
    our options.

    :raises ConfigError: naming the key that cannot be read.
    """
    values: dict[str, Any] = {}
    if not _flag(extra, "use_ssl", default=True):
        values["security"] = "starttls"
    context = extra.get("ssl_context")
    if context not in (None, "", "default", "none"):
        raise ConfigError(
            "ssl_context must be 'default' or 'none'",
            field="ssl_context",
            remedy="leave it out; for a private authority set ca_file under 'flowrunner'",
        )
    values["verify"] = context != "none"
    for name in ("auth_type", "access_token"):
        if extra.get(name):
            values[name] = extra[name]
    return values


def _flag(extra: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = extra.get(name, default)
    text = ("true" if value else "false") if isinstance(value, bool) else str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ConfigError(f"{name} must be true or false", field=name, remedy=f"correct {name} in the extra")
