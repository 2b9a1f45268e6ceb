"""Local files that get their final name only when they are complete.

The bytes go to a hidden sibling (``.orders.csv.<token>.part``). :meth:`PartFile.commit` makes them durable and renames
them atomically, so readers never see a partial file, and a killed writer leaves either the old file or the new one. The
sibling outlives the process: the next attempt opens it with the same token and continues at an offset that it trusts.

Two concurrent attempts share the name but never the file. A part is locked while it is open; an attempt that finds it
locked starts another one in its place, and a writer whose part has been replaced commits nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, Fenced, NotFound, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name

__all__ = ["PartFile", "disk_errors"]

_UMASK_LOCK = threading.Lock()
_UMASK = re.compile(rb"^Umask:\s*([0-7]+)$", re.MULTILINE)
_OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = _OPEN_FLAGS | os.O_CREAT | os.O_EXCL
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class disk_errors:  # noqa: N801 - used as a word of the language, like contextlib.suppress
    """Context manager that turns an :class:`OSError` into a typed error with a remedy.

    :param what: the path, for the message.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _typed(error, self._what) from error


def _typed(error: OSError, what: str) -> PermanentError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{what} does not exist", remedy="check the path")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{what} is not accessible to this worker", remedy="check owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if _no_more_files(what):
            return PermanentError(
                f"the disk of {what} has no inode left ({_free(what)} bytes are free)",
                remedy="delete unneeded files, then retry",
            )
        return PermanentError(
            f"the disk of {what} is full ({_free(what)} bytes are free)", remedy="free some space, then retry"
        )
    return PermanentError(f"{what}: {error.strerror or error}", remedy="check the disk")


def _free(path: str) -> int | str:
    """Return the free bytes of the path's disk, or "unknown"."""
    try:
        return shutil.disk_usage(Path(path).parent).free
    except OSError:
        return "unknown"


def _no_more_files(path: str) -> bool:
    """Return whether inodes, not bytes, are exhausted; some file systems report 0 of 0 inodes."""
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
    :param token: identifies the writer, the same in every attempt of a task.
    """

    def __init__(self, path: Path | str, token: str) -> None:
        self._path = str(path)
        folder, slash, name = self._path.rpartition("/")
        self._part = f"{folder}{slash}{part_name(name, token)}"
        self._file: int | None = None
        self._inode = 0
        self._alone = True  # no other attempt uses the part

    @property
    def path(self) -> Path:
        """The final name."""
        return Path(self._path)

    @property
    def part(self) -> Path:
        """The temporary name."""
        return Path(self._part)

    @part.setter
    def part(self, path: Path) -> None:
        """Record that the temporary file was renamed."""
        self._part = str(path)

    def open(self, offset: int = 0) -> int:
        """Open the part at ``offset`` and truncate what follows; return the actual offset.

        It is less than ``offset`` if fewer bytes survived; the caller must continue from there. At 0 the part is a new
        file, so that a presumably dead attempt that still writes does not write into it. The same happens if that
        attempt still has the part open (undetectable on a file system without locks, where the part is reused).
        """
        with disk_errors(self._path):
            file = self._open_existing() if offset else None
            if file is None:
                file, offset = self._create_locked(), 0
            self._file = file
            status = os.fstat(file)
            self._inode = status.st_ino
            if offset:
                offset = min(offset, status.st_size)
                os.ftruncate(file, offset)
                os.lseek(file, offset, os.SEEK_SET)
        return offset

    def _create_locked(self) -> int:
        self._alone = True
        while _locked(file := self._create()) is False:  # another attempt already uses it
            os.close(file)
        return file

    def _create(self) -> int:
        try:
            return os.open(self._part, _CREATE_FLAGS, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if not self.part.is_symlink():  # a planted link is refused below, not removed
                self.part.unlink(missing_ok=True)
        return os.open(self._part, _CREATE_FLAGS, 0o600)

    def _open_existing(self) -> int | None:
        """Open the part of an earlier attempt; None if there is none, or it is still in use."""
        try:
            file = os.open(self._part, _OPEN_FLAGS)
        except FileNotFoundError:
            return None
        locked = _locked(file)
        if locked is False or not self._is_named(os.fstat(file).st_ino):  # or it was committed meanwhile
            os.close(file)
            return None
        self._alone = locked is True
        return file

    def _is_named(self, inode: int) -> bool:
        """Return whether the temporary name still refers to this file."""
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
        """Make the written bytes durable, before a checkpoint that refers to them."""
        with disk_errors(self._path):
            os.fsync(self._descriptor)

    def size(self) -> int:
        """Return the size of the part on disk."""
        with disk_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes from ``offset``."""
        with disk_errors(self._path):
            return os.pread(self._descriptor, length, offset)

    def read(self) -> Iterator[bytes]:
        """Yield the bytes so far in chunks, to restore a digest of an earlier attempt."""
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
        """Give the file its final name atomically; a power failure leaves the old file or the complete new one.

        :param replace: False raises :class:`AlreadyExists` if the final name is taken.
        :param mode: permission bits; by default according to the umask.
        :param modified: modification time in seconds since 1970 (UTC).
        :param durable: on return, the new file survives a power failure.
        :raises Fenced: if another attempt has restarted or committed the part. A takeover between the last check and
            the rename, two system calls, goes unnoticed.
        """
        with disk_errors(self._path):
            if modified is not None:
                os.utime(self._descriptor, (modified, modified))
            os.fchmod(self._descriptor, mode if mode is not None else 0o666 & ~_umask())
            os.fsync(self._descriptor)
            failpoint("part_file.before_rename")
            if not self._is_named(self._inode):
                raise Fenced(
                    f"the temporary file of {self._path} no longer belongs to this attempt",
                    remedy="nothing to do if a newer attempt has taken over; otherwise find what removes .part files",
                )
            if replace:
                os.replace(self._part, self._path)  # noqa: PTH105 - as below: a Path costs more than the call
            else:
                self._link()
            self.close()  # after the rename: the lock must last until then
            if durable:
                _sync_folder(self.path.parent)
            failpoint("part_file.after_rename")

    def _link(self) -> None:
        try:
            os.link(self.part, self.path)
        except FileExistsError as error:
            raise AlreadyExists(
                f"{self.path} already exists", remedy="use another name, or if_exists='overwrite'"
            ) from error
        self.part.unlink()

    def close(self) -> None:
        """Close the file; the part stays for the next attempt."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        """Close and delete the part; the part of another attempt stays."""
        if self._file is None or self._is_named(self._inode):
            self.part.unlink(missing_ok=True)
        self.close()

    def withdraw(self) -> None:
        """Close the part, and delete it unless another attempt may use it; for a writer that was superseded.

        The check happens while the part is open, because a deleted file's inode may be reused.
        """
        with disk_errors(self._path):
            if self._file is not None and self._alone and self._is_named(self._inode):
                self.part.unlink(missing_ok=True)
        self.close()


def _locked(file: int) -> bool | None:
    """Lock an open file until it is closed: False if it is locked elsewhere, None without lock support."""
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
    """Return the umask: from Linux, because ``umask`` can only set it, for the files of all threads at that moment."""
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _umask_by_setting()
    try:
        found = _UMASK.search(os.read(status, 4096))
    finally:
        os.close(status)
    return int(found[1], 8) if found else _umask_by_setting()


def _umask_by_setting() -> int:
    with _UMASK_LOCK:
        current = os.umask(0o077)
        os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
