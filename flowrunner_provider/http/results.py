"""What the HTTP actions return: small, JSON, and without credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Download", "HttpResult"]


@dataclass(frozen=True, kw_only=True)
class HttpResult:
    """The answer to a request.

    :param status: HTTP status.
    :param url: where the answer came from, redacted.
    :param headers: its headers, without cookies and credentials.
    :param body: parsed JSON (or what ``select`` took from it), text, or base64; None when there is none.
    :param path: the file that holds the body, with ``save_to``.
    :param bytes: size of the decoded body.
    :param reconciled: True when a look-up told that an earlier attempt had been carried out.
    """

    status: int
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    path: str | None = None
    bytes: int = 0
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class Download:
    """A downloaded file.

    :param path: where it is.
    :param bytes: its size.
    :param checksum: ``algorithm:hex`` when one was asked for, else empty.
    :param etag: the server's entity tag, or empty.
    :param last_modified: the server's Last-Modified, or empty.
    :param content_type: media type, or empty.
    :param skipped: True when the file was there already and ``if_exists`` said to keep it.
    """

    path: str
    bytes: int
    checksum: str = ""
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    skipped: bool = False
