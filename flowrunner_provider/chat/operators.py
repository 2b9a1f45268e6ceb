"""The operators that post to chat platforms."""

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
    """On success, the workflow of a Teams channel or chat has accepted the card, which appears a moment later.

    A killed or retried task posts the card again only if it was certainly not accepted. Workflows support no
    idempotency token, so nobody knows the outcome of a request whose answer was lost, and ``on_unknown`` decides. The
    connection, of type ``teams``, has the URL of the Workflows webhook ("When a Teams webhook request is received") as
    its password. Limit: 28,000 bytes.

    :param text: text of the card.
    :param title: title of the card.
    :param facts: table of names and values.
    :param links: buttons, label -> URL.
    :param card: a complete Adaptive Card (up to 1.5), in place of the parameters above.
    :param card_file: a JSON file with a complete Adaptive Card; it is not rendered.
    :param mentions: people to notify, ``{"name": "Ann", "id": "ann@example.com"}``. ``<at>Ann</at>`` in a text marks
        the place; otherwise the mention is appended.
    :param teams_conn_id: a connection of type ``teams``.
    :param on_unknown: what to do if an earlier attempt may have posted the card: ``stop``; ``resend`` it, which may
        post it twice; or ``skip`` it.
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
    """On success, Google Chat, Discord, Telegram, Mattermost or Teams has accepted the message, and the result has its
    id.

    A killed or retried task posts the message once where the platform allows it: Google Chat recognises our message id
    without a time limit, Discord recognises a bot's nonce for two minutes, and a Mattermost bot can search the
    channel's posts. For webhooks of Discord and Mattermost, for Telegram and for Teams, nobody knows the outcome of a
    request whose answer was lost, and ``on_unknown`` decides.

    The connection's type, or its ``platform`` option, selects the platform. Its password is the URL of a webhook or the
    token of a bot. A text that the platform would truncate is refused: the limit is 32,000 bytes for Google Chat and
    2,000 (Discord), 4,096 (Telegram) or 16,383 (Mattermost) characters. Mentions in a Discord text notify nobody.

    :param text: the text, in the platform's own markup.
    :param card: rich content in the platform's own JSON: a Google Chat card, a Discord embed, a Mattermost attachment,
        or an Adaptive Card.
    :param thread_key: the thread: any text for Google Chat, a thread id (Discord), a topic id (Telegram), or the id of
        the first post (Mattermost).
    :param channel: id of the channel or chat, for bots; by default the connection's.
    :param chat_conn_id: the connection to the platform.
    :param on_unknown: what to do if an earlier attempt may have posted the message: ``stop``; ``resend`` it, which may
        post it twice; or ``skip`` it.
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
    """On success, the channel has the message with this content: posted, or updated if it existed.

    A killed or retried task does not post it twice: the message carries a key in its metadata, and the retry searches
    the channel's history for it; repeating an update is harmless. Without ``ts`` and ``message_key``, the message
    belongs to this task. With ``message_key``, tasks and runs share a message: the first one posts it, later ones
    update it. Two tasks that run at the same moment may both post. Slack's Retry-After is respected.

    The connection, of type ``slack``, has a bot token with the scope ``chat:write`` and, for the history,
    ``channels:history`` (``groups:history``, ``im:history``). Limit: 40,000 characters and 50 blocks.

    :param channel: id of the channel, ``C0123456789``.
    :param text: the text; with ``blocks``, the text of notifications.
    :param blocks: Block Kit blocks.
    :param thread_ts: timestamp of the message to reply to.
    :param ts: timestamp of the message to update.
    :param message_key: name of the message, shared by tasks and runs, e.g. ``load-{{ ds }}``.
    :param lookback: how far back to search for the message with that key.
    :param slack_conn_id: a connection of type ``slack``.
    :param on_unknown: what to do if the history cannot be read: ``stop``; ``resend`` it, which may post it twice; or
        ``skip`` it.
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
