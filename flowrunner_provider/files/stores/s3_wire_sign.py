"""Requests as they go out, signed with AWS Signature Version 4.

The source is docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. What is signed is what is sent: a
key is encoded once for both, and so are the headers, all of which are signed.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

from flowrunner_provider.core.errors import PermanentError

__all__ = ["UNSIGNED", "Keys", "encoded", "payload_of", "query_of", "signed", "written"]

UNSIGNED = "UNSIGNED-PAYLOAD"
_EMPTY = sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Who one is; with a session token if only for a while."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def encoded(text: str, *, path: bool = False) -> str:
    """Percent-encoded as version 4 demands: all but letters, digits and ``-._~``; in a path not ``/`` either."""
    try:
        return quote(text, safe="/" if path else "")
    except UnicodeEncodeError:
        raise PermanentError("a name that is no Unicode cannot be sent to S3", remedy="rename it") from None


def query_of(parameters: Mapping[str, str]) -> str:
    """A query in the order in which it is signed."""
    return "&".join(f"{encoded(name)}={encoded(parameters[name])}" for name in sorted(parameters))


def payload_of(data: bytes) -> str:
    """What is signed for a body that is signed."""
    return sha256(data).hexdigest() if data else _EMPTY


def signed(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    *,
    keys: Keys,
    region: str,
    now: datetime,
    payload: str,
) -> dict[str, str]:
    """The headers with those that prove who sends them.

    :param path: encoded.
    :param headers: by their names in lower case; ``host`` is among them.
    :param now: in UTC.
    :param payload: of :func:`payload_of`, or :data:`UNSIGNED`.
    """
    moment = _moment(now)
    every = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
    if keys.token:
        every["x-amz-security-token"] = keys.token
    names = sorted(every)
    listed = ";".join(names)
    lines = "\n".join([f"{name}:{every[name]}" for name in names])
    request = f"{method}\n{path}\n{query}\n{lines}\n\n{listed}\n{payload}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    signature = _signer(keys.secret, moment[:8], region).copy()
    signature.update(text.encode())
    every["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature.hexdigest()}"
    )
    return every


def _moment(now: datetime) -> str:
    """In digits; ``strftime`` takes five times as long."""
    day = now.year * 10_000 + now.month * 100 + now.day
    return f"{day:08}T{now.hour * 10_000 + now.minute * 100 + now.second:06}Z"


@lru_cache(maxsize=16)
def _signer(secret: str, day: str, region: str) -> hmac.HMAC:
    """Signs with the key of one day; to be copied before it is used."""
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.new(key, digestmod="sha256")


def written(method: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request.

    :raises PermanentError: for a header that would end before it should.
    """
    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    breaks = len(headers) - 1
    if not lines.isascii() or lines.count("\n") != breaks or lines.count("\r") != breaks or "\0" in lines:
        raise PermanentError("a header cannot be sent: it is no line of ASCII", remedy="look at the credentials")
    return f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\n{lines}\r\n\r\n".encode("ascii")
