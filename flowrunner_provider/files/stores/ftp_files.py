"""Operations on single files of an FTP server: stat, read, delete and rename. Uploads and the store build on it.

FTP has no rename that refuses to replace, so ``atomic_create`` is False. Whether a rename replaces an existing file
depends on the server: on UNIX it does, on Windows mostly not. The connection can override this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace as changed
from types import TracebackType
from typing import Self, TypeVar

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PermanentError,
    Rejected,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.folders import FolderPaths
from flowrunner_provider.files.stores.ftp_control import Control
from flowrunner_provider.files.stores.ftp_errors import ftp_errors
from flowrunner_provider.files.stores.ftp_pool import Lease, Pool
from flowrunner_provider.files.stores.ftp_target import FtpTarget, line_safe, parent_of

__all__ = ["CHUNK", "FtpFiles"]

T = TypeVar("T")

CHUNK = 4 * 255 * 1024
"""Bytes per read. Files up to this size are uploaded in a single transfer."""

_CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=False,
    resumable_upload=True,
    readable_parts=True,
    modified_precision=1.0,
    removes_folders=True,
)


class FtpFiles(FolderPaths):
    """Files on an FTP server, by absolute path, or relative to the login's home folder.

    :param target: the server and the credentials.
    :param where: the name of the store in messages.
    """

    def __init__(self, target: FtpTarget, *, where: str = "") -> None:
        self._target = target
        self.where = where or f"{'ftp' if target.security == 'plain' else 'ftps'}://{target.where}"
        self.capabilities = _CAPABILITIES
        self._pool: Pool | None = None
        self._appends: bool | None = None if target.resumable_upload else False

    async def __aenter__(self) -> Self:
        pool = Pool(self._target, self.where)
        async with pool.lease("command") as lease:
            self.capabilities = self._capabilities_of(lease.control)
        self._pool = pool
        return self

    def _capabilities_of(self, control: Control) -> Capabilities:
        windows = "windows" in control.system.lower()
        stated = self._target.atomic_replace
        return changed(
            _CAPABILITIES,
            atomic_replace=not windows if stated is None else stated,
            resumable_upload=self._appends is not False,
            ranged_read="REST" in control.features or not control.features,
            sets_modified="MFMT" in control.features,
            case_sensitive=not windows,
            posix_names=not windows,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @property
    def pool(self) -> Pool:
        """The sessions, while the store is open."""
        if self._pool is None:
            raise ValueError("the store is not open")
        return self._pool

    async def command(self, what: str, work: Callable[[Control], T]) -> T:
        """Run a short command on a session of its own, for at most four times the timeout."""
        async with self.pool.lease("command") as lease:
            with ftp_errors(what):
                async with asyncio.timeout(4 * self._target.timeout):
                    return await lease.call(what, work, lease.control)

    async def stat(self, path: str) -> Entry:
        entry = await self.find(path)
        if entry is None:
            raise self.missing(path)
        return entry

    async def find(self, path: str) -> Entry | None:
        """Return the entry at ``path``, or None if it is known not to exist."""
        label = self.label(path)
        return await self.command(f"checking {label}", lambda control: control.find(path, label))

    def missing(self, path: str) -> NotFound:
        """Return the error for a path that does not exist."""
        return NotFound(f"{self.label(path)} does not exist", remedy="check the path")

    def denied(self, error: Rejected) -> AccessDenied:
        """Return the error for a refused operation on a path that exists."""
        return AccessDenied(error.message, remedy="ask the owner of the server for permission")

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        what = f"reading {self.label(path)}"
        if length == 0:
            return
        async with self.pool.lease("read") as lease:
            try:
                begun = await lease.call(what, _begin_read, lease.control, path, offset)
            except Rejected as error:
                raise await self._file_error(path, error) from error
            got = 0
            while begun:
                wanted = CHUNK if length is None else min(CHUNK, length - got)
                chunk = await lease.call(what, lease.control.receive, wanted) if wanted else b""
                got += len(chunk)
                if len(chunk) < wanted:
                    await lease.call(what, lease.control.finish)
                    await self._check_complete(lease, path, what, offset + got)
                    begun = False
                elif not wanted or got == length:
                    begun = False
                    await self._end_early(lease, what)
                try:
                    if chunk:
                        yield chunk
                except GeneratorExit:
                    if begun:
                        await lease.call(what, lease.control.leave)
                    raise

    async def _end_early(self, lease: Lease, what: str) -> None:
        """End a read of limited length. If the file ends here as well, wait for the server's confirmation."""
        more = await lease.call(what, lease.control.receive, 1)
        await lease.call(what, lease.control.leave if more else lease.control.finish)

    async def _check_complete(self, lease: Lease, path: str, what: str, reached: int) -> None:
        """Raise ``ConnectionLost`` if the data ended before the file does."""
        size = await lease.call(what, lambda: lease.control.length(lease.control.absolute(path)))
        if size is not None and reached < size:
            raise ConnectionLost(
                f"{what}: the data ended after {reached} of {size} bytes",
                remedy="retry; the transfer resumes where it stopped",
            )

    async def _file_error(self, path: str, error: Rejected) -> FlowRunnerError:
        """Find out why the server refused an operation on a file."""
        if error.status not in (450, 501, 550, 551, 553):
            return error
        entry = await self.find(path)
        if entry is None:
            return self.missing(path)
        if entry.is_dir:
            return PermanentError(f"{self.label(path)} is a folder", remedy="name a file")
        return self.denied(error)

    async def appends(self, part: str, create: bool) -> bool:
        """Return whether the server allows appending to files; tried once, on a temporary file.

        :param create: create the temporary file first.
        """
        if self._appends is None:
            what = f"writing {self.label(part)}"
            if create:
                await self.command(what, lambda control: control.put("STOR", control.absolute(part)))
            try:
                await self.command(what, lambda control: control.put("APPE", control.absolute(part)))
                self._appends = True
            except FlowRunnerError as error:
                if isinstance(error, ConnectionLost):
                    raise
                self._appends = False
                self.capabilities = changed(self.capabilities, resumable_upload=False)
        return self._appends

    async def remove_if_there(self, path: str) -> None:
        """Remove a file if it exists."""
        what = f"deleting {self.label(path)}"
        try:
            await self.command(what, lambda control: control.voidcmd(f"DELE {control.absolute(path)}"))
        except Rejected as error:
            if not await self.command(what, lambda control: control.lacks_file(path)):
                with suppress(NotFound):
                    raise await self._file_error(path, error) from error

    async def delete(self, path: str) -> None:
        failpoint("ftp.before_delete")
        try:
            await self.command(
                f"deleting {self.label(path)}", lambda control: control.voidcmd(f"DELE {control.absolute(path)}")
            )
        except Rejected as error:
            raise await self._file_error(path, error) from error
        failpoint("ftp.after_delete")

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        line_safe(target)
        if not replace:
            if await self.find(target) is not None:
                raise AlreadyExists(
                    f"{self.label(target)} already exists",
                    remedy="choose another name, or set if_exists to 'overwrite'",
                )
        elif not self.capabilities.atomic_replace:
            await self.remove_if_there(target)
            failpoint("ftp.between_remove_and_rename")
        what = f"renaming {self.label(path)} to {self.label(target)}"
        try:
            await self.command(what, lambda control: control.move(control.absolute(path), control.absolute(target)))
        except Rejected as error:
            raise await self._rename_error(path, target, error) from error

    async def _rename_error(self, path: str, target: str, error: Rejected) -> FlowRunnerError:
        if await self.find(path) is None:
            return self.missing(path)
        if await self.find(target) is not None:
            return Rejected(
                error.message,
                status=error.status,
                remedy="if the server does not rename onto existing files, set atomic_replace to false under "
                "'flowrunner' in the extra: the old file is then removed first",
            )
        if await self.find(parent_of(target)) is None:
            return self.missing(parent_of(target))
        return self.denied(error)


def _begin_read(control: Control, path: str, offset: int) -> bool:
    """Start to read; return False if the file ends at or before ``offset``, which many servers reject."""
    where = control.absolute(path)
    if offset:
        size = control.length(where)
        if size is not None and size <= offset:
            return False
    control.begin(f"RETR {where}", offset)
    return True
