"""The body of a request that sends many pieces as they are, without a copy of them all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from hashlib import md5

__all__ = ["Body"]


class Body:
    """A file for botocore and what is below it: they read to the end, go back to a beginning, and send what comes.

    ``read`` gives at most one piece, though that may be more than was asked for.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._size = sum(map(len, pieces))
        self._next = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        if self._next == len(self._pieces):
            return b""
        self._next += 1
        return self._pieces[self._next - 1]

    def tell(self) -> int:
        return sum(map(len, self._pieces[: self._next]))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._next = {(0, os.SEEK_SET): 0, (0, os.SEEK_END): len(self._pieces)}[offset, whence]
        return self.tell()

    def md5(self) -> str:
        """In hexadecimal; blocking."""
        checksum = md5(usedforsecurity=False)
        for piece in self._pieces:
            checksum.update(piece)
        return checksum.hexdigest()

    def crc32(self) -> int:
        """Blocking."""
        checksum = 0
        for piece in self._pieces:
            checksum = zlib.crc32(piece, checksum)
        return checksum
