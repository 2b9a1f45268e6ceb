"""The hook of ``imap`` connections: the official provider's fields, plus our options."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import AccessDenied
from flowrunner_provider.email.mailbox.imap import ImapSession
from flowrunner_provider.email.mailbox.imap_config import ImapConfig, official_imap_values
from flowrunner_provider.runtime.hook import FlowRunnerHook, extra_of
from flowrunner_provider.runtime.masking import mask, mask_soon, masking_async
from flowrunner_provider.runtime.operator import run_to_end

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.transport.oauth import OAuthCredentials
    from flowrunner_provider.transport.oauth_settings import OAuthSettings

__all__ = ["FlowRunnerImapHook"]


class FlowRunnerImapHook(FlowRunnerHook[ImapConfig]):
    """A mailbox from an ``imap`` connection.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "imap_conn_id"
    default_conn_name: ClassVar[str] = "imap_default"
    conn_type: ClassVar[str] = "imap"
    hook_name: ClassVar[str] = "IMAP"
    config_type: ClassVar[type] = ImapConfig
    reads: ClassVar[tuple[str, ...]] = ("imap",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """The standard fields, the official extras, and our options."""
        return {**official_imap_values(extra_of(found)), **super().values(found)}

    def connector(self, *, mask_later: Callable[..., None] = mask) -> Callable[[Deadline], Awaitable[ImapSession]]:
        """Return a function that opens sessions of this connection. A refused token is renewed once.

        :param mask_later: called with secrets that appear later, such as tokens.
        """
        config = self.config
        config.require_login()
        settings = config.oauth_settings
        mask([_encoded(config, config.access_token), _encoded(config, config.password)])
        if settings is None:
            return _Connector(config, None, mask_later)
        credentials = _credentials(config, settings, mask_later)
        mask(credentials.secrets())
        return _Connector(config, credentials, mask_later)

    async def aconnector(self) -> Callable[[Deadline], Awaitable[ImapSession]]:
        """Return :meth:`connector` for the triggerer: the connection is read without blocking its event loop."""
        async with masking_async():
            await self.aload()
            return self.connector(mask_later=mask_soon)

    def check(self) -> str:
        """Connect, make it safe, log in, say NOOP."""
        deadline = Deadline(4 * self.config.timeout)
        return run_to_end(_checked(self.connector(), self.config, deadline), deadline)


def _credentials(config: ImapConfig, settings: OAuthSettings, mask_later: Callable[..., None]) -> OAuthCredentials:
    """Where tokens come from; imported here, as a password needs no HTTP."""
    from flowrunner_provider.runtime.secret_store import SecretStore
    from flowrunner_provider.transport.http_settings import TlsOptions
    from flowrunner_provider.transport.oauth import OAuthCredentials

    rotates = config.grant == "oauth2_refresh_token" and config.rotated_tokens == "file"
    return OAuthCredentials(
        settings,
        store=SecretStore("oauth") if rotates else None,
        tls=TlsOptions(ca_file=str(config.oauth.get("ca_file") or "")),
        mask=mask_later,
    )


class _Connector:
    def __init__(
        self, config: ImapConfig, credentials: OAuthCredentials | None, mask_later: Callable[..., None]
    ) -> None:
        self._config, self._credentials, self._mask = config, credentials, mask_later

    async def __call__(self, deadline: Deadline) -> ImapSession:
        if self._credentials is None:
            return await self._open(self._config.access_token or self._config.password, deadline)
        from flowrunner_provider.transport.http_settings import Refused

        sent = await self._credentials.headers()
        try:
            return await self._open(_token(sent), deadline)
        except AccessDenied:
            if not await self._credentials.renew(Refused(sent=sent)):
                raise
        return await self._open(_token(await self._credentials.headers()), deadline)

    async def _open(self, secret: str, deadline: Deadline) -> ImapSession:
        self._mask([_encoded(self._config, secret)])
        session = ImapSession(self._config, secret, deadline)
        await session.open()
        return session


def _token(headers: Any) -> str:
    return str(headers["Authorization"]).removeprefix("Bearer ")


def _encoded(config: ImapConfig, secret: str) -> str:
    """The secret as it travels, in case a server repeats what it was told."""
    if not secret:
        return ""
    plain = config.grant == "password"
    text = f"\0{config.login}\0{secret}" if plain else f"user={config.login}\x01auth=Bearer {secret}\x01\x01"
    return base64.b64encode(text.encode()).decode()


async def _checked(
    connect: Callable[[Deadline], Awaitable[ImapSession]], config: ImapConfig, deadline: Deadline
) -> str:
    session = await connect(deadline)
    try:
        await session.noop()
        cipher = session.cipher
    finally:
        await session.close()
    verified = "certificate verified" if config.verify else "certificate NOT verified"
    safety = f"{cipher}, {verified}" if cipher else "NOT encrypted"
    return f"mail server {config.server} answers; {safety}; logged in as {config.login}"
