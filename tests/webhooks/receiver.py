"""A receiver of Standard Webhooks: it verifies, accepts each id once, and keeps all that it was sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import Reply, Request, drop

SECRET = "whsec_" + base64.b64encode(b"canary-webhook-secret-0815-and-more").decode()
HAS_ORACLE = importlib.util.find_spec("standardwebhooks") is not None


def verify(request: Request, *secrets: str) -> None:
    """Raise ``AssertionError`` unless each secret finds its signature; by the vendor's library, where it is there."""
    for secret in secrets:
        _verify_by_the_specification(request, secret)
        if HAS_ORACLE:
            from standardwebhooks import Webhook

            Webhook(secret).verify(request.body, request.headers, json_parse=False)


def _verify_by_the_specification(request: Request, secret: str) -> None:
    stamp = request.headers["webhook-timestamp"]
    assert stamp == str(int(stamp))
    assert abs(time.time() - int(stamp)) < 300
    text = f"{request.headers['webhook-id']}.{stamp}.".encode() + request.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), text, hashlib.sha256).digest()
    assert f"v1,{base64.b64encode(digest).decode()}" in request.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """A route for POST.

    :param dedupes: a repeated id is answered like the first and changes nothing.
    :param lose_replies: drop the connection instead of the next so many replies, after the message was taken.
    """

    secrets: tuple[str, ...] = (SECRET,)
    dedupes: bool = True
    lose_replies: int = 0
    seen: list[Request] = field(default_factory=list)
    accepted: list[Request] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self.seen.append(request)
            try:
                verify(request, *self.secrets)
            except Exception as error:  # noqa: BLE001 - told to the test
                self.failures.append(repr(error))
                return Reply(401)
            if not self.dedupes or request.headers["webhook-id"] not in self.ids:
                self.accepted.append(request)
            if self.lose_replies > 0:
                self.lose_replies -= 1
                return drop()
            return Reply(202)

    @property
    def ids(self) -> set[str]:
        """The ids of what was accepted."""
        return {request.headers["webhook-id"] for request in self.accepted}
