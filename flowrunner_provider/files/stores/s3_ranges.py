"""A range of an object into an open file: received, summed and written by one thread, through one small buffer."""

from __future__ import annotations

import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConnectionLost, IntegrityError
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import RetryPlan

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.s3 import S3Store

__all__ = ["read_into"]

_BUFFER = 1024 * 1024

_TRIES = 5

_WHILE = 300.0
"""Seconds within which a broken connection is gone on with; then it is the task's next attempt that does so."""


async def read_into(store: S3Store, file: OpenFile, key: str, offset: int, length: int, version: str) -> int:
    """See :class:`~flowrunner_provider.files.store.RangeStore`. A connection that breaks is gone on with where it was.

    :raises IntegrityError: if the object is another version by now, or the answer another range.
    """
    what = f"reading {store.label(key)}"
    wanted = _Range(what, file, offset, offset + length)
    question = {"Bucket": store.bucket, "Key": key, "IfMatch": version}
    try:
        await RetryPlan(attempts=_TRIES).acall(
            lambda: store.client.run(what, lambda client: wanted.go_on(client, question)), Deadline(_WHILE)
        )
    finally:
        wanted.given_up = True
    return wanted.checksum


class _Range:
    """What is left of a range.

    :param given_up: nobody waits for it any more.
    """

    def __init__(self, what: str, file: OpenFile, start: int, end: int) -> None:
        self._what, self._file = what, file
        self._at, self._end = start, end
        self.checksum = 0
        self.given_up = False

    def go_on(self, client: Any, question: dict[str, str]) -> None:
        """Blocking. Ask for what is missing and write it."""
        from botocore.exceptions import IncompleteReadError
        from urllib3.exceptions import HTTPError

        span = f"{self._at}-{self._end - 1}"
        answer = client.get_object(**question, Range=f"bytes={span}")
        with closing(answer["Body"]) as body:
            if not str(answer.get("ContentRange", "")).startswith(f"bytes {span}/"):
                raise IntegrityError(
                    f"{self._what}: another range came than was asked for", remedy="look at what is before the store"
                )
            try:
                self._receive(body)
            except (IncompleteReadError, HTTPError):
                raise ConnectionLost(f"{self._what}: the connection broke", remedy="check the network") from None

    def _receive(self, body: Any) -> None:
        buffer = memoryview(bytearray(min(_BUFFER, self._end - self._at)))
        while self._at < self._end and not self.given_up:
            got = body.readinto(buffer[: self._end - self._at])
            if not got:
                raise ConnectionLost(f"{self._what}: the answer ended too early", remedy="check the network")
            self._file.write(buffer[:got], self._at)
            self.checksum = zlib.crc32(buffer[:got], self.checksum)
            self._at += got
