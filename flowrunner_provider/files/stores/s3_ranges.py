"""Read a range of an object into an open file, and resume it after a lost connection."""

from __future__ import annotations

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.files.stores.s3_objects import S3Objects
from flowrunner_provider.files.stores.s3_span import Span

__all__ = ["read_into"]

_ATTEMPTS = 5

_RETRY_SECONDS = 300.0
"""Seconds for retries here; afterwards the next attempt of the task resumes the range."""


async def read_into(
    objects: S3Objects, what: str, file: OpenFile, key: str, offset: int, length: int, version: str
) -> int:
    """Return the CRC-32 of the range; see :class:`~flowrunner_provider.files.store.RangeStore`.

    :param what: the operation and its object, for messages.
    :raises IntegrityError: if the object has another version, or the server sends another range.
    """
    span = Span(what, file, offset, offset + length)
    try:
        await RetryPlan(attempts=_ATTEMPTS).acall(
            lambda: objects.receive(what, key, span, version), Deadline(_RETRY_SECONDS)
        )
    finally:
        span.given_up = True
    return span.checksum
