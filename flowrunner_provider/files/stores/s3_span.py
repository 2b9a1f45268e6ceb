"""What is left of a range that is being received: summed and written by one thread, through one small buffer."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from flowrunner_provider.core.errors import ConnectionLost
from flowrunner_provider.core.open_file import OpenFile

__all__ = ["Span"]

_BUFFER = 1024 * 1024


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
