"""One file on its way to a server over SFTP: a part beside the final name, and a window of writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from datetime import datetime

from flowrunner_provider.core.errors import AlreadyExists, FlowRunnerError, PermanentError, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.stores.sftp_files import SftpFiles
from flowrunner_provider.transport.sftp_session import CREATE, EXCLUSIVE, READ, WRITE, Buffer, let_go
from flowrunner_provider.transport.sftp_wire import Attributes
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["SftpUpload"]

_LAST = 0xFFFFFFFF
"""The last second that SFTP can tell; the first is that of 1970."""


class SftpUpload:
    """A part file on the server, written with a window of requests under way."""

    def __init__(self, files: SftpFiles, path: str, part: str) -> None:
        self._files, self._path, self._part = files, path, part
        self._session = files.session
        self._what = f"writing {files.label(path)}"
        self._file: bytes | None = None
        self._pending: deque[asyncio.Future[None]] = deque()
        self._held: asyncio.Future[Attributes] | None = None
        self._buffer = bytearray()
        self._sent = 0
        self._whole = False
        self._told: int | None = None

    @property
    def offset(self) -> int:
        return self._sent + len(self._buffer)

    @property
    def _handle(self) -> bytes:
        if self._file is None:
            raise ValueError("the upload is closed")
        return self._file

    async def open(self, resume_at: int) -> None:
        """Open the part; cut it off at ``resume_at``, or start a new file."""
        flags = READ | WRITE | CREATE
        if resume_at == 0:
            flags |= EXCLUSIVE
        await self._files.writing.acquire()
        with ExitStack() as failed:
            failed.callback(self._files.writing.release)
            try:
                with ssh_errors(self._what):
                    handle = await self._session.open(self._part, flags)
            except (Rejected, AlreadyExists):
                if resume_at:
                    raise
                await self._files.remove_if_there(self._part)
                with ssh_errors(self._what):
                    handle = await self._session.open(self._part, flags)
            failed.pop_all()
        self._file, self._sent = handle, 0
        self._files.streams += 1
        if resume_at:
            self._sent = min(resume_at, await self.size())
            await self._set(Attributes(size=self._sent))

    async def _set(self, attributes: Attributes) -> None:
        with ssh_errors(self._what):
            await self._session.fsetstat(self._handle, attributes)

    async def write(self, chunk: bytes) -> None:
        block, data, at = self._session.most_write, memoryview(chunk), 0
        if self._buffer:
            at = min(block - len(self._buffer), len(data))
            self._buffer += data[:at]
            if len(self._buffer) == block:
                await self._send_buffer()
        while len(data) - at >= block:
            await self._send(data[at : at + block])
            at += block
        self._buffer += data[at:]

    async def _send_buffer(self) -> None:
        if self._buffer:
            block, self._buffer = self._buffer, bytearray()
            await self._send(block)

    async def _send(self, block: Buffer) -> None:
        while len(self._pending) >= self._files.share:
            await self._arrived()
        self._pending.append(self._session.write(self._handle, self._sent, block))
        self._sent += len(block)

    async def _arrived(self) -> None:
        """Await the oldest write; a plain failure is looked into, as SFTP has no status for a full disk."""
        try:
            with ssh_errors(self._what):
                await self._pending.popleft()
        except Rejected as error:
            raise await self._why(error) from error

    async def _why(self, error: Rejected) -> FlowRunnerError:
        if not self._session.supports(b"statvfs@openssh.com", b"2"):
            return error
        try:
            with ssh_errors(self._what):
                _, unit, _, _, available, *_ = await self._session.free(self._part)
        except FlowRunnerError:
            return error
        free = available * unit
        if free > 1024 * 1024:
            return error
        return PermanentError(
            f"{self._what}: the disk of the server is full ({free} bytes are free)",
            remedy="free some space there, then retry",
        )

    async def _flush(self) -> None:
        await self._send_buffer()
        await self._all_arrived()

    async def _all_arrived(self) -> None:
        while self._pending:
            await self._arrived()

    async def sync(self) -> None:
        """Asks for the size, too, which is what one wants to know next: that saves a round trip per file."""
        await self._send_buffer()
        self._forget_size()
        self._held = self._session.fstat(self._handle)
        await self._flush()

    async def size(self) -> int:
        if self._told is not None:
            return self._told
        answer, self._held = self._held, None
        with ssh_errors(self._what):
            if answer is not None and (await answer).size == self._sent:
                return self._sent
            # a server that works on several requests at a time may have answered before it had written
            return (await self._session.fstat(self._handle)).size or 0

    def _forget_size(self) -> None:
        if self._held is not None:
            let_go([self._held])
            self._held = None

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._flush()
        wanted = max(0, self._sent - offset) if length is None else length
        async for chunk in self._files.blocks(self._handle, self._what, offset, wanted):
            yield chunk

    async def chmod(self, mode: int) -> None:
        await self._set(Attributes(permissions=mode))

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        if not self._whole:
            await self.finish(modified=modified, durable=durable)
        failpoint("sftp.before_rename")
        await self._files.rename(self._part, self._path, replace=replace)
        failpoint("sftp.after_rename")

    async def finish(self, *, modified: datetime | None = None, durable: bool = False) -> None:
        """The last block, the end of the file, its time and the question for its size go together: one round trip.

        The time comes after the end: a server that works on several requests at a time may write after it has set a
        time, but not after it has closed the file. The rename does not go with them: OpenSSH does it no matter whether
        what it was asked for before has failed. A server that closes the file before it has written gets one request
        after the other from then on.
        """
        await self._all_arrived()
        together = self._files.in_order
        if not together:
            await self._flush()
        block, at = self._buffer, self._sent
        try:
            await self._finish(None if modified is None else _times(modified), durable)
        except Rejected:
            if not (together and block):
                raise
            self._files.in_order = False
            await self.open(at)
            if self._sent != at:
                raise
            self._buffer = block
            await self.finish(modified=modified, durable=durable)

    async def _finish(self, times: tuple[int, int] | None, durable: bool) -> None:
        session, handle = self._session, self._handle
        self._forget_size()
        await self._send_buffer()
        under_way: list[asyncio.Future[None]] = []
        if durable and session.supports(b"fsync@openssh.com", b"1"):
            under_way.append(session.fsync(handle))
        self._let_go()  # closed once: a server gives the same handle to another file
        under_way.append(session.close(handle))
        if times:
            under_way.append(session.setstat(self._part, Attributes(times=times)))
        told = session.lstat(self._part)
        try:
            await self._all_arrived()
            with ssh_errors(self._what):
                for answer in under_way:
                    await answer
                self._told = await self._checked(await told, times)
        finally:
            let_go([*self._pending, *under_way, told])
            self._pending.clear()
        self._whole = True

    async def _checked(self, told: Attributes, times: tuple[int, int] | None) -> int:
        """The size of the part, which has its time; a server may have been too early with one of them."""
        if told.size == self._sent and (times is None or (told.times and told.times[1] == times[1])):
            return told.size
        if times:
            await self._session.setstat(self._part, Attributes(times=times))
        return (await self._session.lstat(self._part)).size or 0

    async def close(self) -> None:
        let_go(self._pending)
        self._pending.clear()
        self._forget_size()
        if (handle := self._let_go()) is not None:
            with suppress(FlowRunnerError), ssh_errors(self._what):
                await self._session.close(handle)

    def _let_go(self) -> bytes | None:
        handle, self._file = self._file, None
        if handle is not None:
            self._files.streams -= 1
            self._files.writing.release()
        return handle

    async def discard(self) -> None:
        await self.close()
        await self._files.remove_if_there(self._part)

    async def withdraw(self) -> None:
        """Names tell nothing: the part may be the newer attempt's by now."""
        await self.close()


def _times(modified: datetime) -> tuple[int, int]:
    seconds = min(max(int(modified.timestamp()), 0), _LAST)
    return seconds, seconds
