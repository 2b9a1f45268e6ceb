"""The store interface: the few operations that every place with files offers, and what each of them guarantees.

A store declares in :class:`Capabilities` what it can do; nobody finds out by trying. Every operation either succeeds
or raises one class of :mod:`flowrunner_provider.core.errors`:

* ``NotFound`` only if the store *knows* that the file does not exist. Missing permissions are ``AccessDenied``, a
  broken connection is ``ConnectionLost``, silence is ``TimedOut``; none of them is ever taken for "does not exist".
* A listing that fails half-way raises half-way; it never just ends.

**Under kills.** A file appears under its final name in :meth:`Upload.commit` and nowhere else, and it is complete.
Until then its bytes are under a hidden name (or in a multipart upload), which a later attempt finds by the same
*token*. ``delete``, ``mkdir`` and ``rename`` are atomic, and each may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from flowrunner_provider.core.open_file import OpenFile

__all__ = [
    "Capabilities", "CopyingStore", "DiskStore", "DiskUpload", "Entry", "FinishingUpload", "FolderStore", "ModeUpload",
    "RangeStore", "RangeUpload", "SigningStore", "Store", "Upload", "WholeStore", "identity",
]  # fmt: skip


class Entry(NamedTuple):
    """A file, folder or link in a store; a tuple, because a listing creates very many of them.

    :param path: the path in the store, in the form that the store's methods accept.
    :param name: the last component of the path.
    :param size: in bytes; None if the store does not know it.
    :param modified: in UTC; None if the store does not know it.
    :param is_link: whether it is a symbolic link; links are not followed, so size and time are those of the link.
    :param version: an ETag or generation, which changes whenever the content does; empty if the store has none.
    """

    path: str
    name: str
    size: int | None
    modified: datetime | None
    is_dir: bool = False
    is_link: bool = False
    version: str = ""


def identity(entry: Entry) -> tuple[int | None, datetime | None, str]:
    """Return what differs once the content of a file was changed or replaced."""
    return entry.size, entry.modified, entry.version


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a store can do.

    :param atomic_replace: ``commit(replace=True)`` swaps in one step; otherwise the file is missing for a moment.
    :param atomic_create: ``commit(replace=False)`` cannot lose a race; otherwise it checks first.
    :param resumable_upload: a later ``begin`` with the same token resumes after the bytes that survived. Otherwise no
        bytes are skipped by position, but a store may still recognize parts that it holds by their checksums.
    :param readable_parts: ``Upload.read_back`` works.
    :param ranged_read: ``read`` can start at any offset.
    :param server_side_copy: the store copies within itself; it is a :class:`CopyingStore`.
    :param presigns: the store creates presigned URLs; it is a :class:`SigningStore`.
    :param hashes: the checksums that the store keeps for every file, e.g. ``md5``.
    :param case_sensitive: ``A.txt`` and ``a.txt`` are two files.
    :param modified_precision: the precision of ``Entry.modified`` in seconds.
    :param sets_modified: ``commit`` can set the modification time.
    :param sets_mode: uploads can set permission bits; each is a :class:`ModeUpload`.
    :param removes_folders: the store removes empty folders; it is a :class:`FolderStore`.
    :param visible_partials: readers may see a file before it is complete.
    :param posix_names: every name without ``/`` and NUL, except ``.`` and ``..``, is allowed.
    :param folders: folders exist on their own; otherwise they are prefixes.
    :param reads_whole: files of up to this many bytes are read by one request, as of one moment.
    :param finishes: an upload can be synced and checked in one round trip; each is a :class:`FinishingUpload`.
    :param tiny_at_once: the maximum number of files of a few KiB in flight; more would only wait for each other.
    :param nearby: reading is cheap (this machine), so a resumed digest is computed from the part.
    :param opens_files: files are open files of this machine; the store is a :class:`DiskStore`, its uploads are
        :class:`DiskUpload`.
    :param reads_ranges: larger files (in bytes) can be written straight into an open file of this machine, in ranges
        of this size; the store is a :class:`RangeStore`. 0 if it cannot.
    :param takes_ranges: larger files (in bytes) can be read straight from an open file of this machine, in parts of
        this size; each upload is a :class:`RangeUpload`. 0 if it cannot.
    """

    atomic_replace: bool
    atomic_create: bool
    resumable_upload: bool
    readable_parts: bool
    ranged_read: bool = True
    server_side_copy: bool = False
    presigns: bool = False
    hashes: frozenset[str] = frozenset()
    case_sensitive: bool = True
    modified_precision: float = 1.0
    sets_modified: bool = True
    sets_mode: bool = False
    removes_folders: bool = False
    visible_partials: bool = False
    posix_names: bool = True
    folders: bool = True
    reads_whole: int = 0
    finishes: bool = False
    tiny_at_once: int = 256
    nearby: bool = False
    opens_files: bool = False
    reads_ranges: int = 0
    takes_ranges: int = 0


class Upload(Protocol):
    """A file that is being written and that readers do not see yet."""

    @property
    def offset(self) -> int:
        """The number of bytes it holds: initially those that survived from an earlier attempt."""

    async def write(self, chunk: bytes) -> None:
        """Append ``chunk``. It may still be in flight on return; a failure is raised by a later call."""

    async def sync(self) -> None:
        """Wait until all bytes have arrived and survive a kill of this process, so that a checkpoint may say so."""

    async def size(self) -> int:
        """Return how many bytes the server says it holds; called after :meth:`sync`."""

    def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes as the server holds them (only with ``readable_parts``)."""

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        """Give the file its final name, in one step if the store can.

        :param replace: if False, raise ``AlreadyExists`` if the name is taken; the upload is kept.
        :param modified: the modification time to set, if the store can.
        :param durable: make the file survive a crash of the server, if the store can; used when the source is deleted.
        """

    async def close(self) -> None:
        """Release all resources; the bytes are kept for the next attempt. Harmless after commit and discard."""

    async def discard(self) -> None:
        """Close the upload and delete what was written."""

    async def withdraw(self) -> None:
        """Close the upload, and delete what was written if certainly no newer attempt uses it."""


class ModeUpload(Upload, Protocol):
    """An upload with permission bits (``sets_mode``)."""

    async def chmod(self, mode: int) -> None:
        """Set the permission bits; the file never appears with others under its final name."""


class FinishingUpload(Upload, Protocol):
    """An upload that does everything between the last byte and the final name at once (``finishes``)."""

    async def finish(self, *, modified: datetime | None = None, durable: bool = False) -> None:
        """Do what :meth:`sync` does, and what :meth:`commit` does for time and durability; commit then only renames.

        Afterwards nothing can be written, read back or given permission bits. :meth:`size` is what the server
        reported.
        """


class DiskUpload(Upload, Protocol):
    """An upload to a file of this machine (``opens_files``)."""

    async def open_file(self) -> OpenFile:
        """Return the open file, for callers that write what follows :attr:`offset` themselves, in any order."""

    def filled(self, offset: int) -> None:
        """Record that everything before ``offset`` is written."""


class RangeUpload(Upload, Protocol):
    """An upload that reads an open file by itself (``takes_ranges``)."""

    async def write_file(self, file: OpenFile, size: int, advance: Callable[[int], None]) -> None:
        """Upload all ``size`` bytes of a file to this empty upload; on return they have arrived.

        :param size: more than ``takes_ranges``.
        :param advance: called with the number of bytes that have arrived since the last call.
        """


class Store(Protocol):
    """A place with files. ``async with`` opens it; entering may be retried after a failure."""

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do; final once it is open."""

    @property
    def where(self) -> str:
        """The name of the store in messages, e.g. ``sftp://partner@``; contains no secrets."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def join(self, folder: str, relative: str) -> str:
        """Return the path of ``relative`` below ``folder``; raise ``PathEscape`` if it would lead elsewhere."""

    async def stat(self, path: str) -> Entry:
        """Return the entry at ``path`` without following links; raise ``NotFound`` if it certainly does not exist."""

    def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        """Yield the entries of the folder ``path`` in no particular order; with ``recursive`` also those below it.

        Links are yielded as links and not followed. Memory is constant except for the open folders.
        """

    def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield at most ``length`` bytes from ``offset``. Fewer are yielded only if the file ends there."""

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> Upload:
        """Start an upload to ``path``, or resume one.

        :param token: names the task; its attempts share what they have written.
        :param resume_at: resume at this many bytes, or where fewer survived; anything beyond is cut off. With 0, a new
            temporary file is created, so that a forgotten attempt that is still writing cannot disturb it.
        :param size: the final size if known; some stores need it in advance.
        """

    async def forget(self, path: str, token: str) -> None:
        """Delete what uploads to ``path`` with ``token`` have left; it may be nothing."""

    async def delete(self, path: str) -> None:
        """Delete a file; raise ``NotFound`` if it does not exist. Folders are refused."""

    async def mkdir(self, path: str, parents: bool = False) -> None:
        """Create a folder unless it exists. A store without folders does nothing."""

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        """Rename a file; raise ``AlreadyExists`` if ``target`` exists and ``replace`` is False."""


class FolderStore(Store, Protocol):
    """A store that removes folders (``removes_folders``)."""

    async def rmdir(self, path: str) -> bool:
        """Remove a folder if it is empty, and return whether it is gone. A missing folder is gone."""


class WholeStore(Store, Protocol):
    """A store that reads small files by one request (``reads_whole``), so they cannot change while they are read."""

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        """Return a file as of one moment; None if it does not have this size and version.

        :param size: at most ``reads_whole``, and not 0.
        :param version: ``Entry.version``; empty for any.
        """


class DiskStore(Store, Protocol):
    """A store whose files are open files of this machine (``opens_files``)."""

    async def open_file(self, path: str) -> OpenFile:
        """Open a file that can be read at any offset."""


class RangeStore(Store, Protocol):
    """A store that writes into an open file by itself (``reads_ranges``)."""

    @property
    def ranges_at_once(self) -> int:
        """How many ranges of one file should be in flight."""

    async def read_into(self, file: OpenFile, path: str, offset: int, length: int, version: str) -> int:
        """Write a range of a file to the same place of an open file, and return the CRC-32 of its bytes.

        :param version: ``Entry.version``; ``IntegrityError`` if the file now has another one, or is too short.
        """


class CopyingStore(Store, Protocol):
    """A store that copies within itself (``server_side_copy``): no bytes pass through this machine."""

    async def copy_within(self, path: str, target: str, *, replace: bool = True, version: str = "") -> Entry:
        """Copy a file of any size, and return the new entry at ``target``. The copy is atomic and may be repeated.

        :param replace: if False, raise ``AlreadyExists`` if ``target`` exists.
        :param version: the ``Entry.version`` that the file must still have; empty for any.
        """


class SigningStore(Store, Protocol):
    """A store that creates presigned URLs (``presigns``)."""

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """Return a URL by which anyone may ``GET`` or ``PUT`` this file until it expires; the store need not be open.

        :raises ConfigError: if the credentials of the connection cannot sign.
        """
