"""Settings of an OAuth 2.0 client: one validated dataclass per grant.

::

    ClientCredentials   RFC 6749, 4.4   the client acts for itself
    RefreshToken        RFC 6749, 6     a user consented once; with or without rotation
    JwtBearer           RFC 7523, 2.1   a signed assertion names the user (service accounts)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote_plus, urlsplit

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.secrets import is_sensitive_key
from flowrunner_provider.core.spec import option, secret_fields

__all__ = [
    "Algorithm",
    "ClientAuth",
    "ClientCredentials",
    "JwtBearer",
    "OAuthSettings",
    "RefreshToken",
    "check_endpoint",
]

ClientAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]  # fmt: skip

_RESERVED_PARAMS = frozenset({
    "grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "assertion",
    "refresh_token", "scope", "audience", "resource", "code", "code_verifier", "device_code", "redirect_uri",
    "username", "password", "subject_token", "actor_token", "token", "authorization",
})  # fmt: skip
"""Parameters that have their own field, and those of unsupported grants."""

_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "iat", "nbf", "jti"})
_PARAM = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_LONGEST_ASSERTION = 3600.0


@dataclass(frozen=True, kw_only=True)
class OAuthSettings:
    """Common settings of all grants.

    Other parameters go into ``extra_params``. They must not have their own field, must not look like a secret, and are
    sent in the body, never in the URL.
    """

    grant_type: ClassVar[str]

    token_url: str = option("", label="Token URL", help="The token endpoint; or set `issuer` to discover it.")
    issuer: str = option("", label="Issuer", help="The authorization server; its metadata names the token endpoint.")
    client_id: str = option("", label="Client ID")
    client_secret: str = option("", label="Client secret", secret=True)
    client_auth: ClientAuth = option(
        "client_secret_basic", label="Client authentication", help="How the client authenticates to the token endpoint."
    )
    private_key: str = option("", label="Private key", help="PEM or JWK; signs assertions.", secret=True)
    private_key_password: str = option("", label="Password of the private key", secret=True)
    key_id: str = option("", label="Key ID", help="The `kid` of the key, if the server knows several.")
    algorithm: Algorithm = option("RS256", label="Signature algorithm", help="Must fit the private key.")
    assertion_audience: str = option(
        "", label="Audience of assertions", help="By default the token URL if set, otherwise the issuer."
    )
    scope: str = option("", label="Scope", help="Scopes, separated by spaces.")
    audience: str = option("", label="Audience", help="The API that the token is for, if the server requires it.")
    resource: str = option("", label="Resource", help="The same by RFC 8707: URIs, separated by spaces.")
    extra_params: dict[str, str] = option(
        {}, label="More parameters", help="Additional parameters of the token request; never secrets."
    )
    allow_http: bool = option(
        False, label="Allow plain HTTP", help="Allow a token endpoint without TLS that is not on loopback."
    )
    token_timeout: float = option(30.0, label="Token timeout", help="Seconds for a token request including retries.")
    assumed_lifetime: float = option(
        600.0, label="Assumed lifetime", help="Lifetime in seconds if the server does not send one."
    )

    def __post_init__(self) -> None:
        if not self.token_url and not self.issuer:
            raise _wrong("there is no token endpoint", "token_url", "set `token_url`, or `issuer` to discover it")
        for name in ("token_url", "issuer"):
            if url := getattr(self, name):
                check_endpoint(url, name, allow_http=self.allow_http)
        if "?" in self.issuer:
            raise _wrong("an issuer has no query", "issuer", "correct issuer, or set `token_url`")
        for name in ("token_timeout", "assumed_lifetime"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _wrong(f"{name} must be a positive number of seconds", name, f"correct {name}")
        for name in ("client_id", "key_id", "scope", "audience", "resource", "assertion_audience", "client_secret"):
            if not _TEXT.fullmatch(getattr(self, name)):
                raise _wrong(f"{name} contains control characters", name, f"correct {name}")
        if not all(_SCOPE.fullmatch(scope) for scope in self.scope.split()):
            raise _wrong("a scope contains an invalid character", "scope", "correct scope")
        self._check_extra_params()
        self._check_client()

    def _check_extra_params(self) -> None:
        for name, value in self.extra_params.items():
            if name.lower() in _RESERVED_PARAMS or is_sensitive_key(name):
                raise _wrong(
                    f"extra_params must not contain {name!r}", "extra_params", "use the field of the connection for it"
                )
            if not _PARAM.fullmatch(name) or not isinstance(value, str):
                raise _wrong(f"extra_params: {name[:64]!r} cannot be sent", "extra_params", "map names to strings")

    def _check_client(self) -> None:
        method = self.client_auth
        if method != "none" and not self.client_id:
            raise _missing(f"{method} needs a client_id", "client_id")
        if method.startswith("client_secret") and not self.client_secret:
            raise _missing(f"{method} needs a client_secret", "client_secret")
        if method == "private_key_jwt" and not self.private_key:
            raise _missing(f"{method} needs a private_key", "private_key")

    @property
    def home(self) -> str:
        """The URL that the user configured, and therefore trusts."""
        return self.token_url or self.issuer

    def secrets(self) -> Iterator[str]:
        """Yield every secret of the settings, in the forms in which it is sent."""
        yield from filter(None, (getattr(self, name) for name in secret_fields(type(self))))
        if self.client_secret:
            yield f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"

    def form(self) -> list[tuple[str, str]]:
        """Return the parameters of the token request, without client authentication."""
        pairs = [("grant_type", self.grant_type), ("scope", " ".join(self.scope.split())), ("audience", self.audience)]
        pairs += [("resource", uri) for uri in self.resource.split()]
        return [pair for pair in pairs if pair[1]] + list(self.extra_params.items())


@dataclass(frozen=True, kw_only=True)
class ClientCredentials(OAuthSettings):
    """OAuth 2.0 client credentials (RFC 6749, 4.4)."""

    grant_type: ClassVar[str] = "client_credentials"

    def _check_client(self) -> None:
        if self.client_auth == "none":
            raise _wrong("client credentials need client authentication", "client_auth", "use another client_auth")
        super()._check_client()


@dataclass(frozen=True, kw_only=True)
class RefreshToken(OAuthSettings):
    """OAuth 2.0 refresh token (RFC 6749, 6).

    A server that *rotates* returns a new refresh token with each access token and invalidates the old one. The new one
    is kept in the token store; the connection holds only the first.
    """

    grant_type: ClassVar[str] = "refresh_token"

    refresh_token: str = option("", label="Refresh token", help="The token issued at the consent.", secret=True)

    def _check_client(self) -> None:
        if not self.refresh_token:
            raise _missing("refresh_token is missing", "refresh_token")
        if not self.client_id:
            raise _missing("a refresh token belongs to a client", "client_id")
        super()._check_client()


@dataclass(frozen=True, kw_only=True)
class JwtBearer(OAuthSettings):
    """JWT bearer grant (RFC 7523, 2.1): a signed assertion names the user, as for service accounts."""

    grant_type: ClassVar[str] = "urn:ietf:params:oauth:grant-type:jwt-bearer"

    client_auth: ClientAuth = option(
        "none", label="Client authentication", help="Often none: the assertion is sufficient."
    )
    assertion_issuer: str = option("", label="Issuer of the assertion", help="By default the client ID.")
    subject: str = option("", label="Subject", help="The user to act for; by default the issuer of the assertion.")
    claims: dict[str, Any] = option({}, label="More claims", help="Additional claims of the assertion; never secrets.")
    scope_as_claim: bool = option(
        False, label="Scope as a claim", help="Send the scope in the assertion, as Google requires."
    )
    assertion_lifetime: float = option(300.0, label="Lifetime of the assertion", help="Seconds; at most an hour.")

    def _check_client(self) -> None:
        if not self.private_key:
            raise _missing("the assertion cannot be signed without a private_key", "private_key")
        if not (self.client_id or self.assertion_issuer):
            raise _missing("the assertion has no issuer", "assertion_issuer")
        if not 0 < self.assertion_lifetime <= _LONGEST_ASSERTION:
            raise _wrong(
                "assertion_lifetime must be at most 3600 s", "assertion_lifetime", "correct assertion_lifetime"
            )
        for name in self.claims:
            if name in _REGISTERED or is_sensitive_key(name):
                raise _wrong(f"claims must not contain {name!r}", "claims", "use the field of the connection for it")
        super()._check_client()

    def assertion(self) -> Mapping[str, Any]:
        """Return the claims that depend neither on the time nor on the server."""
        issuer = self.assertion_issuer or self.client_id
        scope = {"scope": " ".join(self.scope.split())} if self.scope and self.scope_as_claim else {}
        return {**self.claims, **scope, "iss": issuer, "sub": self.subject or issuer}

    def form(self) -> list[tuple[str, str]]:
        return [pair for pair in super().form() if pair[0] != "scope" or not self.scope_as_claim]


def check_endpoint(url: str, field: str, *, allow_http: bool) -> None:
    """Raise ``ConfigError`` unless a secret may be sent to ``url``: https, or http on loopback.

    :param field: the connection field to correct.
    :param allow_http: the user accepts that the secret is sent unencrypted.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not _TEXT.fullmatch(url) or " " in url or parts.scheme not in ("https", "http"):
        raise _wrong(f"{field} is not an https address", field, f"correct {field}")
    if "@" in parts.netloc or parts.fragment:
        raise _wrong(f"{field} contains a user name or a fragment", field, "put credentials into their own fields")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name.lower() in _RESERVED_PARAMS or is_sensitive_key(name):
            raise _wrong(f"{field} contains {name!r} in its query", field, "put it into its own field")
    if parts.scheme == "http" and not allow_http and not _on_loopback(host):
        raise _wrong(
            f"{field} is plain http, so the secret would be sent unencrypted", field, "use https, or set `allow_http`"
        )


def _on_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong(message: str, field: str, remedy: str) -> ConfigError:
    return ConfigError(f"OAuth: {message}", field=field, remedy=remedy)


def _missing(message: str, field: str) -> MissingCredential:
    return MissingCredential(f"OAuth: {message}", field=field, remedy=f"add {field} to the connection")
