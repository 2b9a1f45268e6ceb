"""One file on its way to a server over SFTP: a part beside the final name, and a window of writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import AlreadyExists, FlowRunnerError, PermanentError, Rejected
from flowrunner_provider.core.failpoints import failpoint

if TYPE_CHECKING:
    import asyncssh

    from flowrunner_provider.files.stores.sftp import SftpStore

__all__ = ["READ", "WINDOW", "SftpUpload", "extension", "stop"]

WINDOW = 64
"""Requests under way per file; 64 of 255 KiB fill the channel's window of 16 MiB."""

READ, WRITE, CREATE, NEW = 0x01, 0x02, 0x08, 0x20  # SSH_FXF_*, draft-ietf-secsh-filexfer-02, section 6.3


def extension(client: asyncssh.SFTPClient, name: str) -> bool:
    """Whether the server has announced an extension; asyncssh keeps that to itself."""
    return bool(getattr(getattr(client, "_handler", None), f"_supports_{name}", False))


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel requests under way and wait until they are gone."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class SftpUpload:
    """A part file on the server, written with a window of requests under way."""

    def __init__(self, store: SftpStore, path: str, part: str) -> None:
        self._store, self._path, self._part = store, path, part
        self._what = f"writing {store.label(path)}"
        self._file: asyncssh.SFTPClientFile | None = None
        self._pending: deque[asyncio.Task[int]] = deque()
        self._buffer = bytearray()
        self._sent = 0

    @property
    def offset(self) -> int:
        return self._sent + len(self._buffer)

    @property
    def _open(self) -> asyncssh.SFTPClientFile:
        if self._file is None:
            raise ValueError("the upload is closed")
        return self._file

    async def open(self, resume_at: int) -> None:
        """Open the part; cut it off at ``resume_at``, or start a new file."""
        store, flags = self._store, READ | WRITE | CREATE
        if resume_at == 0:
            flags |= NEW
        try:
            file = await store.opened(self._part, flags, self._what)
        except (Rejected, AlreadyExists):
            if resume_at:
                raise
            await store.remove_if_there(self._part)
            file = await store.opened(self._part, flags, self._what)
        self._file = file
        self._store.streams += 1
        if resume_at:
            self._sent = min(resume_at, await self.size())
            await store.timed(file.truncate(self._sent), self._what)

    async def write(self, chunk: bytes) -> None:
        block = min(self._store.client.limits.max_write_len, 255 * 1024)
        if self._buffer:
            self._buffer += chunk
            chunk = bytes(self._buffer)
            self._buffer.clear()
        whole = len(chunk) - len(chunk) % block
        for start in range(0, whole, block):
            await self._send(chunk[start : start + block])
        self._buffer += chunk[whole:]

    async def _send(self, block: bytes) -> None:
        while len(self._pending) >= self._store.share:
            await self._arrived()
        self._pending.append(asyncio.create_task(self._open.write(block, self._sent)))
        self._sent += len(block)

    async def _arrived(self) -> None:
        """Await the oldest write; a plain failure is looked into, as SFTP has no status for a full disk."""
        try:
            await self._store.timed(self._pending.popleft(), self._what)
        except Rejected as error:
            raise await self._why(error) from error

    async def _why(self, error: Rejected) -> FlowRunnerError:
        try:
            room = await self._store.timed(self._open.statvfs(), self._what)
        except FlowRunnerError:
            return error
        free = int(room.bavail * room.frsize)
        if free > 1024 * 1024:
            return error
        return PermanentError(
            f"{self._what}: the disk of the server is full ({free} bytes are free)",
            remedy="free some space there, then retry",
        )

    async def _flush(self) -> None:
        if self._buffer:
            block = bytes(self._buffer)
            self._buffer.clear()
            await self._send(block)
        while self._pending:
            await self._arrived()

    async def sync(self) -> None:
        await self._flush()

    async def size(self) -> int:
        attributes = await self._store.timed(self._open.stat(), self._what)
        return int(attributes.size or 0)

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._flush()
        wanted = max(0, self._sent - offset) if length is None else length
        async for chunk in self._store.blocks(self._open, self._what, offset, wanted):
            yield chunk

    async def chmod(self, mode: int) -> None:
        await self._store.timed(self._open.chmod(mode), self._what)

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        await self._flush()
        file, timed = self._open, self._store.timed
        if modified is not None:
            seconds = int(modified.timestamp())
            dated = file.utime((seconds, seconds))
            if durable:
                await timed(dated, self._what)
            else:  # a server answers the requests about one file in their order
                await timed(asyncio.gather(dated, file.close()), self._what)
        if durable and extension(self._store.client, "fsync"):
            await timed(file.fsync(), self._what)
        await timed(file.close(), self._what)
        failpoint("sftp.before_rename")
        await self._store.rename(self._part, self._path, replace=replace)
        self._let_go()
        failpoint("sftp.after_rename")

    async def close(self) -> None:
        await stop(self._pending)
        self._pending.clear()
        if (file := self._let_go()) is not None:
            with suppress(FlowRunnerError):
                await self._store.timed(file.close(), self._what)

    def _let_go(self) -> asyncssh.SFTPClientFile | None:
        file, self._file = self._file, None
        if file is not None:
            self._store.streams -= 1
        return file

    async def discard(self) -> None:
        await self.close()
        await self._store.remove_if_there(self._part)
