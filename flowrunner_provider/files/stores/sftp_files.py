"""What can be asked of a file on an SFTP server: what it is, its bytes, that it goes, and that it changes its name.

Listings and uploads build on this, and the store on all three.

Reads keep a window of requests under way, so that the distance to the server costs little. A file is renamed with
``posix-rename@openssh.com``, which replaces in one step. A server without that extension declares
``atomic_replace=False``: there the old file is removed first, so readers may for a moment find none, yet never a part
of one.
"""

from __future__ import annotations

import asyncio
import stat
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace as changed
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from flowrunner_provider.core.errors import AlreadyExists, NotFound, PermanentError, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.folders import FolderPaths
from flowrunner_provider.transport.sftp_session import READ, SftpSession, let_go
from flowrunner_provider.transport.sftp_wire import Attributes
from flowrunner_provider.transport.ssh import CHANNEL_WINDOW, SshTarget, connect, start_sftp
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["SftpFiles", "entry_of"]

_NEAR = 4 * 1024 * 1024
"""Bytes under way to a server next door."""

_QUICKEST = 4 * 1000**3
"""Bytes per second that a round trip is reckoned with."""

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
    """Files on an SSH server, by absolute path, or relative to the login's home folder.

    :param target: the server and the credentials.
    :param where: how messages call it.
    """

    def __init__(self, target: SshTarget, *, where: str = "") -> None:
        self._target = target
        self.where = where or f"sftp://{target.where}"
        self.capabilities = _CAPABILITIES
        self._stack: AsyncExitStack | None = None
        self._session: SftpSession | None = None
        self.streams, self.in_order = 0, True
        self.writing, self._reading = asyncio.Semaphore(), asyncio.Semaphore()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(self._target))
            self._session = await start_sftp(connection, self._target.timeout)
            stack.callback(self._session.end)
            self._stack = stack.pop_all()
        most = self._session.most_files
        self.writing, self._reading = asyncio.Semaphore(most), asyncio.Semaphore(most)
        self.capabilities = changed(
            _CAPABILITIES,
            atomic_replace=self._session.supports(b"posix-rename@openssh.com", b"1"),
            reads_whole=self._session.most_read - 1,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            await self._stack.aclose()

    @property
    def session(self) -> SftpSession:
        """Only while the store is open."""
        if self._session is None:
            raise ValueError("the store is not open")
        return self._session

    async def stat(self, path: str) -> Entry:
        with ssh_errors(self.label(path)):
            return entry_of(path, await self.session.lstat(path))

    async def not_a_folder(self, path: str) -> None:
        """OpenSSH calls a folder that is a file "no such file"; say what it is."""
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
            self.session.drop(handle)

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        """One request, unless the server answers with less; one byte more than there should be shows that it grew."""
        session = self.session
        async with self._reading:
            with ssh_errors(f"reading {self.label(path)}"):
                handle = await session.open(path, READ)
                try:
                    data = await session.read(handle, 0, size + 1)
                    if 0 < len(data) < size:
                        data = await self._rest(handle, data, 0, size + 1)
                finally:
                    session.drop(handle)
        return data if len(data) == size else None

    async def blocks(self, handle: bytes, what: str, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """The blocks of an open file in order, a window of them under way.

        Without ``length`` the window grows with what has come, so that a small file costs few requests.
        """
        session, size = self.session, self.session.most_read
        end = None if length is None else offset + length
        pending: deque[tuple[int, int, asyncio.Future[bytes]]] = deque()
        window = self.window if end is not None else 2
        self.streams += 1
        try:
            while True:
                while len(pending) < min(window, self.share) and (end is None or offset < end):
                    wanted = size if end is None else min(size, end - offset)
                    pending.append((offset, wanted, session.read(handle, offset, wanted)))
                    offset += wanted
                if not pending:
                    return
                start, wanted, answer = pending.popleft()
                with ssh_errors(what):
                    block = await answer
                    if 0 < len(block) < wanted:
                        block = await self._rest(handle, block, start, wanted)
                if block:
                    yield block
                if len(block) < wanted:
                    return
                window = min(self.window, window * 2)
        finally:
            self.streams -= 1
            let_go(answer for _, _, answer in pending)

    @property
    def window(self) -> int:
        """Requests that one file may have under way: as many as fill the way to the server, or else the channel.

        More would only wait in the server, which spends its time on moving them about when the reader is the slower.
        """
        far = self.session.round_trip
        filled = CHANNEL_WINDOW if far is None else max(_NEAR, min(CHANNEL_WINDOW, int(far * _QUICKEST)))
        return max(16, min(256, filled // self.session.most_read))

    @property
    def share(self) -> int:
        """Those of one file among several, so that memory does not grow with the files."""
        return max(2, self.window // max(1, self.streams))

    async def _rest(self, handle: bytes, block: bytes, offset: int, wanted: int) -> bytes:
        """``wanted`` bytes, or fewer if the file ends; a server may answer with less than was asked for."""
        while len(block) < wanted:
            more = await self.session.read(handle, offset + len(block), wanted - len(block))
            if not more:
                break
            block += more
        return block

    async def remove_if_there(self, path: str) -> None:
        """Remove a file; none is fine."""
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
            await self.remove_if_there(target)
            failpoint("sftp.between_remove_and_rename")
        else:
            await self._refuse_existing(target)
        try:
            with ssh_errors(what):
                await self.session.rename(path, target)
        except Rejected:
            await self._refuse_existing(target)
            raise

    async def _refuse_existing(self, path: str) -> None:
        with suppress(NotFound):
            await self.stat(path)
            raise AlreadyExists(
                f"{self.label(path)} is there already", remedy="choose another name, or if_exists='overwrite'"
            )


def entry_of(path: str, attributes: Attributes) -> Entry:
    """What is at ``path``, as the server describes it."""
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
