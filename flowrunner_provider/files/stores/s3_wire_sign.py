"""Sign requests with AWS Signature Version 4 and encode them.

Source: docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. Keys and headers are encoded once, for
the signature and the request; all headers passed to :func:`signed` are signed.
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

__all__ = ["UNSIGNED", "Keys", "encoded", "payload_of", "query_of", "request_head", "signed"]

UNSIGNED = "UNSIGNED-PAYLOAD"
_EMPTY = sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key; temporary ones have a session token."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def encoded(to_sign: str, *, path: bool = False) -> str:
    """Percent-encode all but letters, digits and ``-._~``; in a path also keep ``/``."""
    try:
        return quote(to_sign, safe="/" if path else "")
    except UnicodeEncodeError:
        raise PermanentError("S3 only accepts Unicode names", remedy="rename the file") from None


def query_of(parameters: Mapping[str, str]) -> str:
    """Return the query string, sorted as the signature requires."""
    return "&".join(f"{encoded(name)}={encoded(parameters[name])}" for name in sorted(parameters))


def payload_of(data: bytes) -> str:
    """Return the hash of a signed body."""
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
    """Return the headers together with those of the signature.

    :param path: encoded.
    :param headers: by name in lower case, including ``host``.
    :param now: in UTC.
    :param payload: the result of :func:`payload_of`, or :data:`UNSIGNED`.
    """
    moment = _moment(now)
    signed_headers = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
    if keys.token:
        signed_headers["x-amz-security-token"] = keys.token
    names = sorted(signed_headers)
    signed_names = ";".join(names)
    lines = "\n".join([f"{name}:{signed_headers[name]}" for name in names])
    request = f"{method}\n{path}\n{query}\n{lines}\n\n{signed_names}\n{payload}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    signature = _signer(keys.secret, moment[:8], region).copy()
    signature.update(to_sign.encode())
    credential, digest = f"{keys.access}/{scope}", signature.hexdigest()
    signed_headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed_names}, Signature={digest}"
    )
    return signed_headers


def _moment(now: datetime) -> str:
    """Format a time; ``strftime`` takes five times as long."""
    day = now.year * 10_000 + now.month * 100 + now.day
    return f"{day:08}T{now.hour * 10_000 + now.minute * 100 + now.second:06}Z"


@lru_cache(maxsize=16)
def _signer(secret: str, day: str, region: str) -> hmac.HMAC:
    """Return an HMAC with the signing key of a day; copy it before use."""
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.new(key, digestmod="sha256")


def request_head(method: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request.

    :raises PermanentError: if a header contains a line break, NUL or a non-ASCII character.
    """
    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    breaks = len(headers) - 1
    if not lines.isascii() or lines.count("\n") != breaks or lines.count("\r") != breaks or "\0" in lines:
        raise PermanentError(
            "a header is not one line of ASCII", remedy="check the credentials and settings of the connection"
        )
    return f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\n{lines}\r\n\r\n".encode("ascii")
