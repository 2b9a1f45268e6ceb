"""A file on this disk that appears under its final name only when it is whole.

The bytes go to a hidden sibling (``.orders.csv.<token>.part``). :meth:`PartFile.commit` makes them
durable and renames them in one step, so no reader ever sees a part, and a killed writer leaves
either the old file or the new one. The sibling outlives the process: the next attempt opens it with
the same token and goes on from an offset that it trusts.

Two attempts at once share the name and never the file: a part is locked while it is open, whoever finds it so begins
another one in its place, and a writer whose part has lost its name names nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, Fenced, NotFound, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name

__all__ = ["PartFile", "disk_errors"]

_ASKING = threading.Lock()
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = _FLAGS | os.O_CREAT | os.O_EXCL
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class disk_errors:  # noqa: N801 - used as a word of the language, like contextlib.suppress
    """Turn an :class:`OSError` of the block into the error that says what to do.

    :param what: the path, for the message.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _named(error, self._what) from error


def _named(error: OSError, what: str) -> PermanentError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{what} is not there", remedy="check the path")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{what} may not be used by this worker", remedy="check owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if _no_more_files(what):
            return PermanentError(
                f"the disk of {what} takes no further file: it has no inode left ({_free(what)} bytes are free)",
                remedy="delete files that nobody needs, then retry",
            )
        return PermanentError(
            f"the disk of {what} is full ({_free(what)} bytes are free)", remedy="free some space, then retry"
        )
    return PermanentError(f"{what}: {error.strerror or error}", remedy="look at the disk")


def _free(path: str) -> int | str:
    """How much is free where ``path`` is, or a word when even that cannot be found out."""
    try:
        return shutil.disk_usage(Path(path).parent).free
    except OSError:
        return "unknown"


def _no_more_files(path: str) -> bool:
    """Whether it is not bytes that are short; some file systems do not count inodes and say 0 of 0."""
    folder = Path(path).parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0


class PartFile:
    """A file that is being written.

    :param path: the final name; its folder is created.
    :param token: names the writer, the same in every attempt of a task.
    """

    def __init__(self, path: Path | str, token: str) -> None:
        self._path = str(path)
        folder, slash, name = self._path.rpartition("/")
        self._part = f"{folder}{slash}{part_name(name, token)}"
        self._file: int | None = None
        self._inode = 0
        self._alone = True  # nobody else goes on with the part

    @property
    def path(self) -> Path:
        """The final name."""
        return Path(self._path)

    @property
    def part(self) -> Path:
        """The name until then."""
        return Path(self._part)

    @part.setter
    def part(self, path: Path) -> None:
        """It was renamed."""
        self._part = str(path)

    def open(self, offset: int = 0) -> int:
        """Open the part at ``offset`` and cut off what lies beyond it; return where it really stands.

        That is less than ``offset`` when fewer bytes survived: then the caller starts again from there. At 0 the
        part is a new file: an attempt that is taken for dead and still writes no longer writes into it. So it is when
        that attempt still has the part open (a file system without locks cannot tell; there it is gone on with).
        """
        with disk_errors(self._path):
            file = self._old() if offset else None
            if file is None:
                file, offset = self._new(), 0
            self._file = file
            status = os.fstat(file)
            self._inode = status.st_ino
            if offset:
                offset = min(offset, status.st_size)
                os.ftruncate(file, offset)
                os.lseek(file, offset, os.SEEK_SET)
        return offset

    def _new(self) -> int:
        self._alone = True
        while _locked(file := self._created()) is False:  # another attempt goes on with it already
            os.close(file)
        return file

    def _created(self) -> int:
        try:
            return os.open(self._part, _NEW, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if not self.part.is_symlink():  # a planted link is refused below, not removed
                self.part.unlink(missing_ok=True)
        return os.open(self._part, _NEW, 0o600)

    def _old(self) -> int | None:
        """What an earlier attempt has left; None if that is nothing, or is still its own."""
        try:
            file = os.open(self._part, _FLAGS)
        except FileNotFoundError:
            return None
        locked = _locked(file)
        if locked is False or not self._names(os.fstat(file).st_ino):  # it may have got its final name meanwhile
            os.close(file)
            return None
        self._alone = locked is True
        return file

    def _names(self, inode: int) -> bool:
        """Whether the part's name is that of this very file."""
        try:
            return os.lstat(self._part).st_ino == inode
        except FileNotFoundError:
            return False

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the part file is not open")
        return self._file

    def write(self, data: bytes | bytearray) -> None:
        """Append ``data``."""
        with disk_errors(self._path):
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])

    def tell(self) -> int:
        """How many bytes the part has."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def duplicate(self) -> int:
        """Another descriptor of the part, which whoever gets it closes."""
        with disk_errors(self._path):
            return os.dup(self._descriptor)

    def sync(self) -> None:
        """Make what was written durable: before a checkpoint that refers to it."""
        with disk_errors(self._path):
            os.fsync(self._descriptor)

    def size(self) -> int:
        """How many bytes the disk says the part has."""
        with disk_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """At most ``length`` of the bytes so far, from ``offset``."""
        with disk_errors(self._path):
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
        :raises Fenced: when another attempt has begun the part afresh, or finished it. Only one that does so between
            two system calls, the last look and the rename, is not seen.
        """
        with disk_errors(self._path):
            if modified is not None:
                os.utime(self._descriptor, (modified, modified))
            os.fchmod(self._descriptor, mode if mode is not None else 0o666 & ~_umask())
            os.fsync(self._descriptor)
            failpoint("part_file.before_rename")
            if not self._names(self._inode):
                raise Fenced(
                    f"the part of {self._path} is not this attempt's any more",
                    remedy="nothing to do if a newer attempt of the task has taken over; else look who removes parts",
                )
            if replace:
                os.replace(self._part, self._path)  # noqa: PTH105 - as below: a Path costs more than the call
            else:
                self._link()
            self.close()  # not before: it is locked until it has its name
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
        """Close and delete the part; one that another attempt has begun in its place stays."""
        if self._file is None or self._names(self._inode):
            self.part.unlink(missing_ok=True)
        self.close()

    def withdraw(self) -> None:
        """Close the part, and delete it if nobody else can have it: for a writer that another one has succeeded.

        It looks as long as the part is open: the inode of a file that is gone may be given to another one.
        """
        with disk_errors(self._path):
            if self._file is not None and self._alone and self._names(self._inode):
                self.part.unlink(missing_ok=True)
        self.close()


def _locked(file: int) -> bool | None:
    """Lock an open file until it is closed: False if somebody else has; None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _umask() -> int:
    with _ASKING:  # it can only be read by setting it, and what two threads set must not stay
        current = os.umask(0o077)
        os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
