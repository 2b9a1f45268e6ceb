"""The hooks of SMS gateways, one for each vendor, and the way from a connection to its vendor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.runtime.hook import FlowRunnerHook, aconnection, connection, extra_of, options_of
from flowrunner_provider.runtime.masking import mask, masking_async
from flowrunner_provider.runtime.operator import run_to_end
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.sms.choices import Vendor
from flowrunner_provider.sms.config import (
    AzureConfig,
    GatewayConfig,
    SnsConfig,
    TwilioConfig,
    VonageConfig,
    aws_values,
)
from flowrunner_provider.sms.gateway import Gateway
from flowrunner_provider.transport.http import HttpTransport

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["AzureSmsHook", "SmsHook", "SnsSmsHook", "TwilioSmsHook", "VonageSmsHook", "asms_hook", "sms_hook"]

C = TypeVar("C", bound=GatewayConfig)

_TEST_SECONDS = 15.0


class SmsHook(FlowRunnerHook[C]):
    """What the hooks of all vendors have in common.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "sms_conn_id"
    default_conn_name: ClassVar[str] = "sms_default"
    hook_name: ClassVar[str] = "SMS"

    def gateway(self, http: HttpTransport) -> Gateway:
        """The vendor's API over ``http``."""
        raise ConfigError("there is no vendor", field="conn_type")

    @asynccontextmanager
    async def open(self, run: Run, *, rate_limit: str | None = None, mask_later: Mask = mask) -> AsyncIterator[Gateway]:
        """The vendor's API at the pace that all tasks of the connection share.

        :param rate_limit: goes before the connection's own.
        :param mask_later: told the secrets that turn up later.
        """
        async with masking_async():
            settings = self.config.http(mask_later)
            mask((*settings.secrets, *settings.credentials.secrets()))
        run.pacer = pacer_for(self.conn_id, rate_limit or self.config.rate_limit, self.config.burst)
        async with HttpTransport(settings, run) as http:
            yield self.gateway(http)

    def check(self) -> str:
        """Ask the vendor for something harmless, with the credentials."""
        run = Run.alone(timeout=_TEST_SECONDS, retry=RetryPlan(attempts=1))

        async def probe() -> str:
            async with self.open(run) as gateway:
                return await gateway.probe()

        return run_to_end(probe(), run.deadline)


class TwilioSmsHook(SmsHook[TwilioConfig]):
    """Reads an Airflow connection of type ``twilio``."""

    conn_type: ClassVar[str] = "twilio"
    hook_name: ClassVar[str] = "Twilio"
    config_type: ClassVar[type] = TwilioConfig

    def gateway(self, http: HttpTransport) -> Gateway:
        from flowrunner_provider.sms.gateways.twilio import TwilioGateway

        return TwilioGateway(http, self.config.account_sid)


class VonageSmsHook(SmsHook[VonageConfig]):
    """Reads an Airflow connection of type ``vonage``."""

    conn_type: ClassVar[str] = "vonage"
    hook_name: ClassVar[str] = "Vonage"
    config_type: ClassVar[type] = VonageConfig

    def gateway(self, http: HttpTransport) -> Gateway:
        from flowrunner_provider.sms.gateways.vonage import VonageGateway

        return VonageGateway(http)


class AzureSmsHook(SmsHook[AzureConfig]):
    """Reads an Airflow connection of type ``azure_acs``."""

    conn_type: ClassVar[str] = "azure_acs"
    hook_name: ClassVar[str] = "Azure Communication Services"
    config_type: ClassVar[type] = AzureConfig

    def gateway(self, http: HttpTransport) -> Gateway:
        from flowrunner_provider.sms.gateways.azure_acs import AzureGateway

        return AzureGateway(http)


class SnsSmsHook(SmsHook[SnsConfig]):
    """Reads an Airflow connection of type ``aws``; those of the official hook work, but for assumed roles."""

    conn_type: ClassVar[str] = "aws"
    hook_name: ClassVar[str] = "Amazon SNS"
    config_type: ClassVar[type] = SnsConfig
    service: ClassVar[str] = "sns"

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Standard fields and official extras, over which our own options go."""
        values = {**aws_values(extra_of(found)), **super().values(found)}
        values.pop("host", None)  # the official hook ignores the field, too
        endpoint = options_of(found, cls.service).get("host") or extra_of(found).get("endpoint_url")
        return {**values, "host": endpoint} if endpoint else values

    def gateway(self, http: HttpTransport) -> Gateway:
        from flowrunner_provider.sms.gateways.sns import SnsGateway

        return SnsGateway(http, self.config.sms_type)


_HOOKS: dict[str, Callable[[str], SmsHook[Any]]] = {
    "twilio": TwilioSmsHook,
    "vonage": VonageSmsHook,
    "azure_acs": AzureSmsHook,
    "aws": SnsSmsHook,
    "sns": SnsSmsHook,
}


def sms_hook(conn_id: str) -> SmsHook[Any]:
    """The hook of the vendor that the connection names.

    :raises ConfigError: if it names none.
    """
    return _hook_of(connection(conn_id))


async def asms_hook(conn_id: str) -> SmsHook[Any]:
    """:func:`sms_hook` without blocking the event loop; its configuration is read already."""
    async with masking_async():
        hook = _hook_of(await aconnection(conn_id))
        await hook.aload()
    return hook


def _hook_of(found: Connection) -> SmsHook[Any]:
    name = options_of(found).get("vendor") or found.conn_type
    if name not in _HOOKS:
        raise ConfigError(
            f"connection {found.conn_id!r} of type {found.conn_type!r} names no vendor of text messages",
            field="vendor",
            remedy=f'set {{"flowrunner": {{"vendor": "..."}}}} in its extra, to one of {", ".join(get_args(Vendor))}',
        )
    return _HOOKS[name](found.conn_id)
