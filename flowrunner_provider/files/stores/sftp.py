"""A server's files over SFTP (protocol version 3, with OpenSSH's extensions where the server has them).

Reads and writes keep a window of requests under way, so that the distance to the server costs little. A file is
written to ``.{name}.{token}.part`` beside its final name and renamed with ``posix-rename@openssh.com``, which
replaces in one step. A server without that extension declares ``atomic_replace=False``: there the old file is
removed first, so readers may for a moment find none, yet never a part of one.
"""

from __future__ import annotations

import asyncio
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace as changed
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from flowrunner_provider.core.errors import (
    AlreadyExists,
    FlowRunnerError,
    NotFound,
    PermanentError,
    Rejected,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import join_inside, part_name
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.sftp_upload import READ, WINDOW, SftpUpload, extension, stop
from flowrunner_provider.transport.ssh import SshTarget, connect, ssh_errors, start_sftp

if TYPE_CHECKING:
    import asyncssh

__all__ = ["SftpStore"]

T = TypeVar("T")

_CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=True,
    resumable_upload=True,
    readable_parts=True,
    modified_precision=1.0,
    sets_mode=True,
    removes_folders=True,
)


class SftpStore:
    """Files on an SSH server, by absolute path, or relative to the login's home folder.

    :param target: the server and the credentials.
    :param where: how messages call it.
    """

    def __init__(self, target: SshTarget, *, where: str = "") -> None:
        self._target = target
        self.where = where or f"sftp://{target.where}"
        self.capabilities = _CAPABILITIES
        self._stack: AsyncExitStack | None = None
        self._client: asyncssh.SFTPClient | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.streams = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(self._target))
            self._client = await start_sftp(connection, self._target.timeout)
            stack.callback(self._client.exit)
            self._stack = stack.pop_all()
        self.capabilities = changed(
            _CAPABILITIES,
            atomic_replace=extension(self._client, "posix_rename"),
            reads_whole=self._block_size - 1,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*self._under_way)
        if self._stack is not None:
            await self._stack.aclose()

    @property
    def client(self) -> asyncssh.SFTPClient:
        """The SFTP session; only while the store is open."""
        if self._client is None:
            raise ValueError("the store is not open")
        return self._client

    def label(self, path: str) -> str:
        """How messages call ``path``."""
        return f"{self.where}{path if path.startswith('/') else f'/~/{path}'}"

    async def timed(self, work: Awaitable[T], what: str) -> T:
        """Await one answer of the server, not longer than the connection's time-out; errors typed."""
        with ssh_errors(what):
            async with asyncio.timeout(self._target.timeout):
                return await work

    def join(self, folder: str, relative: str) -> str:
        return join_inside(folder, relative) if folder != "/" else f"/{join_inside('', relative)}"

    async def stat(self, path: str) -> Entry:
        return _entry(path, await self.timed(self.client.lstat(path), self.label(path)))

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            async for entry in self._scan(folder):
                if recursive and entry.is_dir:
                    waiting.append(entry.path)
                yield entry

    async def _scan(self, folder: str) -> AsyncGenerator[Entry, None]:
        what = f"listing {self.label(folder)}"
        names = self.client.scandir(folder)
        prefix = folder.rstrip("/") + "/" if folder else ""
        try:
            while True:
                try:
                    found = await self.timed(anext(names, None), what)
                except (NotFound, Rejected) as error:
                    await self._not_a_folder(folder)
                    raise error
                if found is None:
                    return
                name = str(found.filename)
                if name not in (".", ".."):
                    yield _entry(prefix + name, found.attrs)
        finally:
            with suppress(FlowRunnerError):
                await self.timed(names.aclose(), what)  # type: ignore[attr-defined]

    async def _not_a_folder(self, path: str) -> None:
        """OpenSSH calls a folder that is a file "no such file"; say what it is."""
        if not (await self.stat(path)).is_dir:
            raise PermanentError(f"{self.label(path)} is not a folder", remedy="check the path")

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        what = f"reading {self.label(path)}"
        file = await self.opened(path, READ, what)
        try:
            async for chunk in self.blocks(file, what, offset, length):
                yield chunk
        finally:
            with suppress(FlowRunnerError):
                await self.timed(file.close(), what)

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        """One request, unless the server answers with less; one byte more than there should be shows that it grew."""
        what = f"reading {self.label(path)}"
        file = await self.opened(path, READ, what)
        try:
            data: bytes = await self.timed(file.read(size + 1, 0), what)
            if 0 < len(data) < size:
                data += await self.timed(self._block(file, len(data), size + 1 - len(data)), what)
        finally:
            self._later(file.close(), what)
        return data if len(data) == size else None

    def _later(self, work: Awaitable[None], what: str) -> None:
        """What nobody waits for: the server's answer says nothing about what was read."""

        async def done() -> None:
            with suppress(FlowRunnerError):
                await self.timed(work, what)

        task = asyncio.create_task(done())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def opened(self, path: str, flags: int, what: str) -> asyncssh.SFTPClientFile:
        """A file on the server; each of its reads and writes is one request."""
        return await self.timed(self.client.open(path, flags, encoding=None, block_size=0), what)

    async def blocks(
        self, file: asyncssh.SFTPClientFile, what: str, offset: int, length: int | None
    ) -> AsyncIterator[bytes]:
        """The blocks of an open file in order, a window of them under way.

        Without ``length`` the window grows with what has come, so that a small file costs few requests.
        """
        size = self._block_size
        end = None if length is None else offset + length
        pending: deque[tuple[int, asyncio.Task[bytes]]] = deque()
        window = WINDOW if end is not None else 2
        self.streams += 1
        try:
            while True:
                while len(pending) < min(window, self.share) and (end is None or offset < end):
                    wanted = size if end is None else min(size, end - offset)
                    task = asyncio.create_task(self._block(file, offset, wanted))
                    pending.append((wanted, task))
                    offset += wanted
                if not pending:
                    return
                wanted, task = pending.popleft()
                block = await self.timed(task, what)
                if block:
                    yield block
                if len(block) < wanted:
                    return
                window = min(WINDOW, window * 2)
        finally:
            self.streams -= 1
            await stop([task for _, task in pending])

    @property
    def share(self) -> int:
        """Requests that one file may have under way, so that memory does not grow with the files."""
        return max(2, WINDOW // max(1, self.streams))

    @property
    def _block_size(self) -> int:
        return min(self.client.limits.max_read_len, 255 * 1024)

    async def _block(self, file: asyncssh.SFTPClientFile, offset: int, wanted: int) -> bytes:
        """``wanted`` bytes, or fewer if the file ends; a server may answer with less than was asked for."""
        block: bytes = await file.read(wanted, offset)
        while 0 < len(block) < wanted:
            more: bytes = await file.read(wanted - len(block), offset + len(block))
            if not more:
                break
            block += more
        return block

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> SftpUpload:
        upload = SftpUpload(self, path, _part_of(path, token))
        await upload.open(resume_at)
        return upload

    async def forget(self, path: str, token: str) -> None:
        await self.remove_if_there(_part_of(path, token))

    async def remove_if_there(self, path: str) -> None:
        """Remove a file; none is fine."""
        with suppress(NotFound):
            await self.timed(self.client.remove(path), f"deleting {self.label(path)}")

    async def delete(self, path: str) -> None:
        failpoint("sftp.before_delete")
        try:
            await self.timed(self.client.remove(path), f"deleting {self.label(path)}")
        except Rejected:
            if (await self.stat(path)).is_dir:
                raise PermanentError(f"{self.label(path)} is a folder", remedy="name a file") from None
            raise
        failpoint("sftp.after_delete")

    async def mkdir(self, path: str, parents: bool = False) -> None:
        what = f"making the folder {self.label(path)}"
        try:
            await self.timed(self.client.mkdir(path), what)
        except (Rejected, AlreadyExists, PermanentError):
            parent = path.rstrip("/").rpartition("/")[0]
            try:
                entry = await self.stat(path)
            except NotFound:
                if not (parents and parent):
                    raise
                await self.mkdir(parent, parents=True)
                await self.mkdir(path)
                return
            if entry.is_link:
                entry = _entry(path, await self.timed(self.client.stat(path), what))
            if not entry.is_dir:
                raise AlreadyExists(f"{self.label(path)} is there and not a folder", remedy="choose another") from None

    async def rmdir(self, path: str) -> bool:
        try:
            await self.timed(self.client.rmdir(path), f"removing the folder {self.label(path)}")
        except (Rejected, PermanentError) as error:
            try:
                await self._not_a_folder(path)  # which OpenSSH calls "no such file", too
            except NotFound:
                return True
            async with aclosing(self._scan(path)) as entries:
                async for _ in entries:
                    return False
            raise error
        return True

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        what = f"renaming {self.label(path)} to {self.label(target)}"
        if replace and self.capabilities.atomic_replace:
            await self.timed(self.client.posix_rename(path, target), what)
            return
        if replace:
            await self.remove_if_there(target)
            failpoint("sftp.between_remove_and_rename")
        else:
            await self._refuse_existing(target)
        try:
            await self.timed(self.client.rename(path, target), what)
        except Rejected:
            await self._refuse_existing(target)
            raise

    async def _refuse_existing(self, path: str) -> None:
        with suppress(NotFound):
            await self.stat(path)
            raise AlreadyExists(
                f"{self.label(path)} is there already", remedy="choose another name, or if_exists='overwrite'"
            )


def _part_of(path: str, token: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{part_name(name, token)}"


def _entry(path: str, attributes: asyncssh.SFTPAttrs) -> Entry:
    mode = attributes.permissions or 0
    seconds = attributes.mtime
    return Entry(
        path=path,
        name=path.rstrip("/").rpartition("/")[2],
        size=attributes.size,
        modified=None if seconds is None else datetime.fromtimestamp(seconds, UTC),
        is_dir=stat.S_ISDIR(mode),
        is_link=stat.S_ISLNK(mode),
    )
