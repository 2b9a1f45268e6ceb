"""Results of the HTTP actions: small, JSON-serialisable, without credentials."""

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
"""Largest body, in bytes, that may be returned through XCom."""


@dataclass(frozen=True, kw_only=True)
class HttpResult:
    """The answer to a request.

    :param status: HTTP status.
    :param url: final URL, redacted.
    :param headers: response headers, without cookies and credentials.
    :param body: the parsed body (or the value of ``select``), text, or base64; None without a body.
    :param path: the file that holds the body, with ``save_to``.
    :param bytes: size of the decoded body.
    :param reconciled: True if a look-up found that an earlier attempt had been carried out.
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

    :param path: its path.
    :param bytes: its size.
    :param checksum: ``algorithm:hex`` if a checksum was given, otherwise empty.
    :param etag: the server's entity tag, or empty.
    :param last_modified: the server's Last-Modified, or empty.
    :param content_type: media type, or empty.
    :param skipped: True if the file existed and ``if_exists="skip"`` kept it.
    :param changed: False if the file was not replaced: the server has no newer version, or it was skipped.
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
    """One uploaded file.

    :param source: its path.
    :param bytes: its size.
    :param status: HTTP status of the answer; 0 if none was read.
    :param etag: the entity tag in the answer, or empty.
    :param answer: the value of ``select``.
    :param reconciled: True if a look-up found that an earlier attempt had uploaded it.
    """

    source: str
    bytes: int
    status: int
    etag: str = ""
    answer: Any = None
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class UploadResult:
    """Result of ``http.upload``.

    :param files: number of files.
    :param bytes: their total size.
    :param entries: the first 20 files.
    """

    files: int
    bytes: int
    entries: list[UploadedFile] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """Result of a batch without failed items; a batch with failures raises an error.

    :param items: number of items.
    :param done: items answered as expected, over all attempts.
    :param skipped: items with unknown outcome, after ``on_unknown="skip"``.
    :param path: the results file, one line per item.
    :param bytes: its size.
    :param dead_letter: the (empty) dead-letter file; None if none was requested.
    """

    items: int
    done: int
    skipped: int
    path: str
    bytes: int
    dead_letter: str | None = None


@dataclass(frozen=True, kw_only=True)
class GraphQLResult:
    """Result of a GraphQL operation.

    :param data: the answer's ``data``, the value of ``select``, or all nodes; None with ``save_to``.
    :param errors: message, path and code of errors that accompany the data, with ``raise_on_errors=False``.
    :param dataset: reference to the file, with ``save_to``.
    :param reconciled: True if a look-up found that an earlier attempt had been carried out.
    """

    data: Any = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    dataset: Dataset | None = None
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A job that succeeded.

    :param job_id: its id at the far side.
    :param status: its final status.
    :param result: the answer to the ``result`` request; None without one.
    """

    job_id: str
    status: str
    result: HttpResult | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The answer that met the condition of a sensor.

    :param status: HTTP status.
    :param url: final URL, redacted.
    :param value: the value of ``select``; None without it.
    """

    status: int
    url: str
    value: Any = None
