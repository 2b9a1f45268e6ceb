"""Single files on an SFTP server: stat, read, delete and rename.

Listings and uploads build on this module, and the store on all three.

Reads keep a window of requests in flight, which hides the latency of the network. A file is renamed with
``posix-rename@openssh.com``, which replaces atomically. A server without that extension gets ``atomic_replace=False``:
the old file is removed first, so readers may briefly find no file, but never a partial one.
"""

from __future__ import annotations

import asyncio
import stat
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace as with_changes
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from flowrunner_provider.core.errors import AlreadyExists, NotFound, PermanentError, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.folders import FolderPaths
from flowrunner_provider.transport.sftp_session import READ, SftpSession, abandon
from flowrunner_provider.transport.sftp_wire import Attributes
from flowrunner_provider.transport.ssh import CHANNEL_WINDOW, SshTarget, connect, start_sftp
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["SftpFiles", "entry_of"]

_SHORT_TRIP_BYTES = 4 * 1024 * 1024
"""Bytes in flight on a short round trip."""

_TOP_SPEED = 4 * 1000**3
"""Bytes per second that the window can sustain over the measured round trip."""

_CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=True,
    resumable_upload=True,
    readable_parts=True,
    modified_precision=1.0,
    sets_mode=True,
    removes_folders=True,
    finishes=True,
)


class SftpFiles(FolderPaths):
    """Files on an SFTP server, by absolute path or relative to the home folder of the login.

    :param target: the server and the credentials.
    :param where: the name of the server in messages.
    """

    def __init__(self, target: SshTarget, *, where: str = "") -> None:
        self._target = target
        self.where = where or f"sftp://{target.where}"
        self.capabilities = _CAPABILITIES
        self._stack: AsyncExitStack | None = None
        self._session: SftpSession | None = None
        self.open_streams, self.pipelines_finish = 0, True
        self.write_slots, self._read_slots = asyncio.Semaphore(), asyncio.Semaphore()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(self._target))
            self._session = await start_sftp(connection, self._target.timeout)
            stack.callback(self._session.end)
            self._stack = stack.pop_all()
        most = self._session.max_files
        self.write_slots, self._read_slots = asyncio.Semaphore(most), asyncio.Semaphore(most)
        self.capabilities = with_changes(
            _CAPABILITIES,
            atomic_replace=self._session.supports(b"posix-rename@openssh.com", b"1"),
            reads_whole=self._session.max_read - 1,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            await self._stack.aclose()

    @property
    def session(self) -> SftpSession:
        """The session; only while the store is open."""
        if self._session is None:
            raise ValueError("the store is not open")
        return self._session

    async def stat(self, path: str) -> Entry:
        with ssh_errors(self.label(path)):
            return entry_of(path, await self.session.lstat(path))

    async def raise_unless_folder(self, path: str) -> None:
        """Raise ``PermanentError`` if the path is a file, which OpenSSH reports as "no such file"."""
        if not (await self.stat(path)).is_dir:
            raise PermanentError(f"{self.label(path)} is not a folder", remedy="check the path")

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        what = f"reading {self.label(path)}"
        with ssh_errors(what):
            handle = await self.session.open(path, READ)
        try:
            async for chunk in self.blocks(handle, what, offset, length):
                yield chunk
        finally:
            self.session.close_unawaited(handle)

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        """Read a small file in one request, for one byte more than expected so that growth is noticed."""
        session = self.session
        async with self._read_slots:
            with ssh_errors(f"reading {self.label(path)}"):
                handle = await session.open(path, READ)
                try:
                    data = await session.read(handle, 0, size + 1)
                    if 0 < len(data) < size:
                        data = await self._complete(handle, data, 0, size + 1)
                finally:
                    session.close_unawaited(handle)
        return data if len(data) == size else None

    async def blocks(self, handle: bytes, what: str, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """Yield the blocks of an open file in order, with a window of requests in flight.

        Without ``length`` the window starts small and doubles per block, so that a small file costs few requests.
        """
        session, size = self.session, self.session.max_read
        end = None if length is None else offset + length
        pending: deque[tuple[int, int, asyncio.Future[bytes]]] = deque()
        window = self.window if end is not None else 2
        self.open_streams += 1
        try:
            while True:
                while len(pending) < min(window, self.window_share) and (end is None or offset < end):
                    wanted = size if end is None else min(size, end - offset)
                    pending.append((offset, wanted, session.read(handle, offset, wanted)))
                    offset += wanted
                if not pending:
                    return
                start, wanted, answer = pending.popleft()
                with ssh_errors(what):
                    block = await answer
                    if 0 < len(block) < wanted:
                        block = await self._complete(handle, block, start, wanted)
                if block:
                    yield block
                if len(block) < wanted:
                    return
                window = min(self.window, window * 2)
        finally:
            self.open_streams -= 1
            abandon(answer for _, _, answer in pending)

    @property
    def window(self) -> int:
        """Requests in flight for one file: enough to fill the round trip, or the channel if that is unknown.

        More requests would only queue in the server, which slows it down when this side is the slower one.
        """
        round_trip = self.session.round_trip
        in_flight = (
            CHANNEL_WINDOW
            if round_trip is None
            else max(_SHORT_TRIP_BYTES, min(CHANNEL_WINDOW, int(round_trip * _TOP_SPEED)))
        )
        return max(16, min(256, in_flight // self.session.max_read))

    @property
    def window_share(self) -> int:
        """The part of the window for one of several open files, so that memory does not grow with their number."""
        return max(2, self.window // max(1, self.open_streams))

    async def _complete(self, handle: bytes, block: bytes, offset: int, wanted: int) -> bytes:
        """Complete a short read: return ``wanted`` bytes, or fewer at the end of the file."""
        while len(block) < wanted:
            more = await self.session.read(handle, offset + len(block), wanted - len(block))
            if not more:
                break
            block += more
        return block

    async def remove_if_exists(self, path: str) -> None:
        """Delete a file if it exists."""
        with suppress(NotFound), ssh_errors(f"deleting {self.label(path)}"):
            await self.session.remove(path)

    async def delete(self, path: str) -> None:
        failpoint("sftp.before_delete")
        try:
            with ssh_errors(f"deleting {self.label(path)}"):
                await self.session.remove(path)
        except Rejected:
            if (await self.stat(path)).is_dir:
                raise PermanentError(f"{self.label(path)} is a folder", remedy="name a file") from None
            raise
        failpoint("sftp.after_delete")

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        what = f"renaming {self.label(path)} to {self.label(target)}"
        if replace and self.capabilities.atomic_replace:
            with ssh_errors(what):
                await self.session.posix_rename(path, target)
            return
        if replace:
            await self.remove_if_exists(target)
            failpoint("sftp.between_remove_and_rename")
        else:
            await self._raise_if_exists(target)
        try:
            with ssh_errors(what):
                await self.session.rename(path, target)
        except Rejected:
            await self._raise_if_exists(target)
            raise

    async def _raise_if_exists(self, path: str) -> None:
        with suppress(NotFound):
            await self.stat(path)
            raise AlreadyExists(
                f"{self.label(path)} already exists", remedy="choose another name, or set if_exists='overwrite'"
            )


def entry_of(path: str, attributes: Attributes) -> Entry:
    """Return the entry for the attributes that the server sent."""
    mode = attributes.permissions or 0
    times = attributes.times
    return Entry(
        path=path,
        name=path.rstrip("/").rpartition("/")[2],
        size=attributes.size,
        modified=None if times is None else datetime.fromtimestamp(times[1], UTC),
        is_dir=stat.S_ISDIR(mode),
        is_link=stat.S_ISLNK(mode),
    )
