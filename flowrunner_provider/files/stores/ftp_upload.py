"""One file on its way to an FTP server: a part beside the final name, written in one or more transfers.

FTP confirms bytes only when a transfer ends. So each :meth:`FtpUpload.sync` ends one, and the next write goes on
behind it: with APPE, or with REST and STOR where an earlier attempt came further than its checkpoint says. FTP cannot
cut a file off; those bytes are written over instead, with the same ones, since they are of the same source.

FTP renames by name. An attempt that is taken for dead asks whether it has been succeeded, and then for the part's size,
before the rename. If it stands still between that answer and the rename, and the newer attempt is in the middle of the
same file when it goes on, the final name shows what that one has written by then, and it fails. A part that is begun
after such a standstill stays if the newer attempt has done that file and has not finished.
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
    """A part file on the server."""

    def __init__(self, files: FtpFiles, path: str, part: str, size: int | None) -> None:
        self._files, self._path, self._part, self._size = files, path, part, size
        self._what = f"writing {files.label(path)}"
        self._lease: Lease | None = None
        self._created = False
        self._in_pieces = False
        self._longer = 0  # what an earlier attempt has left, where that is more than we go on from
        self._gone = False  # another attempt has begun afresh: what we write now is for nobody
        self.offset = 0

    async def open(self, resume_at: int) -> None:
        """Find what survived, or begin a new file: a forgotten attempt that still writes has the old one."""
        files, part = self._files, self._part
        if resume_at:
            survived = await self._held()
            if survived and await files.appends(part, create=False):
                self.offset, self._created, self._in_pieces = min(resume_at, survived), True, True
                self._longer = survived if survived > resume_at else 0
                return
        await files.remove_if_there(part)
        failpoint("ftp.before_store")
        if self._size is None or self._size > CHUNK:
            try:
                self._in_pieces = await files.appends(part, create=True)
            except Rejected as error:
                raise await self._why(error) from error

    async def _why(self, error: Rejected) -> FlowRunnerError:
        """Why a file cannot be made: mostly there is no such folder."""
        folder = parent_of(self._path) if "/" in self._path else ""
        if folder and await self._files.look(folder) is None:
            return NotFound(f"{self._what}: there is no such folder", remedy="make it first")
        return self._files.denied(error) if error.status in (550, 553) else error

    async def write(self, chunk: bytes) -> None:
        lease = await self._started()
        if lease is not None:
            try:
                await lease.call(self._what, lease.control.send, chunk)
            except ConnectionLost as error:
                raise await self._servers_word(lease, error) from error
        self.offset += len(chunk)

    async def _servers_word(self, lease: Lease, error: FlowRunnerError) -> FlowRunnerError:
        """A server that refuses while we send, closes the data connection; its reply says why, e.g. a full disk."""
        try:
            await lease.call(self._what, lease.control.leave_for_reason)
        except FlowRunnerError as reason:
            return reason
        return error

    async def _started(self) -> Lease | None:
        """The session of the transfer under way; None if what is written does not count any more."""
        if self._lease is not None or self._gone:
            return self._lease
        lease = await self._files.pool.acquire("write")
        try:
            self._gone = not await lease.call(self._what, self._begin, lease.control)
        except Rejected as error:
            await self._files.pool.release(lease)
            raise await self._why(error) from error
        except BaseException:
            await self._files.pool.release(lease)
            raise
        if self._gone:
            await self._files.pool.release(lease)
            return None
        self._created = True
        self._lease = lease
        return lease

    def _begin(self, control: Control) -> bool:
        """Blocking. False if the part is not as we left it: then it belongs to somebody else."""
        part = control.absolute(self._part)
        if self.offset == 0:
            control.begin(f"STOR {part}")
            return True
        held = control.length(part)
        if self.offset < self._longer:
            if held is not None and held >= self.offset:
                control.begin(f"STOR {part}", self.offset)
                return True
        elif held == self.offset:
            control.begin(f"APPE {part}")
            return True
        return False

    async def _finish(self) -> None:
        """End the transfer; there is a file afterwards, be it empty."""
        if not self._created:
            await self._started()
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await lease.call(self._what, lease.control.finish)
            finally:
                await self._files.pool.release(lease)

    async def sync(self) -> None:
        """End the transfer, unless the server could not go on with the file and there is more to come."""
        if self._in_pieces or (self._size is not None and self.offset >= self._size):
            await self._finish()

    async def _held(self) -> int | None:
        """How many bytes the part has; None if there is none."""
        files, part = self._files, self._part
        size = await files.command(self._what, lambda control: control.length(control.absolute(part)))
        if size is None:
            entry = await files.look(part)
            if entry is not None and entry.size is None:
                raise PermanentError(f"{self._what}: the server knows neither SIZE nor MLST", remedy="use another one")
            size = None if entry is None else entry.size
        return size

    async def size(self) -> int:
        """What the server holds. More than ours below the length of an earlier attempt is that one's."""
        await self._finish()
        held = 0 if self._gone else await self._held() or 0
        return self.offset if self.offset < held <= self._longer else held

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._finish()
        wanted = max(0, self.offset - offset)
        wanted = wanted if length is None else min(wanted, length)
        async for chunk in self._files.read(self._part, offset, wanted):
            yield chunk

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        await self._finish()
        if self._gone:
            raise Fenced(f"{self._what}: another attempt has begun it afresh", remedy="look at that one")
        held = await self._held()
        if held != self.offset:
            raise IntegrityError(
                f"{self._what}: {self.offset} bytes were sent and {held} are there",
                remedy="look at the server's disk, and at who else writes there",
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
        """Names tell nothing: the part may be the newer attempt's by now."""
        await self.close()
