"""Bodies of requests that are sent as they are, without a copy of them all: many pieces, or a range of a file.

A line of ours is given them by :meth:`Body.give`; botocore takes them for files.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import md5, sha256
from typing import TYPE_CHECKING

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.core.open_file import OpenFile

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.s3_wire_line import Line

__all__ = ["Body", "FileBody", "PiecesBody"]

_BUFFER = 1024 * 1024


class Body(ABC):
    """A file for botocore and what is below it: they read to the end, go back to a beginning, and send what comes.

    ``read`` gives at most one piece, though that may be more than was asked for.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, size: int = -1) -> bytes | memoryview: ...

    @abstractmethod
    def tell(self) -> int: ...

    @abstractmethod
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int: ...

    @abstractmethod
    def pieces(self) -> Iterator[bytes | memoryview]:
        """All of it, for its checksum; blocking. Each piece only until the next one."""

    @abstractmethod
    def give(self, line: Line) -> None:
        """Send all of it; blocking."""

    def md5(self) -> str:
        """In hexadecimal; blocking."""
        checksum = md5(usedforsecurity=False)
        for piece in self.pieces():
            checksum.update(piece)
        return checksum.hexdigest()

    def sha256(self) -> str:
        """In hexadecimal; blocking."""
        checksum = sha256(usedforsecurity=False)
        for piece in self.pieces():
            checksum.update(piece)
        return checksum.hexdigest()

    def crc32(self) -> int:
        """Blocking."""
        checksum = 0
        for piece in self.pieces():
            checksum = zlib.crc32(piece, checksum)
        return checksum


class PiecesBody(Body):
    """What has come in pieces."""

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

    def pieces(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def give(self, line: Line) -> None:
        """By few calls: each waits for the interpreter, which another thread is busy with."""
        line.send_all(self._pieces)


class FileBody(Body):
    """A range of an open file, read when it is sent, through one small buffer.

    A file that has become shorter since its checksum was taken is filled up with zeros, which the checksum refuses:
    an answer comes sooner than by an end in the middle.
    """

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        self._file, self._offset, self._length = file, offset, length
        self._at = 0

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes | memoryview:
        if self._at == self._length:
            return b""
        if not self._at:
            self._buffer = memoryview(bytearray(min(_BUFFER, self._length)))
        piece = self._buffer[: self._length - self._at]
        got = self._file.read_into(piece, self._offset + self._at)
        piece[got:] = bytes(len(piece) - got)
        self._at += len(piece)
        return piece

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {(0, os.SEEK_SET): 0, (0, os.SEEK_END): self._length}[offset, whence]
        return self._at

    def pieces(self, start: int = 0) -> Iterator[memoryview]:
        """:raises IntegrityError: if the file ends before the range."""
        buffer, at = memoryview(bytearray(min(_BUFFER, self._length))), start
        while at < self._length:
            piece = buffer[: self._length - at]
            if self._file.read_into(piece, self._offset + at) < len(piece):
                raise IntegrityError(
                    f"{self._file.path} has become shorter while it was read", remedy="copy it when it is finished"
                )
            at += len(piece)
            yield piece

    def give(self, line: Line) -> None:
        """Straight from the file where that is possible: the checksum has been taken, and the far side compares it."""
        sent = line.send_file(self._file, self._offset, self._length) if line.plain else 0
        for piece in self.pieces(sent):
            line.send(piece)
