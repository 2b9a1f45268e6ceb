"""The missing rest of a range; one thread receives, checksums and writes it through one small buffer."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from flowrunner_provider.core.errors import ConnectionLost
from flowrunner_provider.core.open_file import OpenFile

__all__ = ["Span"]

_BUFFER = 1024 * 1024


class Span:
    """The missing rest of a range.

    :param what: the operation and its object, for messages.
    :param start: the offset of the first byte; :attr:`at` is that of the next missing byte.
    :param end: the offset behind the last byte.

    Set :attr:`given_up` to stop the thread that receives.
    """

    def __init__(self, what: str, file: OpenFile, start: int, end: int) -> None:
        self._what, self._file = what, file
        self.at, self.end = start, end
        self.checksum = 0
        self.given_up = False

    @property
    def left(self) -> int:
        """The number of missing bytes."""
        return self.end - self.at

    @property
    def header(self) -> str:
        """The value of the header ``Range``."""
        return f"bytes={self.at}-{self.end - 1}"

    def receive(self, read: Callable[[memoryview], int]) -> None:
        """Receive and write the missing bytes; blocking.

        :param read: reads into a buffer and returns the number of bytes, 0 at the end of the answer.
        """
        buffer = memoryview(bytearray(min(_BUFFER, self.left)))
        while self.left and not self.given_up:
            got = read(buffer[: self.left])
            if not got:
                raise ConnectionLost(f"{self._what}: the answer was truncated", remedy="check the network")
            self._file.write(buffer[:got], self.at)
            self.checksum = zlib.crc32(buffer[:got], self.checksum)
            self.at += got
