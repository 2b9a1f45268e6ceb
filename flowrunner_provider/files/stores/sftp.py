"""A server's files and folders over SFTP (protocol version 3, with OpenSSH's extensions where the server has them).

A file is written to ``.{name}.{token}.part`` beside its final name and renamed.

SFTP knows neither locks nor files by anything but their names. An attempt that is taken for dead asks whether it has
been succeeded before it begins a part, before it sends a block after a standstill of a second, and before the rename.
If it stands still just then, between that answer and the request that follows, the request is carried out when it goes
on: a rename gives the final name to what the newer attempt has written by then, which goes on writing there and then
misses its part; a block, the time or the size of a part that was gone on with reach the same file, with the same bytes.
A part that is begun then stays if the newer attempt has done that file and has not finished.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

from flowrunner_provider.core.errors import AlreadyExists, NotFound, PermanentError, Rejected
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.folders import part_of
from flowrunner_provider.files.stores.sftp_files import SftpFiles, entry_of
from flowrunner_provider.files.stores.sftp_listing import Listing
from flowrunner_provider.files.stores.sftp_upload import SftpUpload
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["SftpStore"]


class SftpStore(SftpFiles):
    """An SSH server as a store: its files, its folders, and new files in them."""

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        async with aclosing(Listing(self, path, recursive).entries()) as entries:
            async for entry in entries:
                yield entry

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> SftpUpload:
        upload = SftpUpload(self, path, part_of(path, token))
        async with AsyncExitStack() as failed:
            failed.push_async_callback(upload.close)
            await upload.open(resume_at)
            failed.pop_all()
        return upload

    async def forget(self, path: str, token: str) -> None:
        await self.remove_if_there(part_of(path, token))

    async def mkdir(self, path: str, parents: bool = False) -> None:
        what = f"making the folder {self.label(path)}"
        try:
            with ssh_errors(what):
                await self.session.mkdir(path)
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
                with ssh_errors(what):
                    entry = entry_of(path, await self.session.stat(path))
            if not entry.is_dir:
                raise AlreadyExists(f"{self.label(path)} is there and not a folder", remedy="choose another") from None

    async def rmdir(self, path: str) -> bool:
        try:
            with ssh_errors(f"removing the folder {self.label(path)}"):
                await self.session.rmdir(path)
        except (Rejected, PermanentError) as error:
            try:
                await self.not_a_folder(path)  # which OpenSSH calls "no such file", too
            except NotFound:
                return True
            async with aclosing(Listing(self, path, recursive=False).entries()) as entries:
                async for _ in entries:
                    return False
            raise error
        return True
