"""Connections of chat platforms.

The platform is the connection's type: ``teams``, ``google_chat``, ``discord``, ``telegram``, ``mattermost``. A
connection of another type, e.g. ``generic``, names it in its extra: ``{"flowrunner": {"platform": "discord"}}``. The
password is the complete URL of a webhook, or the token of a bot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flowrunner_provider.chat.choices import Platform
from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.secrets import is_sensitive_key
from flowrunner_provider.core.spec import option
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.http.service_config import ServiceConfig
from flowrunner_provider.transport.http_auth import api_key_credentials
from flowrunner_provider.transport.http_settings import HttpSettings

__all__ = ["ChatConfig", "SlackConfig", "slack_values"]

_HOSTS = {"discord": "discord.com", "telegram": "api.telegram.org"}
_WEBHOOKS_ONLY = frozenset({"teams", "google_chat"})


@dataclass(frozen=True, kw_only=True)
class ChatConfig(ServiceConfig):
    """A webhook or a bot."""

    platform: Platform | None = option(
        None, label="Platform", help="Required if the connection's type names no platform."
    )
    password: str = option("", label="Webhook address, or bot token", secret=True)
    host: str = option("", label="Host", help="For bots of Mattermost and of self-hosted servers.")
    port: int | None = option(None, label="Port")
    channel: str = option("", label="Channel", help="Default id of the channel or chat.")

    @property
    def is_webhook(self) -> bool:
        """Whether the password is a URL."""
        return self.password.startswith(("https://", "http://"))

    @property
    def endpoint(self) -> str:
        """Path and query of the webhook."""
        parts = urlsplit(self.password)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def http(self, platform: str, mask: Mask) -> HttpSettings:
        """Return the HTTP settings for ``platform``.

        :raises ConfigError: naming the field to correct.
        """
        if not self.password:
            raise MissingCredential(
                "the connection has no password",
                field="password",
                remedy="put the whole address of the webhook, or the token of the bot, into it",
            )
        if self.is_webhook:
            return self._webhook(mask)
        if platform in _WEBHOOKS_ONLY:
            raise ConfigError(
                "the password is no address of a webhook",
                field="password",
                remedy="copy the whole address, which begins with https://",
            )
        host = self.host or _HOSTS.get(platform, "")
        if not host:
            raise ConfigError("the connection has no host", field="host", remedy="set it to the server's address")
        bearer = {"auth": "bearer", "password": self.password} if platform == "mattermost" else {}
        settings = self.settings(host, mask, port=self.port, **bearer)
        if platform == "discord":
            bot = api_key_credentials("Authorization", f"Bot {self.password}", "header")
            settings = replace(settings, credentials=bot)
        return replace(settings, secrets=(*settings.secrets, self.password))

    def _webhook(self, mask: Mask) -> HttpSettings:
        """Return the settings of a webhook, with the secret parts of its URL masked."""
        parts = urlsplit(self.password)
        if not parts.hostname or parts.path in ("", "/"):
            raise ConfigError("the address of the webhook is not whole", field="password", remedy="copy it again")
        if parts.scheme != "https" and not _is_here(parts.hostname):
            raise ConfigError(
                "the address of the webhook is a secret, and http would show it", field="password", remedy="use https"
            )
        hidden = [self.password, self.endpoint, parts.path]
        hidden += [value for name, value in parse_qsl(parts.query) if name == "key" or is_sensitive_key(name)]
        hidden += [piece for piece in parts.path.split("/") if len(piece) >= 16]
        settings = self.settings(f"{parts.scheme}://{parts.netloc}", mask)
        return replace(settings, secrets=(*settings.secrets, *(each for each in hidden if len(each) >= 8)))


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, kw_only=True)
class SlackConfig(ServiceConfig):
    """A ``slack`` connection of the official provider: the password is the token of a bot."""

    password: str = option("", label="Bot token", help="xoxb-...", secret=True)
    base_url: str = option("https://slack.com/api", label="Address of the API")
    proxy: str = option("", label="Proxy")

    def http(self, mask: Mask) -> HttpSettings:
        """Return the HTTP settings for Slack.

        :raises ConfigError: naming the field to correct.
        """
        if not self.password:
            raise MissingCredential("the connection has no token", field="password", remedy="set the bot's (xoxb-...)")
        proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else {}
        base = self.base_url.rstrip("/")
        return self.settings(base, mask, auth="bearer", password=self.password, proxies=proxies)


def slack_values(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options from the extra of an official ``slack`` connection, with or without their old prefix.

    :raises ConfigError: naming the key that is invalid.
    """
    found: dict[str, Any] = {}
    for name in ("base_url", "proxy", "timeout"):
        value = extra.get(name) or extra.get(f"extra__slack__{name}")
        if value:
            found[name] = _seconds(value) if name == "timeout" else str(value)
    return found


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(
            "timeout must be a number of seconds", field="timeout", remedy="correct timeout in the connection's extra"
        ) from None
