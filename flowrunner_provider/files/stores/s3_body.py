"""Request bodies that are sent without a copy in memory: a sequence of pieces, or a range of a file.

Our own connections send them with :meth:`Body.send_to`; botocore reads them as files.
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
    from flowrunner_provider.files.stores.s3_wire_blocking import BlockingConnection

__all__ = ["Body", "FileBody", "PiecesBody"]

_BUFFER = 1024 * 1024


class Body(ABC):
    """The part of the file protocol that botocore and urllib3 use: read to the end, and seek to the start or the end.

    ``read`` returns at most one piece, which may be larger than requested.
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
        """Yield the body in pieces, each valid until the next one; blocking."""

    @abstractmethod
    def send_to(self, connection: BlockingConnection) -> None:
        """Send the body; blocking."""

    def md5(self) -> str:
        """Return the hexadecimal digest; blocking."""
        checksum = md5(usedforsecurity=False)
        for piece in self.pieces():
            checksum.update(piece)
        return checksum.hexdigest()

    def sha256(self) -> str:
        """Return the hexadecimal digest; blocking."""
        checksum = sha256(usedforsecurity=False)
        for piece in self.pieces():
            checksum.update(piece)
        return checksum.hexdigest()

    def crc32(self) -> int:
        """Return the checksum; blocking."""
        checksum = 0
        for piece in self.pieces():
            checksum = zlib.crc32(piece, checksum)
        return checksum


class PiecesBody(Body):
    """A body in memory, in pieces."""

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

    def send_to(self, connection: BlockingConnection) -> None:
        """Send with few system calls, as each of them has to reacquire the GIL."""
        connection.send_all(self._pieces)


class FileBody(Body):
    """A range of an open file, read through one small buffer while it is sent.

    If the file was truncated after its checksum was taken, zeros are sent instead: the server then refuses the
    checksum at once, while a request that ends early would only time out.
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
                    f"{self._file.path} was truncated while it was read", remedy="copy it when its writer has finished"
                )
            at += len(piece)
            yield piece

    def send_to(self, connection: BlockingConnection) -> None:
        """Send straight from the file (sendfile) if possible: the server verifies the checksum taken before."""
        sent = connection.send_file(self._file, self._offset, self._length) if connection.plain else 0
        for piece in self.pieces(sent):
            connection.send(piece)
