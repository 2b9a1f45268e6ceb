"""A range of an object into an open file, taken up where its connection broke."""

from __future__ import annotations

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.files.stores.s3_objects import S3Objects
from flowrunner_provider.files.stores.s3_span import Span

__all__ = ["read_into"]

_TRIES = 5

_WHILE = 300.0
"""Seconds within which a broken connection is gone on with; then it is the task's next attempt that does so."""


async def read_into(
    objects: S3Objects, what: str, file: OpenFile, key: str, offset: int, length: int, version: str
) -> int:
    """See :class:`~flowrunner_provider.files.store.RangeStore`. A connection that breaks is gone on with where it was.

    :param what: what is being done, on what; for messages.
    :raises IntegrityError: if the object is another version by now, or the answer another range.
    """
    span = Span(what, file, offset, offset + length)
    try:
        await RetryPlan(attempts=_TRIES).acall(lambda: objects.receive(what, key, span, version), Deadline(_WHILE))
    finally:
        span.given_up = True
    return span.checksum
