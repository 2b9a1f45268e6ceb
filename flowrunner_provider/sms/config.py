"""Connections of SMS vendors, one dataclass per vendor.

The vendor is the connection's type: ``twilio``, ``vonage``, ``azure_acs``, or ``aws`` for Amazon SNS. A connection of
another type, e.g. ``generic``, names it in its extra: ``{"flowrunner": {"vendor": "twilio"}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import option
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.http.service_config import ServiceConfig
from flowrunner_provider.sms.choices import Vendor
from flowrunner_provider.transport.http_settings import HttpSettings

__all__ = ["AzureConfig", "GatewayConfig", "SnsConfig", "TwilioConfig", "VonageConfig", "aws_values"]

_ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")
_KEY_SID = re.compile(r"(?:AC|SK)[0-9a-fA-F]{32}")
_REGION = re.compile(r"[a-z0-9-]{4,32}")


@dataclass(frozen=True, kw_only=True)
class GatewayConfig(ServiceConfig):
    """The settings that all vendors share."""

    vendor: Vendor | None = option(None, label="Vendor", help="Required if the connection's type names no vendor.")
    host: str = option("", label="Host", help="Only for a proxy or another region of the vendor.")
    port: int | None = option(None, label="Port")
    sender: str = option("", label="Sender", help="Number, short code, name, or Twilio messaging service (MG...).")
    settle: float = option(
        45.0, label="Settle", help="Seconds after a lost answer until the vendor's list of messages is reliable."
    )

    def http(self, mask: Mask) -> HttpSettings:
        """Return the HTTP settings for the vendor.

        :raises ConfigError: naming the field to correct.
        """
        raise ConfigError("the connection names no vendor", field="vendor")

    def _settings(self, host: str, mask: Mask, **credentials: Any) -> HttpSettings:
        return self.settings(self.host or host, mask, port=self.port, **credentials)


@dataclass(frozen=True, kw_only=True)
class TwilioConfig(GatewayConfig):
    """A Twilio account: login and password are account SID and auth token, or key SID and secret."""

    login: str = option("", label="Account SID, or API key SID", help="AC... or SK...")
    password: str = option("", label="Auth token, or API key secret", secret=True)
    account: str = option("", label="Account SID", help="Required if the login is the SID of an API key.")

    @property
    def account_sid(self) -> str:
        """The SID of the account that owns the messages.

        :raises ConfigError: without one.
        """
        account = self.account or self.login
        if not _ACCOUNT.fullmatch(account):
            raise ConfigError(
                "the connection names no Twilio account",
                field="account" if self.account else "login",
                remedy="set the login to the account SID (AC...), or `account` if the login is an API key",
            )
        return account

    def http(self, mask: Mask) -> HttpSettings:
        if not (self.account_sid and _KEY_SID.fullmatch(self.login) and self.password):
            raise _missing("login" if self.password else "password", "SID and token")
        return self._settings("api.twilio.com", mask, login=self.login, password=self.password, auth="basic")


@dataclass(frozen=True, kw_only=True)
class VonageConfig(GatewayConfig):
    """A Vonage account: login and password are API key and secret."""

    login: str = option("", label="API key")
    password: str = option("", label="API secret", secret=True)

    def http(self, mask: Mask) -> HttpSettings:
        if not self.login or not self.password:
            raise _missing("password" if self.login else "login", "API key and secret")
        return self._settings("api.nexmo.com", mask, login=self.login, password=self.password, auth="basic")


@dataclass(frozen=True, kw_only=True)
class AzureConfig(GatewayConfig):
    """A resource of Azure Communication Services: host and access key."""

    password: str = option("", label="Access key", help="In base64, as the portal shows it.", secret=True)

    def http(self, mask: Mask) -> HttpSettings:
        from flowrunner_provider.sms.gateways.azure_acs import AccessKey

        if not self.host or not self.password:
            raise _missing("password" if self.host else "host", "endpoint and access key")
        settings = self._settings(self.host, mask)
        return replace(settings, credentials=AccessKey(self.password), secrets=(*settings.secrets, self.password))


@dataclass(frozen=True, kw_only=True)
class SnsConfig(GatewayConfig):
    """Amazon SNS through an ``aws`` connection: access key and secret, or the worker's own identity."""

    login: str = option("", label="Access key id")
    password: str = option("", label="Secret access key", secret=True)
    region: str = option("", label="Region", help="Such as eu-central-1; by default the connection's region_name.")
    session_token: str = option("", label="Session token", help="For temporary keys.", secret=True)
    profile: str = option("", label="Profile", help="Of the worker's AWS configuration; it may assume a role.")
    sms_type: Literal["Transactional", "Promotional"] = option("Transactional", label="Type of message")

    def http(self, mask: Mask) -> HttpSettings:
        if not _REGION.fullmatch(self.region):
            raise ConfigError("the connection names no region", field="region", remedy="set region_name in its extra")
        aws = {"region": self.region, "service": "sns", "session_token": self.session_token, "profile": self.profile}
        host = f"sns.{self.region}.amazonaws.com"
        keys = {"login": self.login, "password": self.password}
        return self._settings(host, mask, auth="aws_sigv4", aws=aws, **keys)


_AWS = {
    "region_name": "region",
    "aws_session_token": "session_token",
    "profile_name": "profile",
    "endpoint_url": "host",
}


def aws_values(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options from the extra of an official ``aws`` connection.

    :raises ConfigError: for ``role_arn``, which only a profile can assume here.
    """
    if extra.get("role_arn"):
        raise ConfigError(
            "role_arn is not assumed here",
            field="role_arn",
            remedy="name a profile of the worker's AWS configuration that assumes the role, with profile_name",
        )
    return {ours: extra[theirs] for theirs, ours in _AWS.items() if extra.get(theirs)}


def _missing(field: str, what: str) -> ConfigError:
    return MissingCredential(f"the connection lacks its {field}", field=field, remedy=f"give {what}")
