"""What a store is: the few operations that every place with files offers, and what each promises.

A store says by :class:`Capabilities` what it cannot do; nobody finds out by trying. Every operation either does
what it says or raises one class of :mod:`flowrunner_provider.core.errors`:

* ``NotFound`` only when the store *knows* that the thing is not there. No permission is ``AccessDenied``, a broken
  connection ``ConnectionLost``, silence ``TimedOut``; none of them is ever taken for "absent".
* A listing that fails in the middle raises in the middle; it never just ends.

**Under kills.** A file appears under its final name in :meth:`Upload.commit` and nowhere else, whole. Whatever was
written before lies under a hidden name (or in an upload that the store keeps) which the same *token* finds again.
``delete``, ``mkdir`` and ``rename`` are done or not done; each may be repeated.
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
    """One thing in a store; a tuple, as a listing makes very many of them.

    :param path: its path in the store, as the store takes it back.
    :param name: the last component.
    :param size: in bytes; None where the store cannot say.
    :param modified: in UTC; None where the store cannot say.
    :param is_link: a symbolic link, not followed; size and time are its own.
    :param version: changes whenever the content does (an ETag, a generation); empty where there is none.
    """

    path: str
    name: str
    size: int | None
    modified: datetime | None
    is_dir: bool = False
    is_link: bool = False
    version: str = ""


def identity(entry: Entry) -> tuple[int | None, datetime | None, str]:
    """What differs when the content of a file was changed or replaced."""
    return entry.size, entry.modified, entry.version


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a store can do.

    :param atomic_replace: ``commit(replace=True)`` swaps in one step; otherwise there is a moment without a file.
    :param atomic_create: ``commit(replace=False)`` cannot lose a race; otherwise it looks first.
    :param resumable_upload: a later ``begin`` with the same token finds what survived and goes on behind it. Without
        it nothing is skipped by position; a store may still recognise, by checksum, parts that it holds already.
    :param readable_parts: ``Upload.read_back`` works.
    :param ranged_read: ``read`` can start anywhere.
    :param server_side_copy: the store copies within itself: it is a :class:`CopyingStore`.
    :param presigns: it makes addresses that open one file to whoever has them: it is a :class:`SigningStore`.
    :param hashes: checksums that it keeps by itself, e.g. ``md5``.
    :param case_sensitive: ``A.txt`` and ``a.txt`` are two files.
    :param modified_precision: of ``Entry.modified``, in seconds.
    :param sets_modified: ``commit`` can give the file the time of its source.
    :param sets_mode: its uploads can be given permission bits: each is a :class:`ModeUpload`.
    :param removes_folders: it removes empty folders: it is a :class:`FolderStore`.
    :param visible_partials: readers may see a file before it is whole.
    :param posix_names: any name but ``.`` and ``..`` without ``/`` and NUL is possible.
    :param folders: a folder is a thing of its own; otherwise a prefix.
    :param reads_whole: files of up to so many bytes are read at one moment, in one go.
    :param finishes: the end of an upload and its check are one wait: each is a :class:`FinishingUpload`.
    :param tiny_at_once: so many files of a few KiB are under way at a time at the most; more would wait for each other.
    :param nearby: reading is cheap (this machine): a resumed digest is taken from here.
    :param opens_files: its files are open files of this machine: it is a :class:`DiskStore`, its uploads are each a
        :class:`DiskUpload`.
    :param reads_ranges: what is larger than so many bytes it writes into an open file of this machine by itself, in
        ranges of so many: it is a :class:`RangeStore`. 0 if it does not.
    :param takes_ranges: what is larger than so many bytes its uploads read from an open file of this machine by
        themselves, in parts of so many: each is a :class:`RangeUpload`. 0 if they do not.
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
    """A file that is being written and that nobody sees yet."""

    @property
    def offset(self) -> int:
        """How many bytes it holds: at first what survived of an earlier attempt, then what was written."""

    async def write(self, chunk: bytes) -> None:
        """Append ``chunk``. It may still be under way on return; a failure is raised by a later call."""

    async def sync(self) -> None:
        """All that was written has arrived and survives a kill of this process: now a checkpoint may say so."""

    async def size(self) -> int:
        """How many bytes the far side says it holds, asked after :meth:`sync`."""

    def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes as the far side holds them (only with ``readable_parts``)."""

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        """Give the file its final name, in one step where the store can.

        :param replace: False to raise ``AlreadyExists`` when the name is taken; the upload stays.
        :param modified: the time to give it, where the store can.
        :param durable: it survives a crash of the far side, too, where the store can; because the source is deleted.
        """

    async def close(self) -> None:
        """Let go; what was written stays for the next attempt. Harmless after commit and discard."""

    async def discard(self) -> None:
        """Let go and remove what was written."""

    async def withdraw(self) -> None:
        """Let go, and remove what was written if the store can tell that no newer attempt has it."""


class ModeUpload(Upload, Protocol):
    """An upload with permission bits (``sets_mode``)."""

    async def chmod(self, mode: int) -> None:
        """Nobody ever sees the file with other bits: it gets its final name with these."""


class FinishingUpload(Upload, Protocol):
    """An upload that does in one go what comes between its last byte and its name (``finishes``)."""

    async def finish(self, *, modified: datetime | None = None, durable: bool = False) -> None:
        """:meth:`sync`, and what :meth:`commit` does with the time and for durability; then commit only names it.

        Afterwards nothing can be written, read back, or given bits, and :meth:`size` is what the far side says.
        """


class DiskUpload(Upload, Protocol):
    """An upload whose part is a file of this machine (``opens_files``)."""

    async def open_file(self) -> OpenFile:
        """The part, for those who write what lies behind :attr:`offset` by themselves, in any order."""

    def filled(self, offset: int) -> None:
        """All before ``offset`` is written."""


class RangeUpload(Upload, Protocol):
    """An upload that reads an open file by itself (``takes_ranges``)."""

    async def write_file(self, file: OpenFile, size: int, advance: Callable[[int], None]) -> None:
        """Take all ``size`` bytes of a file for this upload, which is empty; on return they have arrived.

        :param size: more than ``takes_ranges``.
        :param advance: told how many bytes have arrived since it was told last.
        """


class Store(Protocol):
    """A place with files. ``async with`` opens it; entering may be tried again after a failure."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; final once the store is open."""

    @property
    def where(self) -> str:
        """How messages call it, e.g. ``sftp://partner@``; without secrets."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def join(self, folder: str, relative: str) -> str:
        """The path of ``relative`` below ``folder``; ``PathEscape`` for a name that would lead elsewhere."""

    async def stat(self, path: str) -> Entry:
        """What is at ``path``; a link is not followed. ``NotFound`` only when it is known not to be there."""

    def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        """What is in the folder ``path``, as it comes, in no order; with ``recursive`` also what is below.

        Links are given as such and not followed. Constant memory but for the open folders.
        """

    def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of a file from ``offset``, at most ``length`` of them. Fewer come only if the file ends there."""

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> Upload:
        """Start to write ``path``, or go on.

        :param token: names the task; its attempts share what they wrote.
        :param resume_at: go on at this many bytes, or where fewer survived; what lies beyond is cut off. 0: afresh,
            in a new file, so that a forgotten attempt that still writes writes into the void.
        :param size: the final size if known; some stores want it in advance.
        """

    async def forget(self, path: str, token: str) -> None:
        """Remove what uploads to ``path`` with ``token`` have left; nothing left is fine."""

    async def delete(self, path: str) -> None:
        """Remove a file. ``NotFound`` if it is not there; a folder is refused."""

    async def mkdir(self, path: str, parents: bool = False) -> None:
        """Make a folder; one that is there already is fine. A store without folders does nothing."""

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        """Rename a file. ``AlreadyExists`` if ``target`` is taken and may not be replaced."""


class FolderStore(Store, Protocol):
    """A store that removes folders (``removes_folders``)."""

    async def rmdir(self, path: str) -> bool:
        """Remove a folder if it is empty; whether it is gone now. One that is not there is gone."""


class WholeStore(Store, Protocol):
    """A store that reads small files in one go (``reads_whole``): nobody has to ask afterwards whether they changed."""

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        """A file as it is at one moment; None if it is not of this size and version.

        :param size: up to ``reads_whole``, and not 0.
        :param version: ``Entry.version``; empty for any.
        """


class DiskStore(Store, Protocol):
    """A store whose files are open files of this machine (``opens_files``)."""

    async def open_file(self, path: str) -> OpenFile:
        """A file to read from anywhere."""


class RangeStore(Store, Protocol):
    """A store that writes into an open file by itself (``reads_ranges``)."""

    @property
    def ranges_at_once(self) -> int:
        """How many ranges of one file it should be asked for at a time."""

    async def read_into(self, file: OpenFile, path: str, offset: int, length: int, version: str) -> int:
        """Write a range of a file to the same place in an open one; returns the CRC-32 of its bytes.

        :param version: ``Entry.version``; ``IntegrityError`` if it is another one by now, or too short.
        """


class CopyingStore(Store, Protocol):
    """A store that copies within itself (``server_side_copy``): no byte passes through this machine."""

    async def copy_within(self, path: str, target: str, *, replace: bool = True, version: str = "") -> Entry:
        """Copy a file of any size; returns what is at ``target`` then. Done or not done; it may be repeated.

        :param replace: False to raise ``AlreadyExists`` when ``target`` is taken.
        :param version: ``Entry.version`` that the file must still have; empty for any.
        """


class SigningStore(Store, Protocol):
    """A store that makes signed addresses (``presigns``)."""

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """A URL by which anybody may ``GET`` or ``PUT`` this one file until it expires; the store need not be open.

        :raises ConfigError: if the connection's credentials cannot sign.
        """
