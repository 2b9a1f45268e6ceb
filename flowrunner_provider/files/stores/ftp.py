"""A server's files over FTP, in clear or with TLS (RFC 959, 2228, 2428, 3659, 4217).

A file is written to ``.{name}.{token}.part`` beside its final name, its size is asked for, and it is renamed. FTP
cannot say that a rename may not replace, so ``atomic_create`` is False. Whether a rename replaces in one step is the
server's affair: those on UNIX do, those on Windows mostly refuse, and the connection can say otherwise.

Links are told apart in listings, and by MLST; without MLST a link looks like what it points to.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace as changed
from functools import partial
from types import TracebackType
from typing import IO, Self, TypeVar

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
from flowrunner_provider.files.stores.folders import FolderPaths, part_of
from flowrunner_provider.files.stores.ftp_control import Control
from flowrunner_provider.files.stores.ftp_errors import ftp_errors
from flowrunner_provider.files.stores.ftp_listing import fact_entry, list_entry
from flowrunner_provider.files.stores.ftp_pool import Lease, Pool
from flowrunner_provider.files.stores.ftp_target import FtpTarget, line_safe, parent_of
from flowrunner_provider.files.stores.ftp_upload import CHUNK, FtpUpload

__all__ = ["FtpStore", "FtpTarget"]

T = TypeVar("T")

_BATCH = 100
_IN_MEMORY = 4 * 1024 * 1024

_CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=False,
    resumable_upload=True,
    readable_parts=True,
    modified_precision=1.0,
    removes_folders=True,
)


class FtpStore(FolderPaths):
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
            raise self._missing(path)
        return entry

    async def look(self, path: str) -> Entry | None:
        """What is at ``path``; None if it is known not to be there."""
        label = self.label(path)
        return await self.command(f"looking at {label}", lambda control: control.look(path, label))

    def _missing(self, path: str) -> NotFound:
        return NotFound(f"{self.label(path)} is not there", remedy="check the path")

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            async for entry in self._scan(folder):
                if recursive and entry.is_dir:
                    waiting.append(entry.path)
                yield entry

    async def _scan(self, folder: str) -> AsyncIterator[Entry]:
        """One folder. Its listing is complete before the first entry is given, so it never just ends."""
        what = f"listing {self.label(folder)}"
        prefix = folder.rstrip("/") + "/" if folder else ""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            async with self.pool.lease("read") as lease:
                try:
                    facts = await lease.call(what, lease.control.spool, folder, spool)
                except Rejected as error:
                    raise await self._no_listing(folder, error) from error
            while batch := await asyncio.to_thread(_batch, spool, prefix, facts, self._target.encoding):
                if not facts:
                    batch = await self.command(what, partial(_timed, batch))
                for entry in batch:
                    yield entry

    async def _no_listing(self, folder: str, error: Rejected) -> FlowRunnerError:
        entry = await self.look(folder)
        if entry is None:
            return self._missing(folder)
        if not entry.is_dir and not entry.is_link:
            return PermanentError(f"{self.label(folder)} is not a folder", remedy="check the path")
        return self.denied(error)

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
            return self._missing(path)
        if entry.is_dir:
            return PermanentError(f"{self.label(path)} is a folder", remedy="name a file")
        return self.denied(error)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> FtpUpload:
        upload = FtpUpload(self, path, part_of(path, token), size)
        await upload.open(resume_at)
        return upload

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

    async def forget(self, path: str, token: str) -> None:
        await self.remove_if_there(part_of(path, token))

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

    async def mkdir(self, path: str, parents: bool = False) -> None:
        try:
            await self._mkdir(path, parents)
        except AccessDenied:  # or others are making the same folders, and between two questions the answers changed
            await self._mkdir(path, parents)

    async def _mkdir(self, path: str, parents: bool) -> None:
        if await self._make(path) is None:
            return
        parent = parent_of(path) if "/" in path.strip("/") or path.startswith("/") else ""
        if parent and await self.look(parent) is None:
            if not parents:
                raise self._missing(parent)
            await self.mkdir(parent, parents=True)
        refusal = await self._make(path)  # once more: others may be making the same folders
        if refusal is not None:
            raise self.denied(refusal) from refusal

    async def _make(self, path: str) -> Rejected | None:
        """Make a folder; the server's refusal if there is none afterwards."""
        what = f"making the folder {self.label(path)}"
        try:
            await self.command(what, lambda control: control.voidcmd(f"MKD {control.absolute(path)}"))
        except Rejected as error:
            if await self.command(what, lambda control: control.enters(control.absolute(path))):
                return None
            entry = await self.look(path)
            if entry is None:
                return error
            if not entry.is_dir:
                raise AlreadyExists(f"{self.label(path)} is there and not a folder", remedy="choose another") from error
        return None

    async def rmdir(self, path: str) -> bool:
        what = f"removing the folder {self.label(path)}"
        try:
            await self.command(what, lambda control: control.voidcmd(f"RMD {control.absolute(path)}"))
        except Rejected as error:
            if await self.look(path) is None:
                return True
            async for _ in self._scan(path):
                return False
            raise self.denied(error) from error
        return True

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
            return self._missing(path)
        if await self.look(target) is not None:
            return Rejected(
                error.message,
                status=error.status,
                remedy="if the server does not rename onto a file that is there, set atomic_replace to false in the "
                "extra's 'flowrunner': then the old file is removed first",
            )
        if await self.look(parent_of(target)) is None:
            return self._missing(parent_of(target))
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


def _batch(spool: IO[bytes], prefix: str, facts: bool, encoding: str) -> list[Entry]:
    """The next entries of a listing; none at its end."""
    batch: list[Entry] = []
    while len(batch) < _BATCH and (raw := spool.readline()):
        line = raw.rstrip(b"\n").removesuffix(b"\r").decode(encoding, "surrogateescape")
        if facts and not line:
            continue
        entry = fact_entry(line, prefix) if facts else list_entry(line, prefix)
        if entry is not None:
            batch.append(entry)
    return batch


def _timed(entries: list[Entry], control: Control) -> list[Entry]:
    """With times: one question for each file, as LIST has neither seconds nor a zone."""
    plain = [entry.is_dir or entry.is_link for entry in entries]
    return [entry if is_no_file else control.modified(entry) for entry, is_no_file in zip(entries, plain, strict=True)]
