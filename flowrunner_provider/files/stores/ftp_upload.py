"""An upload to an FTP server: a temporary file beside the final name, written in one or more transfers.

FTP confirms bytes only at the end of a transfer. So each :meth:`FtpUpload.sync` ends a transfer, and the next write
continues with APPE, or with REST and STOR if an earlier attempt wrote more than its checkpoint says. FTP cannot
truncate a file; these extra bytes are overwritten with the same content.

FTP renames by name. Before the rename, an attempt checks that no newer attempt has replaced it, and then the size of
the temporary file. If it is suspended between that check and the rename while a newer attempt writes the same file,
the final name briefly shows what the newer attempt has written so far, and the newer attempt fails. A temporary file
that is started after such a suspension stays if the newer attempt has finished that file but not its task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

from flowrunner_provider.core.errors import (
    ConnectionLost,
    Fenced,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.stores.ftp_control import Control
from flowrunner_provider.files.stores.ftp_files import CHUNK, FtpFiles
from flowrunner_provider.files.stores.ftp_pool import Lease
from flowrunner_provider.files.stores.ftp_target import parent_of

__all__ = ["FtpUpload"]


class FtpUpload:
    """A temporary file on the server."""

    def __init__(self, files: FtpFiles, path: str, part: str, size: int | None) -> None:
        self._files, self._path, self._part, self._size = files, path, part, size
        self._what = f"writing {files.label(path)}"
        self._lease: Lease | None = None
        self._created = False
        self._in_pieces = False
        self._leftover = 0  # the size that an earlier attempt left, if it is beyond the resume offset
        self._fenced = False  # another attempt has replaced the temporary file
        self.offset = 0

    async def open(self, resume_at: int) -> None:
        """Resume the temporary file, or start a new one; a forgotten attempt keeps writing to the old one."""
        files, part = self._files, self._part
        if resume_at:
            survived = await self._stored_size()
            if survived and await files.appends(part, create=False):
                self.offset, self._created, self._in_pieces = min(resume_at, survived), True, True
                self._leftover = survived if survived > resume_at else 0
                return
        await files.remove_if_there(part)
        failpoint("ftp.before_store")
        if self._size is None or self._size > CHUNK:
            try:
                self._in_pieces = await files.appends(part, create=True)
            except Rejected as error:
                raise await self._create_error(error) from error

    async def _create_error(self, error: Rejected) -> FlowRunnerError:
        """Find out why a file cannot be created; mostly its folder is missing."""
        folder = parent_of(self._path) if "/" in self._path else ""
        if folder and await self._files.find(folder) is None:
            return NotFound(f"{self._what}: the folder does not exist", remedy="create it first")
        return self._files.denied(error) if error.status in (550, 553) else error

    async def write(self, chunk: bytes) -> None:
        lease = await self._transfer()
        if lease is not None:
            try:
                await lease.call(self._what, lease.control.send, chunk)
            except ConnectionLost as error:
                raise await self._reported_error(lease, error) from error
        self.offset += len(chunk)

    async def _reported_error(self, lease: Lease, error: FlowRunnerError) -> FlowRunnerError:
        """Return the error that the server reports after closing the data connection, e.g. a full disk."""
        try:
            await lease.call(self._what, lease.control.raise_reply)
        except FlowRunnerError as reason:
            return reason
        return error

    async def _transfer(self) -> Lease | None:
        """Return the session of the current transfer, started if needed; None if another attempt took over."""
        if self._lease is not None or self._fenced:
            return self._lease
        lease = await self._files.pool.acquire("write")
        try:
            self._fenced = not await lease.call(self._what, self._begin, lease.control)
        except Rejected as error:
            await self._files.pool.release(lease)
            raise await self._create_error(error) from error
        except BaseException:
            await self._files.pool.release(lease)
            raise
        if self._fenced:
            await self._files.pool.release(lease)
            return None
        self._created = True
        self._lease = lease
        return lease

    def _begin(self, control: Control) -> bool:
        """Start a transfer; return False if another attempt changed the temporary file. Blocking."""
        part = control.absolute(self._part)
        if self.offset == 0:
            control.begin(f"STOR {part}")
            return True
        held = control.length(part)
        if self.offset < self._leftover:
            if held is not None and held >= self.offset:
                control.begin(f"STOR {part}", self.offset)
                return True
        elif held == self.offset:
            control.begin(f"APPE {part}")
            return True
        return False

    async def _finish(self) -> None:
        """End the transfer; the temporary file exists afterwards, even if it is empty."""
        if not self._created:
            await self._transfer()
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await lease.call(self._what, lease.control.finish)
            finally:
                await self._files.pool.release(lease)

    async def sync(self) -> None:
        """End the transfer, unless more data follows and the server could not continue the file."""
        if self._in_pieces or (self._size is not None and self.offset >= self._size):
            await self._finish()

    async def _stored_size(self) -> int | None:
        """Return the size of the temporary file, or None if it does not exist."""
        files, part = self._files, self._part
        size = await files.command(self._what, lambda control: control.length(control.absolute(part)))
        if size is None:
            entry = await files.find(part)
            if entry is not None and entry.size is None:
                raise PermanentError(
                    f"{self._what}: the server supports neither SIZE nor MLST", remedy="use another server"
                )
            size = None if entry is None else entry.size
        return size

    async def size(self) -> int:
        """Return the size that the server reports, without the leftover of an earlier attempt."""
        await self._finish()
        held = 0 if self._fenced else await self._stored_size() or 0
        return self.offset if self.offset < held <= self._leftover else held

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._finish()
        wanted = max(0, self.offset - offset)
        wanted = wanted if length is None else min(wanted, length)
        async for chunk in self._files.read(self._part, offset, wanted):
            yield chunk

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        await self._finish()
        if self._fenced:
            raise Fenced(f"{self._what}: another attempt has started this file again", remedy="see that attempt")
        held = await self._stored_size()
        if held != self.offset:
            raise IntegrityError(
                f"{self._what}: {self.offset} bytes were sent but the server has {held}",
                remedy="check the server's disk space, and whether another program writes this file",
            )
        if modified is not None and self._files.capabilities.sets_modified:
            stamp = modified.astimezone(UTC).strftime("%Y%m%d%H%M%S")
            await self._files.command(
                self._what, lambda control: control.voidcmd(f"MFMT {stamp} {control.absolute(self._part)}")
            )
        failpoint("ftp.before_rename")
        await self._files.rename(self._part, self._path, replace=replace)
        failpoint("ftp.after_rename")

    async def close(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            if not lease.broken:
                with suppress(FlowRunnerError):
                    await lease.call(self._what, lease.control.leave)
            await self._files.pool.release(lease)

    async def discard(self) -> None:
        await self.close()
        await self._files.remove_if_there(self._part)

    async def withdraw(self) -> None:
        """Keep the temporary file: it may belong to a newer attempt."""
        await self.close()
