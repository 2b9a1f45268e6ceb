"""Posts or updates one Slack message (Web API: chat.*, conversations.*).

Slack supports no idempotency token, but it keeps a message's metadata. Our key in the metadata shows, in the
channel's history, whether a message was posted and which one to update.
https://docs.slack.dev/reference/methods/chat.postMessage · https://docs.slack.dev/messaging/message-metadata
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flowrunner_provider.chat.gateway import JSON, encoded, object_of
from flowrunner_provider.chat.results import SlackMessage
from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Throttled,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.handover import FarSide, hand_over
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["Slack", "Upsert", "upsert"]

_ACTION = "slack.upsert"
_EVENT = "flowrunner_message"
_FAR = FarSide(title="Slack", reconciles=True, settle=5.0)
_CHANNEL = re.compile(r"[CGD][A-Z0-9]{2,30}")
_TS = re.compile(r"\d{1,16}\.\d{1,9}")
_LONGEST = 40_000
_BLOCKS = 50
_PAGE = 200
_PAGES = 50
_SKEW = timedelta(minutes=5)
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}

_MAYBE = frozenset({"fatal_error", "internal_error", "service_unavailable", "request_timeout"})
_DENIED = re.compile(r"auth|token|account_inactive|missing_scope|no_permission|access_denied|ekm_access|team_access")
_THERE = frozenset({"not_in_channel", "is_archived", "restricted_action", "cant_update_message", "edit_window_closed"})


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """The message to post or update.

    :param channel: its id.
    :param thread_ts: the message to reply to.
    :param ts: the message to update, if it is known.
    :param message_key: name of the message, shared by tasks and runs; if empty, the message belongs to this task.
    :param lookback: how far back to search for the message with that key.
    """

    channel: str
    text: str = ""
    blocks: tuple[Mapping[str, Any], ...] = ()
    thread_ts: str = ""
    ts: str = ""
    message_key: str = ""
    lookback: timedelta = timedelta(days=7)
    on_unknown: OnUnknown = "stop"

    def check(self) -> None:
        """Raise :class:`ConfigError`, naming the parameter, for content that Slack would refuse or truncate."""
        if not _CHANNEL.fullmatch(self.channel):
            raise ConfigError(
                "the channel is no id", field="channel", remedy="copy it from the channel's details: C0123456789"
            )
        if not self.text.strip() and not self.blocks:
            raise ConfigError("the message has no content", field="text", remedy="give text, or blocks")
        if len(self.text) > _LONGEST:
            raise ConfigError(f"Slack cuts texts at {_LONGEST:,} characters", field="text", remedy="shorten it")
        if len(self.blocks) > _BLOCKS:
            raise ConfigError(f"Slack takes {_BLOCKS} blocks", field="blocks", remedy="take some out")
        for field in ("ts", "thread_ts"):
            if (value := getattr(self, field)) and not _TS.fullmatch(value):
                raise ConfigError(f"{field} is no timestamp of Slack", field=field, remedy="write 1712345678.123456")
        if self.ts and self.message_key:
            raise ConfigError("ts and message_key both name the message", field="ts", remedy="give one of them")
        encoded(self.content)

    @property
    def content(self) -> dict[str, Any]:
        """The part of the message that people see."""
        body: dict[str, Any] = {"channel": self.channel, "text": self.text}
        return {**body, "blocks": list(self.blocks)} if self.blocks else body


async def upsert(http: HttpTransport, wanted: Upsert, run: Run) -> SlackMessage:
    """Update the message that ``wanted`` names, or post it once over all attempts.

    :raises OutcomeUnknown: when nobody knows whether an earlier attempt has posted it.
    """
    wanted.check()
    slack = Slack(http)
    if wanted.ts:
        return await slack.update(wanted, wanted.ts)
    if wanted.message_key:
        found = await slack.find(wanted, wanted.message_key, run.clock.now() - wanted.lookback)
        if found is not None:
            return await slack.update(wanted, found)

    async def send(key: str, at: datetime) -> Any:
        del at
        return {"ts": await slack.post(wanted, wanted.message_key or key)}

    async def find(key: str, at: datetime) -> Any:
        ts = await slack.find(wanted, wanted.message_key or key, at - _SKEW)
        return None if ts is None else {"ts": ts}

    answer = await hand_over(
        run,
        _FAR,
        action=_ACTION,
        name=_ACTION,
        fingerprint=fingerprint(wanted.content, wanted.thread_ts, wanted.message_key),
        exchange=http.settings.timeout,
        on_unknown=wanted.on_unknown,
        send=send,
        find=find,
    )
    if answer is None:  # on_unknown='skip'
        return SlackMessage(channel=wanted.channel, ts="", unknown=True)
    return SlackMessage(channel=wanted.channel, ts=answer["ts"])


class Slack:
    """The methods of the Web API that are used here.

    :param http: an open transport to Slack.
    """

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    async def post(self, wanted: Upsert, key: str) -> str:
        """Post the message and return its timestamp."""
        body = {**wanted.content, "metadata": _metadata(key)}
        if wanted.thread_ts:
            body["thread_ts"] = wanted.thread_ts
        answer = await self._http.request("POST", "/chat.postMessage", headers=JSON, body=encoded(body), retry=False)
        return str(_judged(object_of(answer), posts=True)["ts"])

    async def update(self, wanted: Upsert, ts: str) -> SlackMessage:
        """Update a message; repeating it is harmless."""
        body = {**wanted.content, "ts": ts}
        if not wanted.blocks:
            body["blocks"] = []
        failpoint(f"{_ACTION}.before_update")
        answer = await self._http.request("POST", "/chat.update", headers=JSON, body=encoded(body), repeatable=True)
        _judged(object_of(answer))
        failpoint(f"{_ACTION}.after_update")
        return SlackMessage(channel=wanted.channel, ts=ts, updated=True)

    async def find(self, wanted: Upsert, key: str, since: datetime) -> str | None:
        """Return the timestamp of the message that carries ``key``, or None.

        :raises IntegrityError: when there are too many messages to search.
        """
        query: dict[str, Any] = {
            "channel": wanted.channel,
            "oldest": f"{since.timestamp():.6f}",
            "limit": _PAGE,
            "include_all_metadata": "true",
        }
        method = "conversations.history"
        if wanted.thread_ts:
            method, query["ts"] = "conversations.replies", wanted.thread_ts
        for _ in range(_PAGES):
            value = _judged(object_of(await self._http.request("GET", f"/{method}", params=query)))
            for message in value["messages"]:
                metadata = message.get("metadata") or {}
                named = metadata.get("event_type") == _EVENT and (metadata.get("event_payload") or {}).get("key")
                if named == key:
                    return str(message["ts"])
            cursor = (value.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return None
            query["cursor"] = cursor
        raise IntegrityError(
            f"more than {_PAGES * _PAGE:,} messages to look through", remedy="shorten `lookback`, or give `ts`"
        )

    async def probe(self) -> str:
        """Return whose token it is."""
        value = _judged(object_of(await self._http.request("POST", "/auth.test", headers=_FORM, repeatable=True)))
        return f"Slack knows the token as {value.get('user')!r} of {value.get('team')!r}"


def _metadata(key: str) -> dict[str, Any]:
    return {"event_type": _EVENT, "event_payload": {"key": key}}


def _judged(value: dict[str, Any], *, posts: bool = False) -> dict[str, Any]:
    """Return the answer, or raise the error that it reports: Slack answers 200 to nearly everything."""
    if value.get("ok") is True:
        return value
    code = str(value.get("error") or "unknown_error")[:80]
    raise _error(code, str(value.get("needed") or "")[:200], posts=posts)


def _error(code: str, needed: str, *, posts: bool) -> FlowRunnerError:
    if code in ("ratelimited", "rate_limited"):
        return Throttled("Slack asks for a pause", remedy="set `rate_limit` on the connection")
    if code in _MAYBE:
        text = f"Slack answered {code}"
        if posts:
            return OutcomeUnknown(f"{text}; the message may have been posted")
        return Unavailable(text, remedy="nothing to do: the retry asks again")
    if code in ("channel_not_found", "thread_not_found", "message_not_found"):
        return NotFound(f"Slack: {code}", remedy="check the id, and that the bot is in the channel")
    if _DENIED.search(code) or code in _THERE:
        scope = f"give the app the scope {needed}" if needed else "check the token, its scopes, and the channel"
        return AccessDenied(f"Slack: {code}", remedy=scope)
    return Rejected(f"Slack refused the message: {code}", code=code, remedy="look the code up at docs.slack.dev")
