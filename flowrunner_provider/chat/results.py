"""Results of the chat actions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Posted", "SlackMessage"]


@dataclass(frozen=True, kw_only=True)
class Posted:
    """A message that the platform has accepted.

    :param platform: display name of the platform.
    :param message_id: the platform's id; empty if it returns none.
    :param unknown: True if nobody knows whether it was posted, after ``on_unknown="skip"``.
    """

    platform: str
    message_id: str
    unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class SlackMessage:
    """A message in Slack.

    :param channel: id of its channel.
    :param ts: its timestamp, which is its id; pass it on as ``thread_ts`` or ``ts``.
    :param updated: True if an existing message was updated.
    :param unknown: True if nobody knows whether it was posted, after ``on_unknown="skip"``.
    """

    channel: str
    ts: str
    updated: bool = False
    unknown: bool = False
