"""Upload one file over SFTP: into a temporary file, with a window of writes in flight, then rename it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from datetime import datetime

from flowrunner_provider.core.errors import AlreadyExists, FlowRunnerError, PermanentError, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.stores.sftp_files import SftpFiles
from flowrunner_provider.transport.sftp_session import CREATE, EXCLUSIVE, READ, WRITE, Buffer, abandon
from flowrunner_provider.transport.sftp_wire import Attributes
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["SftpUpload"]

_LATEST = 0xFFFFFFFF
"""The latest time that SFTP can represent, in seconds since 1970."""


class SftpUpload:
    """A temporary file on the server and the writes in flight to it."""

    def __init__(self, files: SftpFiles, path: str, part: str) -> None:
        self._files, self._path, self._part = files, path, part
        self._session = files.session
        self._operation = f"writing {files.label(path)}"
        self._open_handle: bytes | None = None
        self._writes: deque[asyncio.Future[None]] = deque()
        self._size_request: asyncio.Future[Attributes] | None = None
        self._unsent = bytearray()
        self._sent = 0
        self._finished = False
        self._final_size: int | None = None

    @property
    def offset(self) -> int:
        return self._sent + len(self._unsent)

    @property
    def _handle(self) -> bytes:
        if self._open_handle is None:
            raise ValueError("the upload is closed")
        return self._open_handle

    async def open(self, resume_at: int) -> None:
        """Open the temporary file: truncate it to ``resume_at`` bytes, or create it anew if that is 0."""
        flags = READ | WRITE | CREATE
        if resume_at == 0:
            flags |= EXCLUSIVE
        await self._files.write_slots.acquire()
        with ExitStack() as failed:
            failed.callback(self._files.write_slots.release)
            try:
                with ssh_errors(self._operation):
                    handle = await self._session.open(self._part, flags)
            except (Rejected, AlreadyExists):
                if resume_at:
                    raise
                await self._files.remove_if_exists(self._part)
                with ssh_errors(self._operation):
                    handle = await self._session.open(self._part, flags)
            failed.pop_all()
        self._open_handle, self._sent = handle, 0
        self._files.open_streams += 1
        if resume_at:
            self._sent = min(resume_at, await self.size())
            await self._set_attributes(Attributes(size=self._sent))

    async def _set_attributes(self, attributes: Attributes) -> None:
        with ssh_errors(self._operation):
            await self._session.fsetstat(self._handle, attributes)

    async def write(self, chunk: bytes) -> None:
        block, data, position = self._session.max_write, memoryview(chunk), 0
        if self._unsent:
            position = min(block - len(self._unsent), len(data))
            self._unsent += data[:position]
            if len(self._unsent) == block:
                await self._send_unsent()
        while len(data) - position >= block:
            await self._send(data[position : position + block])
            position += block
        self._unsent += data[position:]

    async def _send_unsent(self) -> None:
        if self._unsent:
            block, self._unsent = self._unsent, bytearray()
            await self._send(block)

    async def _send(self, block: Buffer) -> None:
        while len(self._writes) >= self._files.window_share:
            await self._await_oldest_write()
        self._writes.append(self._session.write(self._handle, self._sent, block))
        self._sent += len(block)

    async def _await_oldest_write(self) -> None:
        """Await the oldest write. Check for a full disk if it failed, as SFTP has no status for that."""
        try:
            with ssh_errors(self._operation):
                await self._writes.popleft()
        except Rejected as error:
            raise await self._explain_failure(error) from error

    async def _explain_failure(self, error: Rejected) -> FlowRunnerError:
        if not self._session.supports(b"statvfs@openssh.com", b"2"):
            return error
        try:
            with ssh_errors(self._operation):
                _, unit, _, _, available, *_ = await self._session.statvfs(self._part)
        except FlowRunnerError:
            return error
        free = available * unit
        if free > 1024 * 1024:
            return error
        return PermanentError(
            f"{self._operation}: the disk of the server is full ({free} bytes free)",
            remedy="free some space there, then retry",
        )

    async def _flush(self) -> None:
        await self._send_unsent()
        await self._await_writes()

    async def _await_writes(self) -> None:
        while self._writes:
            await self._await_oldest_write()

    async def sync(self) -> None:
        """Await all writes. Request the size along with them, which saves :meth:`size` a round trip."""
        await self._send_unsent()
        self._abandon_size_request()
        self._size_request = self._session.fstat(self._handle)
        await self._flush()

    async def size(self) -> int:
        if self._final_size is not None:
            return self._final_size
        answer, self._size_request = self._size_request, None
        with ssh_errors(self._operation):
            if answer is not None and (await answer).size == self._sent:
                return self._sent
            # a server with concurrent requests may have answered before it had written
            return (await self._session.fstat(self._handle)).size or 0

    def _abandon_size_request(self) -> None:
        if self._size_request is not None:
            abandon([self._size_request])
            self._size_request = None

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._flush()
        wanted = max(0, self._sent - offset) if length is None else length
        async for chunk in self._files.blocks(self._handle, self._operation, offset, wanted):
            yield chunk

    async def chmod(self, mode: int) -> None:
        await self._set_attributes(Attributes(permissions=mode))

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        if not self._finished:
            await self.finish(modified=modified, durable=durable)
        failpoint("sftp.before_rename")
        await self._files.rename(self._part, self._path, replace=replace)
        failpoint("sftp.after_rename")

    async def finish(self, *, modified: datetime | None = None, durable: bool = False) -> None:
        """Send the last block, close, set the time and request the size in one round trip.

        The time is set after the close: a server with concurrent requests may write after it has set a time, but not
        after it has closed the file. The rename waits for the answers, as OpenSSH would execute it even if an earlier
        request failed. A server that closes the file before it has written gets one request at a time from then on.
        """
        await self._await_writes()
        pipelined = self._files.pipelines_finish
        if not pipelined:
            await self._flush()
        block, position = self._unsent, self._sent
        try:
            await self._pipeline_finish(None if modified is None else _times(modified), durable)
        except Rejected:
            if not (pipelined and block):
                raise
            self._files.pipelines_finish = False
            await self.open(position)
            if self._sent != position:
                raise
            self._unsent = block
            await self.finish(modified=modified, durable=durable)

    async def _pipeline_finish(self, times: tuple[int, int] | None, durable: bool) -> None:
        session, handle = self._session, self._handle
        self._abandon_size_request()
        await self._send_unsent()
        requests: list[asyncio.Future[None]] = []
        if durable and session.supports(b"fsync@openssh.com", b"1"):
            requests.append(session.fsync(handle))
        self._release_handle()  # close only once: the server may reuse the handle for another file
        requests.append(session.close(handle))
        if times:
            requests.append(session.setstat(self._part, Attributes(times=times)))
        final_stat = session.lstat(self._part)
        try:
            await self._await_writes()
            with ssh_errors(self._operation):
                for answer in requests:
                    await answer
                self._final_size = await self._checked_size(await final_stat, times)
        finally:
            abandon([*self._writes, *requests, final_stat])
            self._writes.clear()
        self._finished = True

    async def _checked_size(self, stat: Attributes, times: tuple[int, int] | None) -> int:
        """Return the size of the temporary file; repeat what a server with concurrent requests did too early."""
        if stat.size == self._sent and (times is None or (stat.times and stat.times[1] == times[1])):
            return stat.size
        if times:
            await self._session.setstat(self._part, Attributes(times=times))
        return (await self._session.lstat(self._part)).size or 0

    async def close(self) -> None:
        abandon(self._writes)
        self._writes.clear()
        self._abandon_size_request()
        if (handle := self._release_handle()) is not None:
            with suppress(FlowRunnerError), ssh_errors(self._operation):
                await self._session.close(handle)

    def _release_handle(self) -> bytes | None:
        handle, self._open_handle = self._open_handle, None
        if handle is not None:
            self._files.open_streams -= 1
            self._files.write_slots.release()
        return handle

    async def discard(self) -> None:
        await self.close()
        await self._files.remove_if_exists(self._part)

    async def withdraw(self) -> None:
        """Leave the temporary file: it may belong to the newer attempt by now."""
        await self.close()


def _times(modified: datetime) -> tuple[int, int]:
    seconds = min(max(int(modified.timestamp()), 0), _LATEST)
    return seconds, seconds
