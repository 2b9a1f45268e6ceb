"""Hooks of connections that send mail: ``smtp`` with the official provider's fields, and the lookup of all others."""

from __future__ import annotations

import base64
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.rate_limit import Pacer
from flowrunner_provider.email.config import OutgoingConfig, SmtpConfig, official_values
from flowrunner_provider.email.dkim import DkimSigner
from flowrunner_provider.email.smtp import SmtpTransport
from flowrunner_provider.email.transport import Transport
from flowrunner_provider.runtime.hook import FlowRunnerHook, connection, extra_of
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.runtime.operator import run_to_end
from flowrunner_provider.runtime.rate_limits import pacer_for

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerSmtpHook", "OutgoingHook", "outgoing"]

C = TypeVar("C", bound=OutgoingConfig)

_OTHERS = {"aws": ("flowrunner_provider.email.hooks.ses", "FlowRunnerSesHook")}
"""Connection type -> its hook, where that is not SMTP."""


def outgoing(conn_id: str) -> OutgoingHook[Any]:
    """Return the hook for a connection's type.

    :raises ConfigError: for a type that cannot send mail.
    """
    kind = connection(conn_id).conn_type or "smtp"
    if kind == "smtp":
        return FlowRunnerSmtpHook(conn_id)
    if kind not in _OTHERS:
        raise ConfigError(
            f"connection {conn_id!r} is of type {kind!r}, which sends no mail",
            field="conn_type",
            remedy=f"use a connection of type smtp, {', '.join(_OTHERS)}",
        )
    module, name = _OTHERS[kind]
    return cast("OutgoingHook[Any]", getattr(import_module(module), name)(conn_id))


class OutgoingHook(FlowRunnerHook[C]):
    """Base class of the hooks that send mail.

    :param conn_id: the connection.
    """

    @property
    def transport(self) -> Transport:
        """The transport of this connection."""
        raise ConfigError(f"{type(self).__name__} sends nothing", field="conn_type")

    @property
    def pacer(self) -> Pacer:
        """The connection's rate limit."""
        return self.pace(None)

    def pace(self, rate_limit: str | None) -> Pacer:
        """Return the rate limit: the given one, else that of the connection."""
        return pacer_for(self.conn_id, rate_limit or self.config.rate_limit or None, self.config.burst)

    @property
    def seal(self) -> DkimSigner | None:
        """The signer with the connection's DKIM key; None without one."""
        config = self.config
        if not config.dkim_private_key:
            return None
        return DkimSigner(
            domain=config.dkim_domain,
            selector=config.dkim_selector,
            private_key=config.dkim_private_key,
            rewrites=self.transport.capabilities.rewrites,
        )


class FlowRunnerSmtpHook(OutgoingHook[SmtpConfig]):
    """A mail server of an ``smtp`` connection.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "smtp_conn_id"
    default_conn_name: ClassVar[str] = "smtp_default"
    conn_type: ClassVar[str] = "smtp"
    hook_name: ClassVar[str] = "SMTP"
    config_type = SmtpConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        return {**official_values(extra_of(found)), **super().values(found)}

    @property
    def transport(self) -> SmtpTransport:
        """The SMTP transport of this connection."""
        config = self.config
        mask(_encoded(config))
        return SmtpTransport(config)

    def check(self) -> str:
        """Connect, negotiate TLS, log in and send NOOP; no mail is sent."""
        config, transport = self.config, self.transport
        deadline = Deadline(4 * config.timeout)
        return run_to_end(_checked(transport, deadline), deadline)


async def _checked(transport: SmtpTransport, deadline: Deadline) -> str:
    config = transport.config
    session = await transport.login(deadline)
    try:
        await session.noop()
        cipher = session.line.info("cipher")
    finally:
        await session.close()
    verified = "certificate verified" if config.verify else "certificate NOT verified"
    safety = f"{cipher[1]}, {verified}" if cipher else "NOT encrypted"
    login = f"logged in as {config.user}" if config.user else "no login"
    return f"mail server {config.server} answers; {safety}; {login}"


def _encoded(config: SmtpConfig) -> list[str]:
    """Return the secrets as they appear on the wire, in case a server echoes them."""
    plain = f"\0{config.login}\0{config.password}" if config.password else ""
    bearer = f"user={config.user}\x01auth=Bearer {config.access_token}\x01\x01" if config.access_token else ""
    return [base64.b64encode(text.encode()).decode() for text in (plain, bearer) if text]
