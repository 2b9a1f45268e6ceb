"""The ``smtp`` connection, as the official provider defines it, with our options."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.rate_limit import Pacer
from flowrunner_provider.email.config import SmtpConfig, official_values
from flowrunner_provider.email.smtp import SmtpTransport
from flowrunner_provider.runtime.hook import FlowRunnerHook, extra_of
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.runtime.operator import run_to_end
from flowrunner_provider.runtime.rate_limits import pacer_for

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerSmtpHook"]


class FlowRunnerSmtpHook(FlowRunnerHook[SmtpConfig]):
    """A mail server from an ``smtp`` connection.

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
        """Sends through this connection."""
        config = self.config
        mask(_encoded(config))
        return SmtpTransport(config)

    @property
    def pacer(self) -> Pacer:
        """The connection's rate limit."""
        return pacer_for(self.conn_id, self.config.rate_limit or None, self.config.burst)

    def check(self) -> str:
        """Connect, make it safe, log in, say NOOP; nothing is sent."""
        config, transport = self.config, self.transport
        deadline = Deadline(4 * config.timeout)
        return run_to_end(_checked(transport, deadline), deadline)


async def _checked(transport: SmtpTransport, deadline: Deadline) -> str:
    config = transport.config
    session = await transport.login(deadline)
    try:
        await session.noop()
        cipher = session.client.get_transport_info("cipher")
    finally:
        await session.close()
    verified = "certificate verified" if config.verify else "certificate NOT verified"
    safety = f"{cipher[1]}, {verified}" if cipher else "NOT encrypted"
    login = f"logged in as {config.user}" if config.user else "no login"
    return f"mail server {config.server} answers; {safety}; {login}"


def _encoded(config: SmtpConfig) -> list[str]:
    """The secrets as they travel, in case a server repeats what it was told."""
    plain = f"\0{config.login}\0{config.password}" if config.password else ""
    bearer = f"user={config.user}\x01auth=Bearer {config.access_token}\x01\x01" if config.access_token else ""
    return [base64.b64encode(text.encode()).decode() for text in (plain, bearer) if text]
