"""The operators for chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from flowrunner_provider.chat.choices import OnUnknown
from flowrunner_provider.chat.results import Posted, SlackMessage
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["ChatPostOperator", "SlackUpsertOperator", "TeamsPostOperator"]


class TeamsPostOperator(FlowRunnerOperator):
    """The workflow of a Teams channel or chat has taken the card; it posts it a moment later.

    Killed or retried, a card that is known not to have been taken is sent again; of one whose answer was lost nobody
    can tell, as workflows know no token, and ``on_unknown`` decides. The address of the Workflows webhook ("When a
    Teams webhook request is received") is the password of the connection, of type ``teams``. Up to 28,000 bytes.

    :param text: shown as a text of the card.
    :param title: shown above it.
    :param facts: a table of names and values.
    :param links: label -> address, shown as buttons.
    :param card: an Adaptive Card (up to 1.5) instead of these.
    :param card_file: a JSON file with one; it is not rendered.
    :param mentions: people to notify, ``{"name": "Ann", "id": "ann@example.com"}``; ``<at>Ann</at>`` says where.
    :param teams_conn_id: the connection.
    :param on_unknown: when nobody can tell: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
    """

    action: ClassVar[str] = "teams.post"
    template_fields: Sequence[str] = (
        "text",
        "title",
        "facts",
        "links",
        "card",
        "card_file",
        "mentions",
        "teams_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"card": "json", "facts": "json"}

    def __init__(
        self,
        *,
        text: str | None = None,
        title: str | None = None,
        facts: dict[str, Any] | None = None,
        links: dict[str, str] | None = None,
        card: dict[str, Any] | None = None,
        card_file: str | None = None,
        mentions: list[dict[str, str]] | None = None,
        teams_conn_id: str = "teams_default",
        on_unknown: OnUnknown = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text, self.title, self.facts, self.links = text, title, facts, links
        self.card, self.card_file, self.mentions = card, card_file, mentions
        self.teams_conn_id, self.on_unknown = teams_conn_id, on_unknown

    async def perform(self, run: Run) -> Posted:
        from flowrunner_provider.chat.cards import with_mentions
        from flowrunner_provider.chat.gateway import Message
        from flowrunner_provider.chat.hook import chat_hook
        from flowrunner_provider.chat.post import post_once
        from flowrunner_provider.http.operators.arguments import one_of

        one_of("on_unknown", self.on_unknown, OnUnknown)
        message = Message(card=with_mentions(self._card(), _mappings(self.mentions, "mentions")))
        async with chat_hook(self.teams_conn_id, "teams").open(run) as gateway:
            return await post_once(gateway, message, run, action=self.action, on_unknown=self.on_unknown)

    def _card(self) -> dict[str, Any]:
        from flowrunner_provider.chat.cards import adaptive_card, checked, read_card
        from flowrunner_provider.http.operators.arguments import mapping

        parts = {"text": self.text, "title": self.title, "facts": self.facts, "links": self.links}
        given = [name for name, value in parts.items() if value]
        ways = [bool(given), self.card is not None, self.card_file is not None]
        if sum(ways) != 1:
            raise ConfigError(
                "the card is given in no way, or in several",
                field="card",
                remedy="give text, title, facts and links; or card; or card_file",
            )
        if self.card_file is not None:
            return read_card(self.card_file)
        if self.card is not None:
            return checked(self.card, "card")
        return adaptive_card(
            title=self.title or "",
            text=self.text or "",
            facts=mapping(self.facts, "facts"),
            links=mapping(self.links, "links"),
        )


class ChatPostOperator(FlowRunnerOperator):
    """Google Chat, Discord, Telegram, Mattermost or Teams has taken the message, and the result has its id.

    Killed or retried, the message is posted once where the platform helps: Google Chat recognises our id for ever, a
    bot of Discord its nonce for two minutes, and the posts of a Mattermost channel tell a bot whether one was taken;
    of a lost answer of a Discord or Mattermost webhook, of Telegram and of Teams nobody can tell, and ``on_unknown``
    decides. The platform is the type of the connection, or its ``platform`` option; its password is the address of
    a webhook, or the token of a bot. Texts that the platform would cut are refused: Google Chat takes 32,000 bytes,
    Discord 2,000 characters, Telegram 4,096, Mattermost 16,383. Mentions in a text for Discord notify nobody.

    :param text: in the platform's own markup.
    :param card: in the platform's own JSON: a card of Google Chat, an embed of Discord, an attachment of Mattermost,
        an Adaptive Card.
    :param thread_key: the thread: any text for Google Chat, the id of a thread (Discord), a topic (Telegram) or of
        the first post (Mattermost).
    :param channel: the id of the channel or chat for bots; by default the connection's.
    :param chat_conn_id: the connection.
    :param on_unknown: when nobody can tell: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
    """

    action: ClassVar[str] = "chat.post"
    template_fields: Sequence[str] = ("text", "card", "thread_key", "channel", "chat_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"card": "json"}

    def __init__(
        self,
        *,
        text: str | None = None,
        card: dict[str, Any] | None = None,
        thread_key: str | None = None,
        channel: str | None = None,
        chat_conn_id: str = "chat_default",
        on_unknown: OnUnknown = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text, self.card, self.thread_key, self.channel = text, card, thread_key, channel
        self.chat_conn_id, self.on_unknown = chat_conn_id, on_unknown

    async def perform(self, run: Run) -> Posted:
        from flowrunner_provider.chat.cards import adaptive_card
        from flowrunner_provider.chat.gateway import Message
        from flowrunner_provider.chat.hook import chat_hook
        from flowrunner_provider.chat.post import post_once
        from flowrunner_provider.http.operators.arguments import mapping, one_of

        one_of("on_unknown", self.on_unknown, OnUnknown)
        hook = chat_hook(self.chat_conn_id)
        text, card = self.text or "", mapping(self.card, "card") or None
        if hook.conn_type == "teams" and card is None and text.strip():
            card = adaptive_card(text=text)
        message = Message(
            text=text, card=card, thread=self.thread_key or "", channel=self.channel or hook.config.channel
        )
        async with hook.open(run) as gateway:
            return await post_once(gateway, message, run, action=self.action, on_unknown=self.on_unknown)


class SlackUpsertOperator(FlowRunnerOperator):
    """The message is in the channel with this content: posted, or changed if it was there already.

    Killed or retried, it is not posted twice: it carries a key in its metadata, by which the channel's history tells
    whether an earlier attempt has posted it; changing it twice is like once. Without ``ts`` and ``message_key`` the
    message is this task's own. With ``message_key`` tasks and runs share one: the first posts it, later ones change
    it; two that run at the same moment may both post. Slack's Retry-After is kept to.

    The connection is one of type ``slack``, with a bot's token of the scopes ``chat:write`` and, for the history,
    ``channels:history`` (``groups:history``, ``im:history``). At most 40,000 characters and 50 blocks.

    :param channel: the id of the channel, ``C0123456789``.
    :param text: of the message; with blocks it is what notifications show.
    :param blocks: of the Block Kit.
    :param thread_ts: makes it a reply to the message with this timestamp.
    :param ts: change this message.
    :param message_key: names the message over tasks and runs, e.g. ``load-{{ ds }}``.
    :param lookback: how far back the message with that key may be.
    :param slack_conn_id: the connection.
    :param on_unknown: when the history cannot be read: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
    """

    action: ClassVar[str] = "slack.upsert"
    template_fields: Sequence[str] = ("channel", "text", "blocks", "thread_ts", "ts", "message_key", "slack_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"blocks": "json"}

    def __init__(
        self,
        *,
        channel: str,
        text: str | None = None,
        blocks: list[dict[str, Any]] | None = None,
        thread_ts: str | None = None,
        ts: str | None = None,
        message_key: str | None = None,
        lookback: str | float | timedelta = "7d",
        slack_conn_id: str = "slack_api_default",
        on_unknown: OnUnknown = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channel, self.text, self.blocks, self.thread_ts = channel, text, blocks, thread_ts
        self.ts, self.message_key, self.lookback = ts, message_key, lookback
        self.slack_conn_id, self.on_unknown = slack_conn_id, on_unknown

    async def perform(self, run: Run) -> SlackMessage:
        from flowrunner_provider.chat.hook import FlowRunnerSlackHook
        from flowrunner_provider.chat.slack import Upsert, upsert
        from flowrunner_provider.http.operators.arguments import one_of

        one_of("on_unknown", self.on_unknown, OnUnknown)
        wanted = Upsert(
            channel=self.channel,
            text=self.text or "",
            blocks=tuple(_mappings(self.blocks, "blocks")),
            thread_ts=self.thread_ts or "",
            ts=self.ts or "",
            message_key=self.message_key or "",
            lookback=parse_duration(self.lookback, "lookback"),
            on_unknown=self.on_unknown,
        )
        wanted.check()
        async with FlowRunnerSlackHook(self.slack_conn_id).transport(run) as http:
            return await upsert(http, wanted, run)


def _mappings(value: Any, field: str) -> list[Mapping[str, Any]]:
    if value is not None and not (isinstance(value, list | tuple) and all(isinstance(each, Mapping) for each in value)):
        raise ConfigError(f"{field} must be a list of mappings", field=field, remedy="write [{...}]")
    return list(value or ())
