"""A file of this machine that several threads read or write at once, each at its own place."""

from __future__ import annotations

import os
import stat

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.part_file import disk_errors

__all__ = ["OpenFile"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class OpenFile:
    """An open file; closed when nobody has it any more.

    A thread that nobody waits for goes on for a moment: were the file closed meanwhile, it would meet the next one
    that gets the same number.

    :param path: for messages.
    :param descriptor: taken over.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def to_read(cls, path: str) -> OpenFile:
        """A regular file and no link; anything else is a ``PermanentError``."""
        with disk_errors(path):
            file = cls(path, os.open(path, _READ))
            if not stat.S_ISREG(os.fstat(file._descriptor).st_mode):
                raise PermanentError(f"{path} is not a file", remedy="name a regular file")
        return file

    def read(self, size: int, offset: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        with disk_errors(self.path):
            return os.pread(self._descriptor, size, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer``; how many bytes came, fewer only where the file ends."""
        got = 0
        with disk_errors(self.path):
            while got < len(buffer) and (more := os.preadv(self._descriptor, [buffer[got:]], offset + got)):
                got += more
        return got

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data``; what lies before the offset may still be missing."""
        done = 0
        with disk_errors(self.path):
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)

    def send_to(self, socket: int, offset: int, size: int) -> int:
        """Have a socket that does not wait take at most ``size`` bytes; how many it took, none at the end.

        Errors are the socket's; ``ENOSYS`` and the like where the system cannot send from here.
        """
        return os.sendfile(socket, self._descriptor, offset, size)
