"""The hooks of chat platforms, and the way from a connection to its platform."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from flowrunner_provider.chat.choices import Platform
from flowrunner_provider.chat.config import ChatConfig, SlackConfig, slack_values
from flowrunner_provider.chat.gateway import ChatGateway
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.runtime.hook import FlowRunnerHook, aconnection, connection, extra_of, options_of
from flowrunner_provider.runtime.masking import mask, masking_async
from flowrunner_provider.runtime.operator import run_to_end
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = [
    "ChatHook",
    "DiscordHook",
    "FlowRunnerSlackHook",
    "GoogleChatHook",
    "MattermostHook",
    "TeamsHook",
    "TelegramHook",
    "achat_hook",
    "chat_hook",
]

_TEST_SECONDS = 15.0


class ChatHook(FlowRunnerHook[ChatConfig]):
    """Reads a connection to a webhook or a bot.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "chat_conn_id"
    default_conn_name: ClassVar[str] = "chat_default"
    config_type: ClassVar[type] = ChatConfig

    def gateway(self, http: HttpTransport) -> ChatGateway:
        """Return the platform's API over ``http``."""
        raise ConfigError("there is no platform", field="platform")

    @asynccontextmanager
    async def open(self, run: Run, *, mask_later: Mask = mask) -> AsyncIterator[ChatGateway]:
        """Open the platform's API with the rate limit that all tasks of the connection share.

        :param mask_later: called with secrets that appear later, such as tokens.
        """
        async with masking_async():
            config = self.config
            settings = config.http(self.conn_type, mask_later)
            mask((*settings.secrets, *settings.credentials.secrets()))
        run.pacer = pacer_for(self.conn_id, config.rate_limit, config.burst)
        async with HttpTransport(settings, run) as http:
            yield self.gateway(http)

    def check(self) -> str:
        """Test the connection with a harmless request; nothing is posted."""

        async def probe(run: Run) -> str:
            async with self.open(run) as gateway:
                return await gateway.probe()

        return _tested(probe)


class TeamsHook(ChatHook):
    """Reads an Airflow connection of type ``teams``: a Workflows webhook."""

    conn_type: ClassVar[str] = "teams"
    hook_name: ClassVar[str] = "Microsoft Teams (Workflows)"

    def gateway(self, http: HttpTransport) -> ChatGateway:
        from flowrunner_provider.chat.platforms.teams import TeamsGateway

        return TeamsGateway(http, self.config.endpoint)


class GoogleChatHook(ChatHook):
    """Reads an Airflow connection of type ``google_chat``: an incoming webhook."""

    conn_type: ClassVar[str] = "google_chat"
    hook_name: ClassVar[str] = "Google Chat"

    def gateway(self, http: HttpTransport) -> ChatGateway:
        from flowrunner_provider.chat.platforms.google_chat import GoogleChatGateway

        return GoogleChatGateway(http, self.config.endpoint)


class DiscordHook(ChatHook):
    """Reads an Airflow connection of type ``discord``: a webhook, or a bot."""

    conn_type: ClassVar[str] = "discord"
    hook_name: ClassVar[str] = "Discord"

    def gateway(self, http: HttpTransport) -> ChatGateway:
        from flowrunner_provider.chat.platforms.discord import DiscordBotGateway, DiscordWebhookGateway

        config = self.config
        return DiscordWebhookGateway(http, config.endpoint) if config.is_webhook else DiscordBotGateway(http)


class TelegramHook(ChatHook):
    """Reads an Airflow connection of type ``telegram``: a bot."""

    conn_type: ClassVar[str] = "telegram"
    hook_name: ClassVar[str] = "Telegram"

    def gateway(self, http: HttpTransport) -> ChatGateway:
        from flowrunner_provider.chat.platforms.telegram import TelegramGateway

        if self.config.is_webhook:
            raise ConfigError("Telegram has no webhooks for this", field="password", remedy="put the bot's token there")
        return TelegramGateway(http, self.config.password)


class MattermostHook(ChatHook):
    """Reads an Airflow connection of type ``mattermost``: a bot, or an incoming webhook."""

    conn_type: ClassVar[str] = "mattermost"
    hook_name: ClassVar[str] = "Mattermost"

    def gateway(self, http: HttpTransport) -> ChatGateway:
        from flowrunner_provider.chat.platforms.mattermost import MattermostBotGateway, MattermostWebhookGateway

        config = self.config
        return MattermostWebhookGateway(http, config.endpoint) if config.is_webhook else MattermostBotGateway(http)


class FlowRunnerSlackHook(FlowRunnerHook[SlackConfig]):
    """Reads an Airflow connection of type ``slack``; those of the official hook work unchanged.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "slack_conn_id"
    default_conn_name: ClassVar[str] = "slack_api_default"
    conn_type: ClassVar[str] = "slack"
    hook_name: ClassVar[str] = "Slack API"
    config_type: ClassVar[type] = SlackConfig
    reads: ClassVar[tuple[str, ...]] = ("slack",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Standard fields and official extras, over which our own options go."""
        return {**slack_values(extra_of(found)), **super().values(found)}

    def transport(self, run: Run) -> HttpTransport:
        """A transport for this connection, at the pace that all tasks of the connection share."""
        config = self.config
        settings: HttpSettings = config.http(mask)
        mask((*settings.secrets, *settings.credentials.secrets()))
        run.pacer = pacer_for(self.conn_id, config.rate_limit, config.burst)
        return HttpTransport(settings, run)

    def check(self) -> str:
        """Ask Slack who the token is."""
        from flowrunner_provider.chat.slack import Slack

        async def probe(run: Run) -> str:
            async with self.transport(run) as http:
                return await Slack(http).probe()

        return _tested(probe)


_HOOKS: dict[str, Callable[[str], ChatHook]] = {
    "teams": TeamsHook,
    "google_chat": GoogleChatHook,
    "discord": DiscordHook,
    "telegram": TelegramHook,
    "mattermost": MattermostHook,
}


def chat_hook(conn_id: str, only: Platform | None = None) -> ChatHook:
    """The hook of the platform that the connection names.

    :param only: the one that it must be.
    :raises ConfigError: if it names none, or another one.
    """
    return _hook_of(connection(conn_id), only)


async def achat_hook(conn_id: str, only: Platform | None = None) -> ChatHook:
    """:func:`chat_hook` without blocking the event loop; its configuration is read already."""
    async with masking_async():
        hook = _hook_of(await aconnection(conn_id), only)
        await hook.aload()
    return hook


def _hook_of(found: Connection, only: Platform | None) -> ChatHook:
    name = options_of(found).get("platform") or found.conn_type
    wanted = [only] if only else list(get_args(Platform))
    if name not in wanted:
        raise ConfigError(
            f"connection {found.conn_id!r} of type {found.conn_type!r} leads to no {' or '.join(map(str, wanted))}",
            field="platform",
            remedy=f'set {{"flowrunner": {{"platform": "..."}}}} in its extra, to one of {", ".join(map(str, wanted))}',
        )
    return _HOOKS[name](found.conn_id)


def _tested(probe: Callable[[Run], Awaitable[str]]) -> str:
    run = Run.alone(timeout=_TEST_SECONDS, retry=RetryPlan(attempts=1))

    async def bounded() -> str:
        return await probe(run)

    return run_to_end(bounded(), run.deadline)
