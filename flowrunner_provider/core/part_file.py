"""A file on this disk that appears under its final name only when it is whole.

The bytes go to a hidden sibling (``.orders.csv.<token>.part``). :meth:`PartFile.commit` makes them
durable and renames them in one step, so no reader ever sees a part, and a killed writer leaves
either the old file or the new one. The sibling outlives the process: the next attempt opens it with
the same token and goes on from an offset that it trusts.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, NotFound, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name

__all__ = ["PartFile", "disk_errors"]


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an :class:`OSError` into the error that says what to do.

    :param what: the path, for the message.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{what} is not there", remedy="check the path") from error
    except PermissionError as error:
        raise AccessDenied(f"{what} may not be used by this worker", remedy="check owner and mode") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PermanentError(
                f"the disk of {what} is full ({_free(what)} bytes are free)",
                remedy="free some space, then retry",
            ) from error
        raise PermanentError(f"{what}: {error.strerror or error}", remedy="look at the disk") from error


def _free(path: str) -> int | str:
    """How much is free where ``path`` is, or a word when even that cannot be found out."""
    try:
        return shutil.disk_usage(Path(path).parent).free
    except OSError:
        return "unknown"


class PartFile:
    """A file that is being written.

    :param path: the final name; its folder is created.
    :param token: names the writer, the same in every attempt of a task.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self.part = path.with_name(part_name(path.name, token))
        self._file: int | None = None

    def open(self, offset: int = 0) -> int:
        """Open the part at ``offset`` and cut off what lies beyond it; return where it really stands.

        That is less than ``offset`` when fewer bytes survived: then the caller starts again from there. At 0 the
        part is a new file: an attempt that is taken for dead and still writes no longer writes into it.
        """
        with disk_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            if offset == 0:
                if not self.part.is_symlink():  # a planted link is refused below, not removed
                    self.part.unlink(missing_ok=True)
                flags |= os.O_EXCL
            self._file = os.open(self.part, flags, 0o600)
            offset = min(offset, os.fstat(self._file).st_size)
            os.ftruncate(self._file, offset)
            os.lseek(self._file, offset, os.SEEK_SET)
        return offset

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the part file is not open")
        return self._file

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        with disk_errors(str(self.path)):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def tell(self) -> int:
        """How many bytes the part has."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def sync(self) -> None:
        """Make what was written durable: before a checkpoint that refers to it."""
        with disk_errors(str(self.path)):
            os.fsync(self._descriptor)

    def size(self) -> int:
        """How many bytes the disk says the part has."""
        with disk_errors(str(self.path)):
            return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """At most ``length`` of the bytes so far, from ``offset``."""
        with disk_errors(str(self.path)):
            return os.pread(self._descriptor, length, offset)

    def read(self) -> Iterator[bytes]:
        """The bytes so far, in chunks: to take up a digest where an earlier attempt left it."""
        position = 0
        while chunk := self.read_at(position, 1 << 20):
            yield chunk
            position += len(chunk)

    def commit(
        self,
        *,
        replace: bool = True,
        mode: int | None = None,
        modified: float | None = None,
        durable: bool = True,
    ) -> None:
        """Give the file its final name, in one step. A power failure leaves the old file or the whole new one.

        :param replace: False to raise :class:`AlreadyExists` when the final name is taken.
        :param mode: permission bits; by default what the process's umask grants.
        :param modified: the modification time to give it, in seconds since 1970 (UTC).
        :param durable: on return a power failure leaves the new one for certain.
        """
        with disk_errors(str(self.path)):
            if modified is not None:
                os.utime(self._descriptor, (modified, modified))
            os.fchmod(self._descriptor, mode if mode is not None else 0o666 & ~_umask())
            os.fsync(self._descriptor)
            self.close()
            failpoint("part_file.before_rename")
            if replace:
                self.part.replace(self.path)
            else:
                self._link()
            if durable:
                _sync_folder(self.path.parent)
            failpoint("part_file.after_rename")

    def _link(self) -> None:
        try:
            os.link(self.part, self.path)
        except FileExistsError as error:
            raise AlreadyExists(
                f"{self.path} is there already", remedy="choose another name, or if_exists='overwrite'"
            ) from error
        self.part.unlink()

    def close(self) -> None:
        """Let go of the file; the part stays for the next attempt."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        """Close and delete the part."""
        self.close()
        self.part.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
