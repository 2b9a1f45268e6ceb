"""What can be asked of a file on an FTP server: what it is, its bytes, that it goes, and that it changes its name.

Uploads build on this, and the store on both.

FTP cannot say that a rename may not replace, so ``atomic_create`` is False. Whether a rename replaces in one step is
the server's affair: those on UNIX do, those on Windows mostly refuse, and the connection can say otherwise.
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
"""Bytes per read. A file that is no longer is sent in one transfer, come what may."""

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
    :param where: how messages call it.
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
            self.capabilities = self._seen(lease.control)
        self._pool = pool
        return self

    def _seen(self, control: Control) -> Capabilities:
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
        """The sessions; only while the store is open."""
        if self._pool is None:
            raise ValueError("the store is not open")
        return self._pool

    async def command(self, what: str, work: Callable[[Control], T]) -> T:
        """One short piece of work on a session of its own, not longer than a few silences of the server."""
        async with self.pool.lease("command") as lease:
            with ftp_errors(what):
                async with asyncio.timeout(4 * self._target.timeout):
                    return await lease.call(what, work, lease.control)

    async def stat(self, path: str) -> Entry:
        entry = await self.look(path)
        if entry is None:
            raise self.missing(path)
        return entry

    async def look(self, path: str) -> Entry | None:
        """What is at ``path``; None if it is known not to be there."""
        label = self.label(path)
        return await self.command(f"looking at {label}", lambda control: control.look(path, label))

    def missing(self, path: str) -> NotFound:
        """The error for something that is not there."""
        return NotFound(f"{self.label(path)} is not there", remedy="check the path")

    def denied(self, error: Rejected) -> AccessDenied:
        """The refusal of something that is there."""
        return AccessDenied(error.message, remedy="ask the owner of the server for the permission")

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        what = f"reading {self.label(path)}"
        if length == 0:
            return
        async with self.pool.lease("read") as lease:
            try:
                begun = await lease.call(what, _begin_read, lease.control, path, offset)
            except Rejected as error:
                raise await self._why_file(path, error) from error
            got = 0
            while begun:
                wanted = CHUNK if length is None else min(CHUNK, length - got)
                chunk = await lease.call(what, lease.control.receive, wanted) if wanted else b""
                got += len(chunk)
                if len(chunk) < wanted:
                    await lease.call(what, lease.control.finish)
                    await self._ended(lease, path, what, offset + got)
                    begun = False
                elif not wanted or got == length:
                    begun = False
                    await self._enough(lease, what)
                try:
                    if chunk:
                        yield chunk
                except GeneratorExit:
                    if begun:
                        await lease.call(what, lease.control.leave)
                    raise

    async def _enough(self, lease: Lease, what: str) -> None:
        """All that was asked for is here. If the file ends here, too, the server shall say that it was all."""
        more = await lease.call(what, lease.control.receive, 1)
        await lease.call(what, lease.control.leave if more else lease.control.finish)

    async def _ended(self, lease: Lease, path: str, what: str, reached: int) -> None:
        """The data ended: because the file does, or because something between cut it off?"""
        size = await lease.call(what, lambda: lease.control.length(lease.control.absolute(path)))
        if size is not None and reached < size:
            raise ConnectionLost(
                f"{what}: the data ended after {reached} of {size} bytes", remedy="retry; it goes on where it was"
            )

    async def _why_file(self, path: str, error: Rejected) -> FlowRunnerError:
        """Why the server refuses what can be done to a file."""
        if error.status not in (450, 501, 550, 551, 553):
            return error
        entry = await self.look(path)
        if entry is None:
            return self.missing(path)
        if entry.is_dir:
            return PermanentError(f"{self.label(path)} is a folder", remedy="name a file")
        return self.denied(error)

    async def appends(self, part: str, create: bool) -> bool:
        """Whether the server lets us go on with a file, tried once on a part: some allow only whole files.

        :param create: begin with an empty one.
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
        """Remove a file; none is fine, and that there is none is seen from its size."""
        what = f"deleting {self.label(path)}"
        try:
            await self.command(what, lambda c: c.voidcmd(f"DELE {c.absolute(path)}"))
        except Rejected as error:
            if not await self.command(what, lambda control: control.lacks_file(path)):
                with suppress(NotFound):
                    raise await self._why_file(path, error) from error

    async def delete(self, path: str) -> None:
        failpoint("ftp.before_delete")
        try:
            await self.command(f"deleting {self.label(path)}", lambda c: c.voidcmd(f"DELE {c.absolute(path)}"))
        except Rejected as error:
            raise await self._why_file(path, error) from error
        failpoint("ftp.after_delete")

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        line_safe(target)
        if not replace:
            if await self.look(target) is not None:
                raise AlreadyExists(
                    f"{self.label(target)} is there already", remedy="choose another name, or if_exists='overwrite'"
                )
        elif not self.capabilities.atomic_replace:
            await self.remove_if_there(target)
            failpoint("ftp.between_remove_and_rename")
        what = f"renaming {self.label(path)} to {self.label(target)}"
        try:
            await self.command(what, lambda control: control.move(control.absolute(path), control.absolute(target)))
        except Rejected as error:
            raise await self._why_not_renamed(path, target, error) from error

    async def _why_not_renamed(self, path: str, target: str, error: Rejected) -> FlowRunnerError:
        if await self.look(path) is None:
            return self.missing(path)
        if await self.look(target) is not None:
            return Rejected(
                error.message,
                status=error.status,
                remedy="if the server does not rename onto a file that is there, set atomic_replace to false in the "
                "extra's 'flowrunner': then the old file is removed first",
            )
        if await self.look(parent_of(target)) is None:
            return self.missing(parent_of(target))
        return self.denied(error)


def _begin_read(control: Control, path: str, offset: int) -> bool:
    """Start to read; False where the file ends at or before ``offset``, which many servers take for an error."""
    where = control.absolute(path)
    if offset:
        size = control.length(where)
        if size is not None and size <= offset:
            return False
    control.begin(f"RETR {where}", offset)
    return True
