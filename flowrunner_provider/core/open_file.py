"""A local file that several threads read or write at different offsets."""

from __future__ import annotations

import os
import stat

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.part_file import disk_errors

__all__ = ["OpenFile"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class OpenFile:
    """An open file, closed when it is no longer referenced.

    An abandoned thread may run for a moment longer. If the file were closed explicitly, that thread could access the
    next file with the same descriptor.

    :param path: for messages.
    :param descriptor: owned by this object.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def to_read(cls, path: str) -> OpenFile:
        """Open a regular file for reading; anything else, including a link, raises ``PermanentError``."""
        with disk_errors(path):
            file = cls(path, os.open(path, _READ))
            if not stat.S_ISREG(os.fstat(file._descriptor).st_mode):
                raise PermanentError(f"{path} is not a file", remedy="name a regular file")
        return file

    def read(self, size: int, offset: int) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        with disk_errors(self.path):
            return os.pread(self._descriptor, size, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer``; return the number of bytes, fewer only at the end of the file."""
        got = 0
        with disk_errors(self.path):
            while got < len(buffer) and (count := os.preadv(self._descriptor, [buffer[got:]], offset + got)):
                got += count
        return got

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``; earlier bytes may still be missing."""
        done = 0
        with disk_errors(self.path):
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)

    def send_to(self, socket: int, offset: int, size: int) -> int:
        """Send at most ``size`` bytes to a non-blocking socket; return the number sent, 0 at the end.

        Errors are those of the socket, and ``ENOSYS`` or similar if the system does not support it.
        """
        return os.sendfile(socket, self._descriptor, offset, size)
