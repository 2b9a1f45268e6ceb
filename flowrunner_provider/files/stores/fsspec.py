"""The store for all filesystems that fsspec can open and that have no store of their own.

fsspec guarantees little, and the capabilities of this store say so. A file is written to ``.{name}.{token}.part`` and
then moved with the filesystem's own ``mv``, or copied and deleted if it has none. Uploads are never resumed. After an
error, an open file is never *closed*: closing makes fsspec's buffered files publish whatever they hold, even a
truncated object.

fsspec calls block, so each one runs in a thread. A folder is listed as one list in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace as changed
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flowrunner_provider.core.errors import (
    AlreadyExists,
    FlowRunnerError,
    NotFound,
    PermanentError,
    TimedOut,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.folders import FolderPaths, part_of
from flowrunner_provider.files.stores.fsspec_errors import FilesystemErrors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["FsspecStore", "FsspecUpload"]

T = TypeVar("T")

_CHUNK = 1 << 20
_THREADS = 8
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "lastModifiedDateTime", "created")
_VERSIONS = ("ETag", "etag", "eTag", "generation", "version_id", "ino")
_CAPABILITIES = Capabilities(
    atomic_replace=False,
    atomic_create=False,
    resumable_upload=False,
    readable_parts=True,
    sets_modified=False,
)


class FsspecStore(FolderPaths):
    """The files of one fsspec filesystem.

    :param open_filesystem: returns the filesystem; called in a thread when the store is entered.
    :param base: the prefix of every path, e.g. a bucket or container; usually empty.
    :param where: the name of the store in messages.
    :param timeout: the time limit of one call, in seconds.
    """

    def __init__(
        self, open_filesystem: Callable[[], AbstractFileSystem], *, base: str = "", where: str, timeout: float = 300.0
    ) -> None:
        self._open, self._base, self.where, self._timeout = open_filesystem, base, where, timeout
        self.capabilities = _CAPABILITIES
        self._threads: ThreadPoolExecutor | None = None
        self._filesystem: AbstractFileSystem | None = None

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flowrunner-fsspec")
        self._filesystem = await self.call(f"opening {self.where}", self._open)
        if not _has_mv(self._filesystem):  # readers may see a partial copy
            self.capabilities = changed(_CAPABILITIES, visible_partials=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:  # does not wait for calls that hang
            self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem; only while the store is open."""
        if self._filesystem is None:
            raise ValueError("the store is not open")
        return self._filesystem

    async def call(self, what: str, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run a blocking call in a thread with the store's timeout, and translate its errors."""

        def run() -> T:
            with FilesystemErrors(what):
                return work(*arguments, **options)

        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except TimeoutError as error:
            raise TimedOut(
                f"{what} took longer than {self._timeout:g} s", remedy="raise the connection's timeout"
            ) from error

    def label(self, path: str) -> str:
        """Return ``path`` as messages show it."""
        return f"{self.where}{path}"

    def name(self, path: str) -> str:
        """Return ``path`` as the filesystem expects it."""
        return f"{self._base}{path}"

    async def stat(self, path: str) -> Entry:
        return _entry(path, await self._info(path))

    async def _info(self, path: str) -> Mapping[str, Any]:
        filesystem = self.filesystem

        def info() -> Mapping[str, Any]:
            filesystem.invalidate_cache()  # other processes may have changed the folder
            found: Mapping[str, Any] = filesystem.info(self.name(path))
            return found

        return await self.call(self.label(path), info)

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        folders = [path]
        while folders:
            folder = folders.pop()
            for entry in await self._scan(folder):
                if recursive and entry.is_dir and not entry.is_link:
                    folders.append(entry.path)
                yield entry

    async def _scan(self, folder: str) -> Sequence[Entry]:
        filesystem, here = self.filesystem, self.name(folder).strip("/")

        def ls() -> Sequence[Mapping[str, Any]]:
            filesystem.invalidate_cache()
            found: Sequence[Mapping[str, Any]] = filesystem.ls(self.name(folder), detail=True)
            return found

        what = f"listing {self.label(folder)}"
        found = await self.call(what, ls)
        inside = [info for info in found if str(info["name"]).strip("/") != here]
        if not inside and not _entry(folder, await self._info(folder)).is_dir:
            raise PermanentError(f"{self.label(folder)} is not a folder", remedy="check the path")
        prefix = folder.rstrip("/") + "/"
        return [_entry(prefix + str(info["name"]).rstrip("/").rpartition("/")[2], info) for info in inside]

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        what = f"reading {self.label(path)}"
        file = await self.call(what, self.filesystem.open, self.name(path), "rb")
        end = None if length is None else offset + length
        try:
            if offset:
                await self.call(what, file.seek, offset)
            while end is None or offset < end:
                chunk = await self.call(what, file.read, _CHUNK if end is None else min(_CHUNK, end - offset))
                if not chunk:
                    return
                offset += len(chunk)
                yield chunk
        finally:
            with suppress(FlowRunnerError):
                await self.call(what, file.close)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> FsspecUpload:
        upload = FsspecUpload(self, path, part_of(path, token))
        await upload.open()
        return upload

    async def forget(self, path: str, token: str) -> None:
        await self.remove_if_there(part_of(path, token))

    async def remove_if_there(self, path: str) -> None:
        """Remove a file if it exists."""
        with suppress(NotFound):
            await self._info(path)
            await self.call(f"deleting {self.label(path)}", self.filesystem.rm_file, self.name(path))

    async def delete(self, path: str) -> None:
        if (await self.stat(path)).is_dir:
            raise PermanentError(f"{self.label(path)} is a folder", remedy="name a file")
        failpoint("fsspec.before_delete")
        await self.call(f"deleting {self.label(path)}", self.filesystem.rm_file, self.name(path))
        failpoint("fsspec.after_delete")

    async def mkdir(self, path: str, parents: bool = False) -> None:
        with suppress(NotFound):
            if (await self.stat(path)).is_dir:
                return
            raise AlreadyExists(f"{self.label(path)} exists and is not a folder", remedy="choose another name")
        parent = path.rstrip("/").rpartition("/")[0]
        if parent and not parents:
            await self.stat(parent)
        what = f"making the folder {self.label(path)}"
        await self.call(what, self.filesystem.makedirs, self.name(path), exist_ok=True)

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        await self.stat(path)
        with suppress(NotFound):
            taken = await self.stat(target)
            if taken.is_dir or not replace:
                raise AlreadyExists(
                    f"{self.label(target)} already exists",
                    remedy="choose another name, or set if_exists to 'overwrite'",
                )
        await self.call(f"renaming {self.label(path)} to {self.label(target)}", self._move, path, target)

    def _move(self, path: str, target: str) -> None:
        """Move a file. fsspec's generic ``mv`` is avoided: it expands wildcards in names. Blocking."""
        filesystem = self.filesystem
        failpoint("fsspec.before_move")
        if not _has_mv(filesystem):
            filesystem.cp_file(self.name(path), self.name(target))
            failpoint("fsspec.between_copy_and_delete")
            filesystem.rm_file(self.name(path))
        else:
            try:
                filesystem.mv(self.name(path), self.name(target))
            except FileExistsError:
                filesystem.rm_file(self.name(target))
                failpoint("fsspec.between_remove_and_move")
                filesystem.mv(self.name(path), self.name(target))
        failpoint("fsspec.after_move")


class FsspecUpload:
    """A temporary file beside the final name.

    :meth:`size`, :meth:`read_back` and :meth:`commit` close it, which completes it; nothing else does.
    """

    def __init__(self, store: FsspecStore, path: str, part: str) -> None:
        self._store, self._path, self._part = store, path, part
        self._what = f"writing {store.label(path)}"
        self._file: Any = None
        self.offset = 0

    async def open(self) -> None:
        """Create the temporary file, replacing an older one."""
        await self._store.remove_if_there(self._part)
        failpoint("fsspec.before_open")
        self._file = await self._store.call(self._what, self._store.filesystem.open, self._store.name(self._part), "wb")

    async def write(self, chunk: bytes) -> None:
        if self._file is not None:
            await self._store.call(self._what, self._file.write, chunk)
            self.offset += len(chunk)

    async def sync(self) -> None:
        """Do nothing: uploads are not resumed, so no data has to be kept."""

    async def _complete(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                await self._store.call(self._what, file.close)
            except BaseException:
                _abandon(file)
                raise

    async def size(self) -> int:
        await self._complete()
        return (await self._store.stat(self._part)).size or 0

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._complete()
        async for chunk in self._store.read(self._part, offset, length):
            yield chunk

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        await self._complete()
        failpoint("fsspec.before_commit")
        await self._store.rename(self._part, self._path, replace=replace)
        failpoint("fsspec.after_commit")

    async def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            _abandon(file)

    async def discard(self) -> None:
        await self.close()
        await self._store.remove_if_there(self._part)

    async def withdraw(self) -> None:
        """Keep the temporary file: it may belong to a newer attempt."""
        await self.close()


def _abandon(file: Any) -> None:
    """Drop an open file without completing it; a normal close would publish what was written."""
    from fsspec.spec import AbstractBufferedFile

    if not isinstance(file, AbstractBufferedFile):
        with suppress(OSError):
            file.close()
        return
    file.closed = True
    with suppress(OSError, AttributeError, NotImplementedError):
        file.discard()


def _has_mv(filesystem: AbstractFileSystem) -> bool:
    from fsspec import AbstractFileSystem
    from fsspec.implementations.dirfs import DirFileSystem

    if isinstance(filesystem, DirFileSystem):
        return _has_mv(filesystem.fs)
    return type(filesystem).mv is not AbstractFileSystem.mv


def _entry(path: str, info: Mapping[str, Any]) -> Entry:
    is_dir = info.get("type") == "directory"
    size = info.get("size")
    return Entry(
        path=path,
        name=path.rstrip("/").rpartition("/")[2],
        size=None if is_dir or size is None else int(size),
        modified=next((_moment(info[key]) for key in _TIMES if info.get(key) not in (None, "")), None),
        is_dir=is_dir,
        is_link=bool(info.get("islink")) or info.get("type") == "link",
        version=next((str(info[key]) for key in _VERSIONS if info.get(key)), ""),
    )


def _moment(value: Any) -> datetime | None:
    """Parse a time as filesystems report it: a datetime, seconds since 1970, or ISO 8601."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # beyond the year 9999
            return datetime.fromtimestamp(value, UTC)
    return None
