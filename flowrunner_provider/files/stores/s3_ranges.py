"""A range of an object into an open file: received, summed and written by one thread, through one small buffer."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConnectionLost
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import RetryPlan

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.s3 import S3Store

__all__ = ["Span", "read_into"]

_BUFFER = 1024 * 1024

_TRIES = 5

_WHILE = 300.0
"""Seconds within which a broken connection is gone on with; then it is the task's next attempt that does so."""


async def read_into(store: S3Store, file: OpenFile, key: str, offset: int, length: int, version: str) -> int:
    """See :class:`~flowrunner_provider.files.store.RangeStore`. A connection that breaks is gone on with where it was.

    :raises IntegrityError: if the object is another version by now, or the answer another range.
    """
    what = f"reading {store.label(key)}"
    span = Span(what, file, offset, offset + length)
    try:
        await RetryPlan(attempts=_TRIES).acall(
            lambda: store.objects.receive(what, key, span, version), Deadline(_WHILE)
        )
    finally:
        span.given_up = True
    return span.checksum


class Span:
    """What is left of a range.

    :param what: what is being done, on what; for messages.
    :param start: the first byte that is missing; :attr:`at` goes on with what arrives.
    :param end: the first byte behind it.
    :param given_up: nobody waits for it any more.
    """

    def __init__(self, what: str, file: OpenFile, start: int, end: int) -> None:
        self._what, self._file = what, file
        self.at, self.end = start, end
        self.checksum = 0
        self.given_up = False

    @property
    def left(self) -> int:
        """Bytes that are missing."""
        return self.end - self.at

    @property
    def header(self) -> str:
        """The same as ``Range`` says it."""
        return f"bytes={self.at}-{self.end - 1}"

    def receive(self, read: Callable[[memoryview], int]) -> None:
        """Blocking. Write what is missing.

        :param read: fills a buffer, not always to its end; 0 at the end of all.
        """
        buffer = memoryview(bytearray(min(_BUFFER, self.left)))
        while self.left and not self.given_up:
            got = read(buffer[: self.left])
            if not got:
                raise ConnectionLost(f"{self._what}: the answer ended too early", remedy="check the network")
            self._file.write(buffer[:got], self.at)
            self.checksum = zlib.crc32(buffer[:got], self.checksum)
            self.at += got
