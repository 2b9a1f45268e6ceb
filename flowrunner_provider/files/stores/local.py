"""Files on the worker's own disks. Symbolic links are never followed, and slow calls run in a thread."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from flowrunner_provider.core.errors import AlreadyExists, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import Insides, part_name
from flowrunner_provider.core.nearby import Nearby
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.part_file import PartFile, disk_errors
from flowrunner_provider.files.store import Capabilities, Entry

__all__ = ["CHUNK", "LocalStore"]

CHUNK = 4 * 255 * 1024
"""Bytes per read: four blocks of an SFTP write, about 1 MiB."""

_SMALL = 256 * 1024
"""Reading or writing up to this many bytes is faster than handing the call to a thread."""

_BATCH = 128

_CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=True,
    resumable_upload=True,
    readable_parts=True,
    case_sensitive=sys.platform not in ("darwin", "win32"),
    modified_precision=1e-6,
    sets_mode=True,
    removes_folders=True,
    reads_whole=_SMALL,
    nearby=True,
    opens_files=True,
)


class LocalStore:
    """Files by their absolute path on the worker."""

    capabilities = _CAPABILITIES
    where = "this machine"

    def __init__(self) -> None:
        self._nearby, self._insides = Nearby(), Insides()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: the store holds no resources."""

    def join(self, folder: str, relative: str) -> str:
        return self._insides.resolve(folder, relative)

    async def stat(self, path: str) -> Entry:
        with disk_errors(path):
            return _entry(path, os.lstat(path))

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        folders = [path]
        while folders:
            batches = _scan(folders.pop())
            while batch := await self._nearby.call(next, batches, None):
                for entry in batch:
                    if recursive and entry.is_dir:
                        folders.append(entry.path)
                    yield entry

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        file = OpenFile.to_read(path)
        end = None if length is None else offset + length
        while end is None or offset < end:
            wanted = CHUNK if end is None else min(CHUNK, end - offset)
            chunk = await asyncio.to_thread(file.read, wanted, offset)
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    async def open_file(self, path: str) -> OpenFile:
        return OpenFile.to_read(path)

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        return await self._nearby.call(_read_whole, path, size, version)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> LocalUpload:
        upload = LocalUpload(PartFile(path, token), self._nearby)
        if resume_at:
            await asyncio.to_thread(upload.open, resume_at)
        return upload

    async def forget(self, path: str, token: str) -> None:
        with disk_errors(path):
            Path(path).with_name(part_name(Path(path).name, token)).unlink(missing_ok=True)

    async def delete(self, path: str) -> None:
        with disk_errors(path):
            failpoint("local.before_delete")
            await self._nearby.call(os.unlink, path)
            failpoint("local.after_delete")

    async def mkdir(self, path: str, parents: bool = False) -> None:
        with disk_errors(path):
            await self._nearby.call(Path(path).mkdir, parents=parents, exist_ok=True)

    async def rmdir(self, path: str) -> bool:
        with disk_errors(path):
            try:
                await self._nearby.call(os.rmdir, path)
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        with disk_errors(path):
            if replace:
                await self._nearby.call(os.replace, path, target)
                return
            try:
                await self._nearby.call(os.link, path, target, follow_symlinks=False)
            except FileExistsError as error:
                raise AlreadyExists(f"{target} already exists", remedy="choose another name") from error
            await self._nearby.call(os.unlink, path)


class LocalUpload:
    """A :class:`~flowrunner_provider.core.part_file.PartFile` with an asynchronous interface.

    Up to :data:`CHUNK` bytes are buffered, so that a small file is written in one call.
    """

    def __init__(self, part: PartFile, nearby: Nearby) -> None:
        self._part, self._nearby = part, nearby
        self._mode: int | None = None
        self._buffer = bytearray()
        self._open = False
        self.offset = 0

    def open(self, resume_at: int) -> None:
        """Blocking."""
        if not self._open:
            self.offset, self._open = self._part.open(resume_at), True

    def _write(self, data: bytes | bytearray) -> None:
        """Blocking."""
        if not self._open:
            self._part.open()
            self._open = True
        self._part.write(data)

    def _take_buffer(self) -> bytearray:
        data, self._buffer = self._buffer, bytearray()
        return data

    async def write(self, chunk: bytes) -> None:
        self.offset += len(chunk)
        if len(chunk) >= CHUNK and not self._buffer:
            await asyncio.to_thread(self._write, chunk)
            return
        self._buffer += chunk
        if len(self._buffer) >= CHUNK:
            await asyncio.to_thread(self._write, self._take_buffer())

    async def sync(self) -> None:
        """Write the buffer. The data survives this process; :meth:`commit` also makes it survive a crash."""
        if len(self._buffer) > _SMALL:
            await asyncio.to_thread(self._write, self._take_buffer())
        elif self._buffer or not self._open:
            await self._nearby.call(self._write, self._take_buffer())

    async def open_file(self) -> OpenFile:
        await self.sync()
        return OpenFile(str(self._part.path), self._part.duplicate())

    def filled(self, offset: int) -> None:
        self.offset = offset

    async def size(self) -> int:
        return self._part.size()

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self.sync()
        end = self.offset if length is None else min(self.offset, offset + length)
        while offset < end:
            chunk = await asyncio.to_thread(self._part.read_at, offset, min(CHUNK, end - offset))
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    async def chmod(self, mode: int) -> None:
        self._mode = mode

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        seconds = None if modified is None else modified.timestamp()
        await self.sync()
        commit = partial(self._part.commit, replace=replace, mode=self._mode, modified=seconds, durable=durable)
        await (self._nearby.call(commit) if self.offset <= _SMALL else asyncio.to_thread(commit))

    async def close(self) -> None:
        self._part.close()

    async def discard(self) -> None:
        self._buffer.clear()
        with disk_errors(str(self._part.path)):
            self._part.discard()

    async def withdraw(self) -> None:
        self._buffer.clear()
        self._part.withdraw()


def _read_whole(path: str, size: int, version: str) -> bytes | None:
    """Read a small file in one system call, asking for one byte more to detect growth. Blocking."""
    with disk_errors(path):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise PermanentError(f"{path} is not a file", remedy="name a regular file")
            if version not in ("", str(status.st_ino)):
                return None
            data = os.read(file, size + 1)
        finally:
            os.close(file)
    return data if len(data) == size else None


def _scan(folder: str) -> Iterator[list[Entry]]:
    """Yield the entries of one folder in batches; entries that vanish meanwhile are left out. Blocking."""
    batch: list[Entry] = []
    with disk_errors(folder), os.scandir(str(Path(folder))) as items:
        for item in items:
            try:
                batch.append(_entry(item.path, item.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(
        path=path,
        name=path.rstrip("/").rpartition("/")[2],
        size=status.st_size,
        modified=_modified(status),
        is_dir=stat.S_ISDIR(status.st_mode),
        is_link=stat.S_ISLNK(status.st_mode),
        version=str(status.st_ino),
    )


def _modified(status: os.stat_result) -> datetime | None:
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    except (ValueError, OverflowError):  # some file systems keep times beyond the year 9999
        return None
