"""Options shared by all services with their own HTTP API (SMS gateways, chat platforms)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.spec import option
from flowrunner_provider.http.config import HttpConfig
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.http.settings import settings_of
from flowrunner_provider.transport.http_settings import HttpSettings

__all__ = ["ServiceConfig"]


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Common connection options of a service; redirects are never followed."""

    rate_limit: str | None = option(None, label="Rate limit", help="Shared by all tasks, e.g. 1/second.")
    burst: int = option(1, label="Burst", help="Messages that may be sent at once within the rate limit.")
    timeout: float = option(30.0, label="Timeout", help="Seconds for one request.")
    connect_timeout: float = option(10.0, label="Connect timeout", help="Seconds for TCP and TLS.")
    ca_file: str = option("", label="CA file", help="PEM file of a private certificate authority.")
    trust_env: bool = option(True, label="Proxies of the environment", help="Use HTTP_PROXY, HTTPS_PROXY, NO_PROXY.")

    def settings(self, host: str, mask: Mask, **more: Any) -> HttpSettings:
        """Return the transport settings for ``host``.

        :param host: with ``http://`` if it is not HTTPS.
        :param more: further options of :class:`HttpConfig`, usually credentials.
        :raises ConfigError: naming the field to correct.
        """
        config = HttpConfig(
            host=host if "://" in host else f"https://{host}",
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
            burst=self.burst,
            ca_file=self.ca_file,
            trust_env=self.trust_env,
            follow_redirects=False,
            **more,
        )
        return settings_of(config, mask=mask)
