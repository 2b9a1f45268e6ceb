"""Files and folders on an SFTP server (protocol version 3, with the extensions of OpenSSH if the server has them).

A file is written to the temporary file ``.{name}.{token}.part`` beside its final name, then renamed.

SFTP has no locks and addresses files only by name, so an old attempt cannot be fenced completely. It checks for a
newer attempt before it creates a temporary file, before it sends a block after a pause of a second, and before the
rename. If it is suspended between such a check and the next request, that request is still executed afterwards:

* A rename publishes what the newer attempt has written so far. The newer attempt writes on to the same file, then
  fails because its temporary file is gone, and is retried.
* A block, a time or a truncation reaches the file that the newer attempt has resumed, with the same bytes.
* A temporary file that is created then is left behind if the newer attempt has finished that file already.
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
    """An SFTP server as a store."""

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
        await self.remove_if_exists(part_of(path, token))

    async def mkdir(self, path: str, parents: bool = False) -> None:
        what = f"creating the folder {self.label(path)}"
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
                raise AlreadyExists(
                    f"{self.label(path)} exists and is not a folder", remedy="choose another path"
                ) from None

    async def rmdir(self, path: str) -> bool:
        try:
            with ssh_errors(f"removing the folder {self.label(path)}"):
                await self.session.rmdir(path)
        except (Rejected, PermanentError) as error:
            try:
                await self.raise_unless_folder(path)  # OpenSSH reports a file as "no such file", too
            except NotFound:
                return True
            async with aclosing(Listing(self, path, recursive=False).entries()) as entries:
                async for _ in entries:
                    return False
            raise error
        return True
