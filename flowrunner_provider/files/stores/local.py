"""This machine's disks. Links are never followed; what takes long runs in a thread."""

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
"""Up to so many bytes are read or written in less time than a turn in a thread takes."""

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
        self._near, self._insides = Nearby(), Insides()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def join(self, folder: str, relative: str) -> str:
        return self._insides.resolve(folder, relative)

    async def stat(self, path: str) -> Entry:
        with disk_errors(path):
            return _entry(path, os.lstat(path))

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        waiting = [path]
        while waiting:
            batches = _scan(waiting.pop())
            while batch := await self._near.call(next, batches, None):
                for entry in batch:
                    if recursive and entry.is_dir:
                        waiting.append(entry.path)
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
        return await self._near.call(_read_whole, path, size, version)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> LocalUpload:
        upload = LocalUpload(PartFile(path, token), self._near)
        if resume_at:
            await asyncio.to_thread(upload.open, resume_at)
        return upload

    async def forget(self, path: str, token: str) -> None:
        with disk_errors(path):
            Path(path).with_name(part_name(Path(path).name, token)).unlink(missing_ok=True)

    async def delete(self, path: str) -> None:
        with disk_errors(path):
            failpoint("local.before_delete")
            await self._near.call(os.unlink, path)
            failpoint("local.after_delete")

    async def mkdir(self, path: str, parents: bool = False) -> None:
        with disk_errors(path):
            await self._near.call(Path(path).mkdir, parents=parents, exist_ok=True)

    async def rmdir(self, path: str) -> bool:
        with disk_errors(path):
            try:
                await self._near.call(os.rmdir, path)
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
                await self._near.call(os.replace, path, target)
                return
            try:
                await self._near.call(os.link, path, target, follow_symlinks=False)
            except FileExistsError as error:
                raise AlreadyExists(f"{target} is there already", remedy="choose another name") from error
            await self._near.call(os.unlink, path)


class LocalUpload:
    """A :class:`~flowrunner_provider.core.part_file.PartFile`, used from an event loop.

    What fits into :data:`CHUNK` waits here until it is asked for, so that a small file is written in one go.
    """

    def __init__(self, part: PartFile, near: Nearby) -> None:
        self._part, self._near = part, near
        self._mode: int | None = None
        self._waiting = bytearray()
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

    def _taken(self) -> bytearray:
        data, self._waiting = self._waiting, bytearray()
        return data

    async def write(self, chunk: bytes) -> None:
        self.offset += len(chunk)
        if len(chunk) >= CHUNK and not self._waiting:
            await asyncio.to_thread(self._write, chunk)
            return
        self._waiting += chunk
        if len(self._waiting) >= CHUNK:
            await asyncio.to_thread(self._write, self._taken())

    async def sync(self) -> None:
        """The bytes are the operating system's: they survive this process, and :meth:`commit` makes them durable."""
        if len(self._waiting) > _SMALL:
            await asyncio.to_thread(self._write, self._taken())
        elif self._waiting or not self._open:
            await self._near.call(self._write, self._taken())

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
        await (self._near.call(commit) if self.offset <= _SMALL else asyncio.to_thread(commit))

    async def close(self) -> None:
        self._part.close()

    async def discard(self) -> None:
        self._waiting.clear()
        with disk_errors(str(self._part.path)):
            self._part.discard()

    async def withdraw(self) -> None:
        self._waiting.clear()
        self._part.withdraw()


def _read_whole(path: str, size: int, version: str) -> bytes | None:
    """Blocking. One call of the system reads so little at one moment; one byte more shows a file that has grown."""
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
    """The entries of one folder, in batches; blocking. An entry that vanishes meanwhile is left out."""
    batch: list[Entry] = []
    with disk_errors(folder), os.scandir(str(Path(folder))) as found:
        for item in found:
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
        modified=datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC),
        is_dir=stat.S_ISDIR(status.st_mode),
        is_link=stat.S_ISLNK(status.st_mode),
        version=str(status.st_ino),
    )
