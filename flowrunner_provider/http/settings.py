"""Builds the transport's settings from an ``http`` connection."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.net_guard import NetPolicy
from flowrunner_provider.http.config import HttpConfig, secret_headers
from flowrunner_provider.http.credentials import Mask, credentials_of, secret_header_names
from flowrunner_provider.transport.http_settings import HttpSettings, TlsOptions
from flowrunner_provider.transport.oauth import TokenStore

__all__ = ["settings_of"]


def settings_of(
    config: HttpConfig, *, store: TokenStore | None = None, mask: Mask = lambda secrets: None
) -> HttpSettings:
    """Return the transport's settings for a connection.

    :param store: where rotated refresh tokens are stored.
    :param mask: called with secrets that appear later, such as tokens.
    :raises ConfigError: naming the field to correct.
    """
    _check_limits(config)
    base_url = _base_url(config)
    parts = urlsplit(base_url)

    def proxies_for(host: str) -> dict[str, str]:
        return dict(config.proxies) or (_environment_proxies(host) if config.trust_env else {})

    proxies = proxies_for(parts.hostname or "")
    secrets = [
        config.password,
        config.key_password,
        *secret_headers(config),
        *(urlsplit(url).password or "" for url in proxies.values()),
    ]
    tls = TlsOptions(
        verify=config.verify,
        ca_file=config.ca_file,
        cert_file=config.cert_file,
        key_file=config.key_file,
        key_password=config.key_password,
    )
    user_agent = {"user_agent": config.user_agent} if config.user_agent else {}
    return HttpSettings(
        base_url=base_url,
        policy=NetPolicy(home=f"{parts.scheme}://{parts.netloc}", allow_hosts=config.allow_hosts),
        credentials=credentials_of(config, base_url=base_url, tls=tls, proxies_for=proxies_for, store=store, mask=mask),
        headers=config.headers,
        secret_headers=secret_header_names(config),
        secrets=tuple(value for value in secrets if value),
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        timeout=config.timeout,
        tls=tls,
        max_connections=config.max_connections,
        proxies=proxies,
        follow_redirects=config.follow_redirects,
        max_redirects=config.max_redirects,
        **user_agent,
    )


def _check_limits(config: HttpConfig) -> None:
    for name in ("timeout", "connect_timeout", "read_timeout", "max_connections", "burst"):
        if not 0 < getattr(config, name) < float("inf"):
            raise ConfigError(f"{name} must be positive and finite", field=name, remedy=f"correct {name}")


def _base_url(config: HttpConfig) -> str:
    host = config.host.strip()
    if not host:
        raise ConfigError("the connection has no host", field="host", remedy="set it, e.g. to https://api.example.com")
    if "://" not in host:
        host = f"{config.schema or 'http'}://{_bracketed(host)}"
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"unsupported scheme {parts.scheme!r}", field="host", remedy="use http or https")
    if "@" in parts.netloc:
        raise ConfigError("the host contains credentials", field="host", remedy="use the fields login and password")
    if parts.query or parts.fragment:
        raise ConfigError("the host contains a query", field="host", remedy="move it to the endpoint or `query`")
    try:
        has_port = parts.port is not None
    except ValueError:
        raise ConfigError("the host's port is not a number", field="host", remedy="correct it") from None
    port = "" if has_port or not config.port else f":{config.port}"
    return f"{parts.scheme}://{parts.netloc}{port}{parts.path}"


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def _environment_proxies(host: str) -> dict[str, str]:
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(host):
        return {}
    return {scheme: url for scheme, url in getproxies().items() if scheme in ("http", "https") and url}
