"""Fakes of chat platforms, written from their published references; that of Slack is driven by slack_sdk, too.

``posted(channel)`` is what people would see. ``faults`` are what goes wrong with the next messages, in turn: a
:class:`Reply` instead of the answer (nothing was posted), or ``"lose"``: it is posted and the connection closed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.http_server import HttpServer, Reply, Request, drop, json_reply

__all__ = ["DiscordFake", "GoogleChatFake", "MattermostFake", "SlackFake", "TeamsFake", "TelegramFake"]

Fault = Reply | Literal["lose", "pass"]


@dataclass
class Message:
    """A message that people would see."""

    message_id: str
    body: dict[str, Any]
    at: float


class _Fake:
    """Channels, their messages, and the faults of the next answers."""

    def __init__(self) -> None:
        self.channels: dict[str, list[Message]] = defaultdict(list)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.lock = threading.Lock()
        self.count = 0

    def install(self, server: HttpServer) -> None:
        """Serve everything of ``server``."""
        server.route("*", "*", self)

    def posted(self, channel: str) -> list[Message]:
        """The messages of a channel, in the order in which they came."""
        with self.lock:
            return list(self.channels[channel])

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            return self.answer(request)

    def answer(self, request: Request) -> Reply:
        raise AssertionError("override me")

    def _post(self, channel: str, body: dict[str, Any], answer: Any, name: str = "") -> Reply:
        """Post unless a fault says otherwise; ``answer`` is made from the message."""
        fault = self.faults[channel].pop(0) if self.faults[channel] else "pass"
        if isinstance(fault, Reply):
            return fault
        self.count += 1
        message = Message(name or f"{int(time.time())}{self.count:06}", body, time.time())
        self.channels[channel].append(message)
        return drop() if fault == "lose" else answer(message)


def _unknown(body: dict[str, Any], known: set[str]) -> list[str]:
    return sorted(set(body) - known)


class TeamsFake(_Fake):
    """Workflows webhooks: any path below ``/workflows/``; the channel is its second piece."""

    def answer(self, request: Request) -> Reply:
        match = re.fullmatch(r"/workflows/(\w+)/triggers/manual/paths/invoke", request.path)
        if match is None or request.method != "POST":
            return json_reply({"error": {"code": "NotFound"}}, 404)
        if request.query.get("sig") != ["canary-teams-signature"]:
            return json_reply({"error": {"code": "DirectApiAuthorizationRequired"}}, 401)
        body = request.json()
        cards = [each.get("content") for each in body.get("attachments", [])]
        kinds = [each.get("contentType") for each in body.get("attachments", [])]
        good = kinds == ["application/vnd.microsoft.card.adaptive"] and body.get("type") == "message"
        if not good or cards[0].get("type") != "AdaptiveCard" or not isinstance(cards[0].get("body"), list):
            return json_reply({"error": {"code": "TriggerInputSchemaMismatch"}}, 400)
        return self._post(match[1], cards[0], lambda message: Reply(202))


class GoogleChatFake(_Fake):
    """``spaces.messages.create`` with a webhook's key and token; known parameters and fields only."""

    QUERY = frozenset({"key", "token", "requestId", "messageId", "messageReplyOption", "threadKey"})
    FIELDS = frozenset({"text", "cardsV2", "thread", "fallbackText", "accessoryWidgets"})

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[tuple[str, str], Message] = {}

    def answer(self, request: Request) -> Reply:
        match = re.fullmatch(r"/v1/spaces/(\w+)/messages", request.path)
        if match is None or request.method != "POST":
            return self._error(404, "NOT_FOUND", "not found")
        space, query = match[1], {name: values[0] for name, values in request.query.items()}
        if query.get("key") != "canary-google-key" or query.get("token") != "canary-google-token":
            return self._error(401, "UNAUTHENTICATED", "wrong key")
        body = request.json()
        if wrong := _unknown(query, set(self.QUERY)) + _unknown(body, set(self.FIELDS)):
            return self._error(400, "INVALID_ARGUMENT", f"Unknown name {wrong}")
        name = query.get("messageId", "")
        if name and not re.fullmatch(r"client-[a-z0-9-]{1,56}", name):
            return self._error(400, "INVALID_ARGUMENT", "messageId")
        if known := self.requests.get((space, query.get("requestId", ""))):
            return json_reply(self._shown(space, known))
        if name and any(each.body.get("clientAssignedMessageId") == name for each in self.channels[space]):
            return self._error(409, "ALREADY_EXISTS", "Message with that id exists")
        body["clientAssignedMessageId"] = name

        def made(message: Message) -> Reply:
            return json_reply(self._shown(space, message))

        before = len(self.channels[space])
        reply = self._post(space, body, made)
        if len(self.channels[space]) > before and "requestId" in query:
            self.requests[space, query["requestId"]] = self.channels[space][-1]
        return reply

    @staticmethod
    def _shown(space: str, message: Message) -> dict[str, Any]:
        return {"name": f"spaces/{space}/messages/{message.message_id}", **message.body}

    @staticmethod
    def _error(status: int, code: str, text: str) -> Reply:
        return json_reply({"error": {"code": status, "message": text, "status": code}}, status)


class DiscordFake(_Fake):
    """Webhooks and bots' messages of API v10.

    :param memory: seconds for which nonces are checked.
    """

    FIELDS = frozenset({"content", "embeds", "allowed_mentions", "tts", "username", "components", "flags"})
    BOT_FIELDS = FIELDS | {"nonce", "enforce_nonce", "message_reference"}

    def __init__(self, memory: float = 300.0) -> None:
        super().__init__()
        self.memory = memory

    def answer(self, request: Request) -> Reply:
        if request.path == "/api/v10/users/@me":
            known = request.headers.get("authorization") == "Bot canary-discord-token"
            return json_reply({"id": "1", "username": "airflow"}) if known else self._error(401, 0, "401: Unauthorized")
        if match := re.fullmatch(r"/api/webhooks/(\w+)/canary-discord-webhook-token", request.path):
            return self._webhook(match[1], request)
        if match := re.fullmatch(r"/api/v10/channels/(\w+)/messages", request.path):
            return self._bot(match[1], request)
        return self._error(404, 10015, "Unknown Webhook")

    def _webhook(self, channel: str, request: Request) -> Reply:
        if request.method == "GET":
            return json_reply({"id": channel, "name": "airflow", "type": 1})
        body = request.json()
        if _unknown(body, set(self.FIELDS)) or len(body.get("content", "")) > 2000:
            return self._error(400, 50035, "Invalid Form Body")
        wait = request.query.get("wait") == ["true"]
        return self._post(channel, body, lambda made: json_reply({"id": made.message_id}) if wait else Reply(204))

    def _bot(self, channel: str, request: Request) -> Reply:
        if request.headers.get("authorization") != "Bot canary-discord-token":
            return self._error(401, 0, "401: Unauthorized")
        body = request.json()
        if _unknown(body, set(self.BOT_FIELDS)) or len(str(body.get("nonce", ""))) > 25:
            return self._error(400, 50035, "Invalid Form Body")
        if body.get("enforce_nonce") and body.get("nonce"):
            for known in self.channels[channel]:
                if known.body.get("nonce") == body["nonce"] and time.time() - known.at < self.memory:
                    return json_reply({"id": known.message_id})
        return self._post(channel, body, lambda made: json_reply({"id": made.message_id}))

    @staticmethod
    def _error(status: int, code: int, text: str) -> Reply:
        return json_reply({"code": code, "message": text}, status)


class TelegramFake(_Fake):
    """``getMe`` and ``sendMessage`` of the Bot API; Retry-After stands in the body."""

    FIELDS = frozenset({"chat_id", "text", "message_thread_id", "parse_mode", "disable_notification"})

    def answer(self, request: Request) -> Reply:
        match = re.fullmatch(r"/bot(.+)/(\w+)", request.path)
        if match is None or match[1] != "123:canary-telegram-token":
            return self.error(401, "Unauthorized")
        if match[2] == "getMe":
            return json_reply({"ok": True, "result": {"id": 1, "is_bot": True, "username": "airflow_bot"}})
        body = request.json()
        if _unknown(body, set(self.FIELDS)):
            return self.error(400, "Bad Request: unknown field")
        if str(body["chat_id"]).startswith("gone"):
            return self.error(400, "Bad Request: chat not found")
        if len(body["text"]) > 4096:
            return self.error(400, "Bad Request: message is too long")

        def made(message: Message) -> Reply:
            return json_reply({"ok": True, "result": {"message_id": self.count, "text": message.body["text"]}})

        return self._post(str(body["chat_id"]), body, made)

    @staticmethod
    def error(status: int, text: str, retry_after: int | None = None) -> Reply:
        """Telegram's own form of a refusal."""
        body: dict[str, Any] = {"ok": False, "error_code": status, "description": text}
        if retry_after is not None:
            body["parameters"] = {"retry_after": retry_after}
        return json_reply(body, status)


class MattermostFake(_Fake):
    """Posts of API v4 by token, and incoming webhooks."""

    FIELDS = frozenset({"channel_id", "message", "root_id", "file_ids", "props", "metadata"})

    def answer(self, request: Request) -> Reply:
        if match := re.fullmatch(r"/hooks/canary_mattermost_hook_(\w+)", request.path):
            return self._post(match[1], request.json(), lambda made: Reply(200, b"ok"))
        if request.path == "/api/v4/system/ping":
            return json_reply({"status": "OK"})
        if request.headers.get("authorization") != "Bearer canary-mattermost-token":
            return json_reply({"id": "api.context.session_expired.app_error", "message": "Invalid session"}, 401)
        if request.path == "/api/v4/users/me":
            return json_reply({"id": "u", "username": "airflow"})
        if match := re.fullmatch(r"/api/v4/channels/(\w+)/posts", request.path):
            since = int(request.query["since"][0])
            found = [each for each in self.channels[match[1]] if each.at * 1000 >= since]
            posts = {each.message_id: {**each.body, "id": each.message_id} for each in found}
            return json_reply({"order": list(posts), "posts": posts})
        if request.path == "/api/v4/posts" and request.method == "POST":
            body = request.json()
            if _unknown(body, set(self.FIELDS)) or len(body["message"]) > 16383:
                return json_reply({"id": "model.post.is_valid.msg.app_error", "message": "Invalid message."}, 400)
            return self._post(body["channel_id"], body, lambda made: json_reply({"id": made.message_id, **body}, 201))
        return json_reply({"id": "api.context.404.app_error", "message": "not found"}, 404)


class SlackFake(_Fake):
    """The methods of the Web API that are used: chat.*, conversations.history and .replies, auth.test.

    :param page: the most messages of a page.
    """

    POST = frozenset({"channel", "text", "blocks", "thread_ts", "metadata", "unfurl_links", "mrkdwn", "attachments"})
    UPDATE = frozenset({"channel", "ts", "text", "blocks", "metadata", "attachments"})
    HISTORY = frozenset({"channel", "oldest", "latest", "limit", "cursor", "inclusive", "include_all_metadata", "ts"})

    def __init__(self, page: int = 3) -> None:
        super().__init__()
        self.page = page

    def answer(self, request: Request) -> Reply:
        method = request.path.removeprefix("/api/")
        if request.headers.get("authorization") != "Bearer xoxb-canary-slack-token":
            return self.error("invalid_auth")
        if method == "auth.test":
            return json_reply({"ok": True, "user": "airflow", "team": "data"})
        values = self._values(request)
        handler = {
            "chat.postMessage": self._create, "chat.update": self._update,
            "conversations.history": self._history, "conversations.replies": self._history,
        }.get(method)  # fmt: skip
        if handler is None:
            return self.error("unknown_method")
        if not re.fullmatch(r"C\w+", str(values.get("channel"))):
            return self.error("channel_not_found")
        return handler(values)

    @staticmethod
    def _values(request: Request) -> dict[str, Any]:
        """JSON, a form, or a query: Slack takes all of them."""
        if request.headers.get("content-type", "").startswith("application/json"):
            found: dict[str, Any] = request.json()
            return found
        from urllib.parse import parse_qs

        pairs = request.query or parse_qs(request.body.decode())
        values = {name: each[0] for name, each in pairs.items()}
        return {name: json.loads(each) if name in ("metadata", "blocks") else each for name, each in values.items()}

    def _create(self, values: dict[str, Any]) -> Reply:
        if wrong := _unknown(values, set(self.POST)):
            return self.error(f"invalid_arguments {wrong}")
        if not values.get("text") and not values.get("blocks"):
            return self.error("no_text")
        self.count += 1
        ts = f"{int(time.time())}.{self.count:06}"
        channel = values["channel"]
        shown = {**values, "ts": ts}
        return self._post(channel, shown, lambda made: json_reply({"ok": True, "channel": channel, "ts": ts}), ts)

    def _update(self, values: dict[str, Any]) -> Reply:
        if wrong := _unknown(values, set(self.UPDATE)):
            return self.error(f"invalid_arguments {wrong}")
        for message in self.channels[values["channel"]]:
            if message.message_id == values["ts"]:
                message.body.update({name: each for name, each in values.items() if name != "channel"})
                return json_reply({"ok": True, "channel": values["channel"], "ts": values["ts"]})
        return self.error("message_not_found")

    def _history(self, values: dict[str, Any]) -> Reply:
        if wrong := _unknown(values, set(self.HISTORY)):
            return self.error(f"invalid_arguments {wrong}")
        oldest, thread = float(values.get("oldest", 0)), values.get("ts")
        found = [each.body for each in reversed(self.channels[values["channel"]]) if float(each.message_id) > oldest]
        found = [each for each in found if each.get("thread_ts") == thread or each["ts"] == thread]
        if str(values.get("include_all_metadata")) not in ("true", "1"):
            found = [{name: each for name, each in body.items() if name != "metadata"} for body in found]
        start, size = int(values.get("cursor") or 0), min(self.page, int(values.get("limit", 100)))
        more = start + size < len(found)
        cursor = {"next_cursor": str(start + size) if more else ""}
        page = found[start : start + size]
        return json_reply({"ok": True, "messages": page, "has_more": more, "response_metadata": cursor})

    @staticmethod
    def error(code: str) -> Reply:
        """Slack's own form of a refusal: 200, and not ok."""
        return json_reply({"ok": False, "error": code})
