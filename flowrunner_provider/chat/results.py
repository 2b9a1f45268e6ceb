"""What the chat actions return."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Posted", "SlackMessage"]


@dataclass(frozen=True, kw_only=True)
class Posted:
    """A message that the platform has taken.

    :param platform: its name for people.
    :param message_id: the platform's own; empty where it tells none.
    :param unknown: nobody knows whether it was posted, after ``on_unknown="skip"``.
    """

    platform: str
    message_id: str
    unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class SlackMessage:
    """A message in Slack.

    :param channel: its channel.
    :param ts: its timestamp, which is its id; pass it as ``thread_ts`` or ``ts`` later.
    :param updated: True when a message that was there already has been changed.
    :param unknown: nobody knows whether it was posted, after ``on_unknown="skip"``.
    """

    channel: str
    ts: str
    updated: bool = False
    unknown: bool = False
