"""Partial files of downloads: a local temporary file, or an upload session on any other store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from flowrunner_provider.core.part_file import PartFile, disk_errors
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.http.targets import Target, UploadHolder

__all__ = ["Part", "part_of"]


class Part(Protocol):
    """The received bytes of ``target``."""

    target: Target

    @property
    def offset(self) -> int:
        """Number of bytes."""

    async def open(self, offset: int, size: int | None) -> int:
        """Continue at ``offset``, or earlier if fewer bytes survived; return the offset."""

    async def write(self, block: bytes) -> None:
        """Append."""

    def read(self) -> AsyncIterator[bytes]:
        """Yield all bytes received so far."""

    async def sync(self) -> None:
        """Make the written bytes durable."""

    async def check_size(self, size: int) -> None:
        """Raise unless the store holds exactly ``size`` bytes."""

    def inode(self) -> int:
        """Return the inode that the final file will have; 0 on stores without inodes."""

    async def landed(self, size: int, inode: int, algorithm: str, checksum: str) -> bool:
        """Return whether an attempt that was about to commit has done so."""

    async def present(self) -> int | None:
        """Return the size of the file with the final name; None if there is none."""

    async def commit(self, *, replace: bool) -> None:
        """Give the file its final name."""

    async def close(self) -> None:
        """Close and keep it."""

    async def discard(self) -> None:
        """Remove it."""

    async def withdraw(self) -> None:
        """Remove it unless a newer attempt uses it."""


class _LocalPart:
    """A local file. Writes are not moved to a thread: the page cache accepts them as fast."""

    def __init__(self, target: Target, token: str) -> None:
        self.target, self._path = target, Path(target.path)
        self._part = PartFile(self._path, token)

    @property
    def offset(self) -> int:
        return self._part.tell()

    async def open(self, offset: int, size: int | None) -> int:
        return self._part.open(offset)

    async def write(self, block: bytes) -> None:
        self._part.write(block)

    async def read(self) -> AsyncIterator[bytes]:
        for chunk in self._part.read():
            yield chunk

    async def sync(self) -> None:
        self._part.sync()

    async def check_size(self, size: int) -> None:
        self.target.check_sizes(size, self._part.size())

    def inode(self) -> int:
        with disk_errors(str(self._path)):
            return self._part.part.stat().st_ino

    async def landed(self, size: int, inode: int, algorithm: str, checksum: str) -> bool:
        return self._path.is_file() and self._path.stat().st_ino == inode

    async def present(self) -> int | None:
        return self._path.stat().st_size if self._path.exists() else None

    async def commit(self, *, replace: bool) -> None:
        self._part.commit(replace=replace)

    async def close(self) -> None:
        self._part.close()

    async def discard(self) -> None:
        self._part.discard()

    async def withdraw(self) -> None:
        self._part.withdraw()


class _RemotePart(UploadHolder):
    """An upload session on any other store."""

    @property
    def offset(self) -> int:
        return self._open.offset

    async def open(self, offset: int, size: int | None) -> int:
        capabilities = self.target.store.capabilities
        wanted = offset if capabilities.resumable_upload and capabilities.readable_parts else 0
        self._upload = await self.target.begin(self._token, resume_at=wanted, size=size)
        return self._upload.offset

    async def write(self, block: bytes) -> None:
        await self._open.write(block)

    async def read(self) -> AsyncIterator[bytes]:
        async for chunk in self._open.read_back():
            yield chunk

    async def sync(self) -> None:
        if self._upload is not None:
            await self._upload.sync()

    def inode(self) -> int:
        return 0

    async def landed(self, size: int, inode: int, algorithm: str, checksum: str) -> bool:
        """Whether the part is gone and the final file has the size, and the checksum if one is known."""
        if await self.present() != size:
            return False
        try:
            survived = await self.open(size, size)
        finally:
            await self.close()
        if size and survived == size:
            return False
        if algorithm:
            digest = Digest(algorithm)
            async for chunk in self.target.store.read(self.target.path):
                digest.update(chunk)
            return digest.hexdigest() == checksum
        return True

    async def present(self) -> int | None:
        found = await self.target.entry()
        return None if found is None else found.size or 0

    async def commit(self, *, replace: bool) -> None:
        await self._open.commit(replace=replace)


def part_of(target: Target, token: str) -> Part:
    """Return the part of ``target``.

    :param token: names the task's temporary files, the same in every attempt.
    """
    return _LocalPart(target, token) if target.here else _RemotePart(target, token)
