"""What the HTTP actions return: small, JSON, and without credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["BatchResult", "Download", "HttpResult", "UploadResult", "UploadedFile"]


@dataclass(frozen=True, kw_only=True)
class HttpResult:
    """The answer to a request.

    :param status: HTTP status.
    :param url: where the answer came from, redacted.
    :param headers: its headers, without cookies and credentials.
    :param body: the parsed body (or what ``select`` took from it), text, or base64; None when there is none.
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
    :param changed: False when the file was left as it was: the server has nothing newer, or it was skipped.
    """

    path: str
    bytes: int
    checksum: str = ""
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    skipped: bool = False
    changed: bool = True


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file that was sent.

    :param source: where it is.
    :param bytes: its size.
    :param status: of the answer; 0 when there was none to read.
    :param etag: the entity tag that the server gave it, or empty.
    :param answer: what ``select`` took from the answer.
    :param reconciled: True when a look-up told that an earlier attempt had sent it.
    """

    source: str
    bytes: int
    status: int
    etag: str = ""
    answer: Any = None
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class UploadResult:
    """What ``http.upload`` has sent.

    :param files: how many.
    :param bytes: of all of them.
    :param entries: the first 20.
    """

    files: int
    bytes: int
    entries: list[UploadedFile] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch of which every item is settled; one with failures is an error.

    :param items: how many there were.
    :param done: how many were answered as expected, over all attempts.
    :param skipped: of whom nobody knows, after ``on_unknown="skip"``.
    :param path: the file with a line per item.
    :param bytes: its size.
    :param dead_letter: the file that would hold the failures, empty now; None without one.
    """

    items: int
    done: int
    skipped: int
    path: str
    bytes: int
    dead_letter: str | None = None
