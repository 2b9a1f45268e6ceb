"""What the chat tests play with: a fake platform, and the connection to it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.runtime.rate_limits import pacer_for
from tests.support.chat_platforms import (
    DiscordFake,
    GoogleChatFake,
    MattermostFake,
    SlackFake,
    TeamsFake,
    TelegramFake,
)

FAKES = {
    "teams": TeamsFake,
    "google_chat": GoogleChatFake,
    "discord": DiscordFake,
    "discord_bot": DiscordFake,
    "telegram": TelegramFake,
    "mattermost": MattermostFake,
    "mattermost_bot": MattermostFake,
    "slack": SlackFake,
}
SECRETS = (
    "canary-teams-signature", "canary-google-token", "canary-discord-webhook-token", "canary-discord-token",
    "123:canary-telegram-token", "canary_mattermost_hook", "canary-mattermost-token", "xoxb-canary-slack-token",
)  # fmt: skip


def connection(name: str, url: str, channel: str, **options: Any) -> str:
    """The JSON of a connection to the fake at ``url``, which leads to ``channel``."""
    secret = {
        "teams": f"{url}/workflows/{channel}/triggers/manual/paths/invoke?api-version=1&sig=canary-teams-signature",
        "google_chat": f"{url}/v1/spaces/{channel}/messages?key=canary-google-key&token=canary-google-token",
        "discord": f"{url}/api/webhooks/{channel}/canary-discord-webhook-token",
        "discord_bot": "canary-discord-token",
        "telegram": "123:canary-telegram-token",
        "mattermost": f"{url}/hooks/canary_mattermost_hook_{channel}",
        "mattermost_bot": "canary-mattermost-token",
        "slack": "xoxb-canary-slack-token",
    }[name]
    value: dict[str, Any] = {"conn_type": name.removesuffix("_bot"), "password": secret}
    ours = {"trust_env": False, **options}
    if name == "slack":
        return json.dumps({**value, "extra": {"base_url": f"{url}/api/", "flowrunner": ours}})
    if not secret.startswith("http"):
        value["host"] = url
        ours = {"channel": channel, **ours}
    return json.dumps({**value, "extra": {"flowrunner": ours}})


@dataclass
class Platform:
    """A fake, seen through one channel."""

    name: str
    fake: Any
    server: Any
    channel: str = "C0TEAM1"

    @property
    def posted(self):
        return self.fake.posted(self.channel)

    @property
    def faults(self):
        return self.fake.faults[self.channel]

    def connect(self, **options: Any) -> None:
        text = connection(self.name, self.server.url, self.channel, **options)
        for conn_id in ("CHAT_DEFAULT", "TEAMS_DEFAULT", "SLACK_API_DEFAULT"):
            os.environ[f"AIRFLOW_CONN_{conn_id}"] = text
        pacer_for.cache_clear()
