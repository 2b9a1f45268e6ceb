"""Builds the transport's credentials from the ``auth`` of an ``http`` connection.

::

    auth                        from the connection
    none
    basic, digest               login, password
    bearer                      password: the token
    api_key                     password: the key; api_key_name; api_key_in: header, query or cookie
    oauth2_client_credentials   oauth: token_url or issuer, scope ...; login, password: client id and secret
    oauth2_refresh_token        the same, and oauth.refresh_token
    oauth2_jwt_bearer           oauth: token_url, private_key, assertion_issuer, subject ...
    aws_sigv4                   aws: region, service; login, password: access key and secret key
    hmac                        hmac: header, signs ...; password: the secret, login: the key id
    mtls                        cert_file, key_file, key_password

A token endpoint on another host is verified against the system's certificate authorities, or those of
``oauth.ca_file``; the connection's TLS options apply to its own host only. The fields of ``oauth``, ``aws`` and
``hmac`` are documented in :mod:`~flowrunner_provider.transport.oauth_settings` and
:mod:`~flowrunner_provider.transport.http_signing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.http.config import HttpConfig
from flowrunner_provider.transport.http_auth import api_key_credentials, bearer_credentials, client_certificate
from flowrunner_provider.transport.http_digest import DigestCredentials
from flowrunner_provider.transport.http_settings import Anonymous, Credentials, TlsOptions, basic_credentials
from flowrunner_provider.transport.http_signing import AwsCredentials, AwsOptions, HmacCredentials, HmacOptions
from flowrunner_provider.transport.oauth import OAuthCredentials, TokenStore
from flowrunner_provider.transport.oauth_settings import ClientCredentials, JwtBearer, OAuthSettings, RefreshToken

__all__ = ["Mask", "credentials_of", "secret_header_names"]

Mask = Callable[[Iterable[str]], None]

_GRANTS: dict[str, type[OAuthSettings]] = {
    "oauth2_client_credentials": ClientCredentials,
    "oauth2_refresh_token": RefreshToken,
    "oauth2_jwt_bearer": JwtBearer,
}


def credentials_of(
    config: HttpConfig,
    *,
    base_url: str,
    tls: TlsOptions,
    proxies_for: Callable[[str], dict[str, str]],
    store: TokenStore | None,
    mask: Mask,
) -> Credentials:
    """Return the credentials for the connection's server.

    :param tls: TLS options of the connection's own host.
    :param proxies_for: returns the proxies for a host.
    :param store: where rotated refresh tokens are stored.
    :param mask: called with secrets that appear later.
    :raises ConfigError: naming the field to correct.
    """
    auth = config.auth or ("basic" if config.login else "none")
    _check_options(config, auth)
    if auth in _GRANTS:
        settings = _oauth_settings(config, auth)
        token_host, own_host = urlsplit(settings.home), urlsplit(base_url)
        return OAuthCredentials(
            settings,
            store=store,
            tls=tls
            if token_host.netloc == own_host.netloc
            else TlsOptions(ca_file=str(config.oauth.get("ca_file") or "")),
            proxies=proxies_for(token_host.hostname or ""),
            allow_hosts=config.allow_hosts,
            mask=mask,
        )
    if auth == "aws_sigv4":
        options = from_mapping(AwsOptions, config.aws, where="the connection's `aws`")
        return AwsCredentials(options, access_key=config.login, secret_key=config.password, mask=mask)
    if auth == "mtls":
        if not config.cert_file:
            raise _missing("cert_file", auth)
        if not base_url.startswith("https:"):
            raise ConfigError("mtls needs https", field="schema", remedy="set the scheme to https")
        return client_certificate()
    return _static_or_signing(config, auth)


def _static_or_signing(config: HttpConfig, auth: str) -> Credentials:
    if auth == "none":
        return Anonymous()
    if auth in ("basic", "digest") and not config.login:
        raise _missing("login", auth)
    if auth == "basic":
        return basic_credentials(config.login, config.password)
    if not config.password:
        raise _missing("password", auth)
    match auth:
        case "digest":
            return DigestCredentials(login=config.login, password=config.password)
        case "hmac":
            options = from_mapping(HmacOptions, config.hmac, where="the connection's `hmac`")
            return HmacCredentials(options, secret=config.password, key_id=config.login)
        case "api_key":
            return api_key_credentials(config.api_key_name, config.password, config.api_key_in)
        case _:
            return bearer_credentials(config.password)


def secret_header_names(config: HttpConfig) -> frozenset[str]:
    """Return the headers that carry credentials under any name; they never leave their origin."""
    names = {*config.headers, config.api_key_name}
    if config.auth == "hmac":
        names |= set(from_mapping(HmacOptions, config.hmac, where="the connection's `hmac`").headers)
    return frozenset(names)


def _oauth_settings(config: HttpConfig, auth: str) -> OAuthSettings:
    values: dict[str, Any] = {name: value for name, value in config.oauth.items() if name != "ca_file"}
    if config.login:
        values.setdefault("client_id", config.login)
    if config.password and auth != "oauth2_jwt_bearer":
        values.setdefault("client_secret", config.password)
    return from_mapping(_GRANTS[auth], values, where="the connection's `oauth`")


def _check_options(config: HttpConfig, auth: str) -> None:
    """Raise if the connection has options that its ``auth`` ignores; the user would rely on them in vain."""
    readers = {"oauth": auth in _GRANTS, "aws": auth == "aws_sigv4", "hmac": auth == "hmac"}
    for name, reads in readers.items():
        if getattr(config, name) and not reads:
            raise ConfigError(
                f"the connection has `{name}`, but its auth is {auth!r}",
                field="auth",
                remedy=f"set `auth`, or remove `{name}`",
            )


def _missing(field: str, auth: str) -> ConfigError:
    return MissingCredential(
        f"auth {auth!r} needs the connection's {field}", field=field, remedy=f"set the {field}, or another `auth`"
    )
