"""What the HTTP actions return: small, JSON, and without credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flowrunner_provider.data.dataset import Dataset

__all__ = [
    "MAX_RESULT",
    "BatchResult",
    "Download",
    "GraphQLResult",
    "HttpResult",
    "JobResult",
    "Observation",
    "UploadResult",
    "UploadedFile",
]

MAX_RESULT = 16 * 1024 * 1024
"""The most bytes of a body that goes to XCom; more belongs in a file."""


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


@dataclass(frozen=True, kw_only=True)
class GraphQLResult:
    """What the operation gave.

    :param data: the answer's ``data``, or what ``select`` took from it, or all nodes; None with ``save_to``.
    :param errors: message, path and code of the errors beside the data, with ``raise_on_errors=False``.
    :param dataset: the reference to the file, with ``save_to``.
    :param reconciled: True when a look-up told that an earlier attempt had been carried out.
    """

    data: Any = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    dataset: Dataset | None = None
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A job that went well.

    :param job_id: the far side's id of it.
    :param status: its last status.
    :param result: the answer to the ``result`` request; None without one.
    """

    job_id: str
    status: str
    result: HttpResult | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was waited for.

    :param status: HTTP status of the answer that met the condition.
    :param url: where it came from, redacted.
    :param value: what ``select`` took from it; None without ``select``.
    """

    status: int
    url: str
    value: Any = None
