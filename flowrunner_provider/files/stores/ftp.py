"""The FTP store, with or without TLS (RFC 959, 2228, 2428, 3659, 4217).

A file is written to ``.{name}.{token}.part`` beside its final name, its size is checked, and it is renamed.

Symbolic links are recognised in listings and by MLST. Without MLST, ``stat`` shows a link as what it points to.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from typing import IO

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, FlowRunnerError, PermanentError, Rejected
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.folders import part_of
from flowrunner_provider.files.stores.ftp_control import Control
from flowrunner_provider.files.stores.ftp_files import FtpFiles
from flowrunner_provider.files.stores.ftp_listing import fact_entry, list_entry
from flowrunner_provider.files.stores.ftp_target import FtpTarget, parent_of
from flowrunner_provider.files.stores.ftp_upload import FtpUpload

__all__ = ["FtpStore", "FtpTarget"]

_BATCH = 100
_IN_MEMORY = 4 * 1024 * 1024


class FtpStore(FtpFiles):
    """The files and folders of an FTP server."""

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        folders = [path]
        while folders:
            folder = folders.pop()
            async for entry in self._scan(folder):
                if recursive and entry.is_dir:
                    folders.append(entry.path)
                yield entry

    async def _scan(self, folder: str) -> AsyncIterator[Entry]:
        """Yield the entries of one folder, after its listing has arrived completely."""
        what = f"listing {self.label(folder)}"
        prefix = folder.rstrip("/") + "/" if folder else ""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            async with self.pool.lease("read") as lease:
                try:
                    facts = await lease.call(what, lease.control.spool, folder, spool)
                except Rejected as error:
                    raise await self._listing_error(folder, error) from error
            while batch := await asyncio.to_thread(_next_batch, spool, prefix, facts, self._target.encoding):
                if not facts:
                    batch = await self.command(what, partial(_with_times, batch))
                for entry in batch:
                    yield entry

    async def _listing_error(self, folder: str, error: Rejected) -> FlowRunnerError:
        entry = await self.find(folder)
        if entry is None:
            return self.missing(folder)
        if not entry.is_dir and not entry.is_link:
            return PermanentError(f"{self.label(folder)} is not a folder", remedy="check the path")
        return self.denied(error)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> FtpUpload:
        upload = FtpUpload(self, path, part_of(path, token), size)
        await upload.open(resume_at)
        return upload

    async def forget(self, path: str, token: str) -> None:
        await self.remove_if_there(part_of(path, token))

    async def mkdir(self, path: str, parents: bool = False) -> None:
        try:
            await self._mkdir(path, parents)
        except AccessDenied:  # perhaps another task created a parent folder between two commands
            await self._mkdir(path, parents)

    async def _mkdir(self, path: str, parents: bool) -> None:
        if await self._try_mkdir(path) is None:
            return
        parent = parent_of(path) if "/" in path.strip("/") or path.startswith("/") else ""
        if parent and await self.find(parent) is None:
            if not parents:
                raise self.missing(parent)
            await self.mkdir(parent, parents=True)
        refusal = await self._try_mkdir(path)  # once more: another task may have created the parents
        if refusal is not None:
            raise self.denied(refusal) from refusal

    async def _try_mkdir(self, path: str) -> Rejected | None:
        """Create a folder; return the server's refusal if it does not exist afterwards."""
        what = f"making the folder {self.label(path)}"
        try:
            await self.command(what, lambda control: control.voidcmd(f"MKD {control.absolute(path)}"))
        except Rejected as error:
            if await self.command(what, lambda control: control.enters(control.absolute(path))):
                return None
            entry = await self.find(path)
            if entry is None:
                return error
            if not entry.is_dir:
                raise AlreadyExists(
                    f"{self.label(path)} exists and is not a folder", remedy="choose another name"
                ) from error
        return None

    async def rmdir(self, path: str) -> bool:
        what = f"removing the folder {self.label(path)}"
        try:
            await self.command(what, lambda control: control.voidcmd(f"RMD {control.absolute(path)}"))
        except Rejected as error:
            if await self.find(path) is None:
                return True
            async for _ in self._scan(path):
                return False
            raise self.denied(error) from error
        return True


def _next_batch(spool: IO[bytes], prefix: str, facts: bool, encoding: str) -> list[Entry]:
    """Parse the next entries of a listing; return an empty list at its end."""
    batch: list[Entry] = []
    while len(batch) < _BATCH and (raw := spool.readline()):
        line = raw.rstrip(b"\n").removesuffix(b"\r").decode(encoding, "surrogateescape")
        if facts and not line:
            continue
        entry = fact_entry(line, prefix) if facts else list_entry(line, prefix)
        if entry is not None:
            batch.append(entry)
    return batch


def _with_times(entries: list[Entry], control: Control) -> list[Entry]:
    """Return the entries with exact times, one command per file: LIST has neither seconds nor a time zone."""
    plain = [entry.is_dir or entry.is_link for entry in entries]
    return [entry if is_no_file else control.modified(entry) for entry, is_no_file in zip(entries, plain, strict=True)]
