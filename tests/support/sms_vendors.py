"""Fakes of SMS vendors, each written from the vendor's published reference and driven by its official client, too.

One :class:`HttpServer` serves any number of accounts; ``vendor.taken(account)`` is what carriers would have got.
``faults`` of an account are what goes wrong with its next messages, in turn: a :class:`Reply` instead of the answer
(nothing was taken), or ``"lose"``: the message is taken and the connection closed without a word.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from tests.support.http_server import HttpServer, Reply, Request, drop, json_reply

__all__ = ["AzureFake", "Fault", "Taken", "TwilioFake", "VonageFake"]

Fault = Reply | Literal["lose", "pass"]

_E164 = re.compile(r"\+[1-9]\d{6,14}")


@dataclass(frozen=True)
class Taken:
    """A message that a carrier would have got."""

    message_id: str
    number: str
    body: str
    sender: str
    at: float = field(default_factory=time.time)


class _Fake:
    """Accounts, their messages, and the faults of their next answers."""

    def __init__(self) -> None:
        self.messages: dict[str, list[Taken]] = defaultdict(list)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.blocked: set[str] = set()
        self.lock = threading.Lock()

    def install(self, server: HttpServer) -> None:
        """Serve everything of ``server``."""
        server.route("*", "*", self)

    def taken(self, account: str) -> list[Taken]:
        """The messages of an account, in the order in which they came."""
        with self.lock:
            return list(self.messages[account])

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            return self.answer(request)

    def answer(self, request: Request) -> Reply:
        raise AssertionError("override me")

    def _take(self, account: str, message: Taken, answer: Reply) -> Reply:
        fault = self.faults[account].pop(0) if self.faults[account] else "pass"
        if isinstance(fault, Reply):
            return fault
        self.messages[account].append(message)
        return drop() if fault == "lose" else answer


def _basic(request: Request) -> tuple[str, str]:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return "", ""
    login, _, password = base64.b64decode(value).decode().partition(":")
    return login, password


class TwilioFake(_Fake):
    """Messages of api.twilio.com, version 2010-04-01; an account SID is ``AC`` and 32 hex digits.

    :param token: the auth token of all accounts.
    :param prefix: what is put before each text, as Twilio does for trial accounts.
    """

    PARAMETERS = frozenset({
        "To", "From", "MessagingServiceSid", "Body", "MediaUrl", "StatusCallback", "ApplicationSid", "MaxPrice",
        "ValidityPeriod", "SmartEncoded",
    })  # fmt: skip
    FILTERS = frozenset({"To", "From", "DateSent", "DateSent<", "DateSent>", "PageSize", "Page", "PageToken"})

    def __init__(self, token: str = "canary-twilio-token-4711", prefix: str = "") -> None:
        super().__init__()
        self.token, self.prefix = token, prefix
        self.status: dict[str, tuple[str, int | None]] = {}

    def answer(self, request: Request) -> Reply:
        match = re.fullmatch(r"/2010-04-01/Accounts/(AC[0-9a-f]{32})(/Messages(?:/(\w+))?)?\.json", request.path)
        if match is None:
            return self._error(404, 20404, "The requested resource was not found")
        account, messages, sid = match.groups()
        if _basic(request)[1] != self.token:
            return self._error(401, 20003, "Authenticate")
        if messages is None:
            return json_reply({"sid": account, "status": "active", "friendly_name": "test", "type": "Full"})
        if sid is not None:
            found = [each for each in self.messages[account] if each.message_id == sid]
            return json_reply(self._shown(account, found[0])) if found else self._error(404, 20404, "not found")
        return self._create(account, request) if request.method == "POST" else self._list(account, request)

    def _create(self, account: str, request: Request) -> Reply:
        form = {name: values[0] for name, values in parse_qs(request.body.decode(), keep_blank_values=True).items()}
        if unknown := set(form) - self.PARAMETERS:
            return self._error(400, 21617, f"unknown parameter {unknown}")
        number = form.get("To", "").removeprefix("whatsapp:")
        if not _E164.fullmatch(number):
            return self._error(400, 21211, f"The 'To' number {number} is not a valid phone number.")
        if not form.get("From") and not form.get("MessagingServiceSid"):
            return self._error(400, 21603, "A 'From' phone number is required.")
        if not form.get("Body"):
            return self._error(400, 21602, "Message body is required.")
        if number in self.blocked:
            return self._error(400, 21610, f"Attempt to send to unsubscribed recipient {number}")
        sender = form.get("From") or form["MessagingServiceSid"]
        message = Taken(f"SM{uuid.uuid4().hex}", form["To"], self.prefix + form["Body"], sender)
        return self._take(account, message, json_reply(self._shown(account, message), 201))

    def _list(self, account: str, request: Request) -> Reply:
        query = {name: values[0] for name, values in request.query.items()}
        if unknown := set(query) - self.FILTERS:
            return self._error(400, 20001, f"unknown parameter {unknown}")
        found = [each for each in reversed(self.messages[account]) if query.get("To") in (None, each.number)]
        size, page = int(query.get("PageSize", "50")), int(query.get("Page", "0"))
        if not 1 <= size <= 1000:
            return self._error(400, 20006, "Page size must be between 1 and 1000")
        uri = f"/2010-04-01/Accounts/{account}/Messages.json"
        more = f"{uri}?To={query.get('To', '').replace('+', '%2B')}&PageSize={size}&Page={page + 1}"
        return json_reply({
            "messages": [self._shown(account, each) for each in found[page * size :][:size]],
            "first_page_uri": f"{uri}?PageSize={size}&Page=0",
            "next_page_uri": more if len(found) > (page + 1) * size else None,
            "previous_page_uri": None,
            "page": page, "page_size": size, "start": page * size, "end": min(len(found), (page + 1) * size) - 1,
            "uri": uri,
        })  # fmt: skip

    def _shown(self, account: str, message: Taken) -> dict[str, Any]:
        status, code = self.status.get(message.message_id, ("queued", None))
        created = format_datetime(datetime.fromtimestamp(message.at, UTC))
        service = message.sender if message.sender.startswith("MG") else None
        return {
            "sid": message.message_id, "account_sid": account, "api_version": "2010-04-01", "body": message.body,
            "date_created": created, "date_updated": created, "date_sent": None, "direction": "outbound-api",
            "error_code": code, "error_message": None, "from": None if service else message.sender,
            "messaging_service_sid": service, "num_media": "0", "num_segments": "0" if service else "1",
            "price": None, "price_unit": "USD", "status": status, "to": message.number, "subresource_uris": {},
            "uri": f"/2010-04-01/Accounts/{account}/Messages/{message.message_id}.json",
        }  # fmt: skip

    @staticmethod
    def _error(status: int, code: int, message: str) -> Reply:
        more = f"https://www.twilio.com/docs/errors/{code}"
        return json_reply({"code": code, "message": message, "more_info": more, "status": status}, status)


class VonageFake(_Fake):
    """``POST /v1/messages`` of api.nexmo.com, by key and secret; an account is its API key."""

    FIELDS = frozenset({"message_type", "channel", "to", "from", "text", "client_ref", "ttl", "sms", "webhook_url"})

    def __init__(self, secret: str = "canary-vonage-secret-4711") -> None:
        super().__init__()
        self.secret = secret

    def answer(self, request: Request) -> Reply:
        if request.path != "/v1/messages" or request.method != "POST":
            return self._problem(404, "not-found", "Not found", "no such resource")
        key, secret = _basic(request)
        if secret != self.secret:
            return self._problem(401, "unauthorized", "Unauthorized", "You did not provide correct credentials.")
        message = request.json()
        number = str(message.get("to", ""))
        wrong = set(message) - self.FIELDS or {"message_type", "channel", "to", "from", "text"} - set(message)
        if wrong or not re.fullmatch(r"[1-9]\d{6,14}", number) or message["channel"] not in ("sms", "whatsapp"):
            return self._problem(422, "invalid-params", "Invalid params", f"wrong: {sorted(wrong)} or {number}")
        if f"+{number}" in self.blocked:
            return self._problem(422, "1430", "Unreachable", f"cannot send to {number}")
        taken = Taken(str(uuid.uuid4()), f"+{number}", message["text"], message["from"])
        return self._take(key, taken, json_reply({"message_uuid": taken.message_id}, 202))

    @staticmethod
    def _problem(status: int, kind: str, title: str, detail: str) -> Reply:
        body = {"type": f"https://developer.vonage.com/api-errors#{kind}", "title": title, "detail": detail,
                "instance": "bf0ca0bf927b3b52e3cb03217e1a1ddf"}  # fmt: skip
        reply = json_reply(body, status)
        return replace(reply, headers={"Content-Type": "application/problem+json"})


class AzureFake(_Fake):
    """``POST /sms?api-version=2021-03-07``; an account is the sender's number.

    :param key: of the resource, in base64.
    :param memory: seconds for which repeatability ids are tracked.
    """

    def __init__(self, key: str = base64.b64encode(b"canary-azure-key-4711").decode(), memory: float = 300.0) -> None:
        super().__init__()
        self.key, self.memory = key, memory
        self.seen: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}

    def answer(self, request: Request) -> Reply:
        if (request.method, request.path) != ("POST", "/sms") or request.query.get("api-version") != ["2021-03-07"]:
            return Reply(404)
        if not self._signed(request):
            return json_reply({"error": {"code": "Denied", "message": "Denied by the resource provider."}}, 401)
        message = request.json()
        recipients = message.get("smsRecipients")
        if not recipients or not message.get("from") or not message.get("message") or len(recipients) > 100:
            return json_reply({"error": {"code": "BadRequest", "message": "The request is not valid."}}, 400)
        account = message["from"]
        fault = self.faults[account].pop(0) if self.faults[account] else "pass"
        if isinstance(fault, Reply):
            return fault
        items = [self._one(account, message["message"], each) for each in recipients]
        return drop() if fault == "lose" else json_reply({"value": items}, 202)

    def _one(self, account: str, body: str, recipient: dict[str, Any]) -> dict[str, Any]:
        number, token = recipient["to"], recipient.get("repeatabilityRequestId")
        first = recipient.get("repeatabilityFirstSent")
        if token is not None:
            if first is None:
                return self._failed(number, 400, "Repeatability headers are incomplete", "rejected")
            if abs(time.time() - parsedate_to_datetime(first).timestamp()) > self.memory:
                return self._failed(number, 412, "Outside of the tracked duration", "rejected")
            if (account, token) in self.seen:
                same, answer = self.seen[account, token]
                return (
                    answer if same == (account, body, recipient) else self._failed(number, 400, "differs", "rejected")
                )
        if not _E164.fullmatch(number) or number in self.blocked:
            return self._failed(number, 400, f"Invalid To phone number format {number}.", "accepted")
        taken = Taken(f"Outgoing_{uuid.uuid4()}_noam", number, body, account)
        self.messages[account].append(taken)
        answer = {"to": number, "messageId": taken.message_id, "httpStatusCode": 202, "successful": True,
                  "repeatabilityResult": "accepted"}  # fmt: skip
        if token is not None:
            self.seen[account, token] = (account, body, recipient), answer
        return answer

    @staticmethod
    def _failed(number: str, status: int, why: str, repeatability: str) -> dict[str, Any]:
        return {"to": number, "httpStatusCode": status, "successful": False, "errorMessage": why,
                "repeatabilityResult": repeatability}  # fmt: skip

    def _signed(self, request: Request) -> bool:
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        query = "&".join(f"{name}={value[0]}" for name, value in request.query.items())
        date, host = request.headers.get("x-ms-date", ""), request.headers["host"]
        text = f"POST\n{request.path}?{query}\n{date};{host};{digest}"
        mac = base64.b64encode(hmac.digest(base64.b64decode(self.key), text.encode(), "sha256")).decode()
        wanted = f"HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={mac}"
        fresh = bool(date) and abs(time.time() - parsedate_to_datetime(date).timestamp()) < 300
        given = request.headers.get("authorization", "")
        return fresh and given == wanted and request.headers.get("x-ms-content-sha256") == digest
