"""Destination of a body: a file on any store that gets its final name only when it is complete."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, NotFound, SecurityError
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.files.store import Entry, Store, Upload
from flowrunner_provider.files.stores.local import LocalStore

__all__ = ["Target", "UploadHolder", "Writing", "clean_staging", "local_target", "staging"]

BLOCK = 1024 * 1024
"""Bytes per write to a store."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file, or a folder for one, on an open store.

    :param path: in the store's notation.
    :param root: prefix of the path in an address; empty on this machine.
    """

    store: Store
    path: str
    root: str = ""

    @property
    def shown(self) -> str:
        """Its address."""
        return f"{self.root}{self.path}"

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def here(self) -> bool:
        """Whether it is on this machine's disks."""
        return isinstance(self.store, LocalStore)

    def beside(self, name: str) -> Target:
        """Return ``name`` in the same folder."""
        folder, slash, _ = self.path.rpartition("/")
        return replace(self, path=f"{folder}{slash}{name}")

    def below(self, name: str) -> Target:
        """Return ``name`` in this folder."""
        return replace(self, path=self.store.join(self.path.rstrip("/") or "/", name))

    async def entry(self) -> Entry | None:
        """Return the existing entry; None only if it is known not to exist."""
        try:
            return await self.store.stat(self.path.rstrip("/") or "/")
        except NotFound:
            return None

    async def is_folder(self) -> bool:
        """Return whether a file name must still be appended."""
        if self.path.endswith("/"):
            return True
        if self.here:
            return os.path.isdir(self.path)  # noqa: ASYNC240, PTH112 - one quick check, links followed
        found = await self.entry()
        return found is not None and found.is_dir

    def check_sizes(self, sent: int, held: int) -> None:
        """Compare the number of bytes sent and stored.

        :raises IntegrityError: if they differ.
        """
        if held != sent:
            raise IntegrityError(
                f"{self.shown}: {sent} bytes were written, but {held} are stored",
                remedy="check the disk of the far side",
            )

    async def begin(self, token: str, *, resume_at: int = 0, size: int | None = None) -> Upload:
        """Start or resume the upload; create the folder if needed."""
        folder = self.path.rpartition("/")[0]
        if folder:
            await self.store.mkdir(folder, parents=True)
        return await self.store.begin(self.path, token, resume_at=resume_at, size=size)


def local_target(path: str | Path) -> Target:
    """Return a local file as target."""
    return Target(store=LocalStore(), path=str(path))


class UploadHolder:
    """A target and its upload, once started.

    :param token: names the task's uploads in every attempt.
    """

    def __init__(self, target: Target, token: str) -> None:
        self.target, self._token = target, token
        self._upload: Upload | None = None

    @property
    def _open(self) -> Upload:
        if self._upload is None:
            raise ValueError("the upload is closed")
        return self._upload

    async def check_size(self, size: int) -> None:
        """Raise unless all bytes were stored."""
        self.target.check_sizes(size, await self._open.size())

    async def close(self) -> None:
        """Close the upload; written bytes are kept."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            await upload.close()

    async def discard(self) -> None:
        """Remove the written bytes; an unreachable store keeps them for the next attempt."""
        upload, self._upload = self._upload, None
        with suppress(FlowRunnerError):
            if upload is not None:
                await upload.discard()
            else:
                await self.target.store.forget(self.target.path, self._token)

    async def withdraw(self) -> None:
        """Remove the written bytes unless a newer attempt uses them."""
        upload, self._upload = self._upload, None
        if upload is not None:
            with suppress(FlowRunnerError):
                await upload.withdraw()


class Writing(UploadHolder):
    """An upload that may be restarted; only the last one is committed."""

    async def fill(self, chunks: AsyncIterator[bytes]) -> int:
        """Write a complete stream from the start; return its size.

        :raises IntegrityError: if the store does not hold all bytes.
        """
        await self.close()
        upload = self._upload = await self.target.begin(self._token)
        pending, size = bytearray(), 0
        async for chunk in chunks:
            pending += chunk
            size += len(chunk)
            if len(pending) >= BLOCK:
                await upload.write(bytes(pending))
                pending.clear()
        if pending:
            await upload.write(bytes(pending))
        await upload.sync()
        await self.check_size(size)
        return size

    async def commit(self) -> None:
        """Give the file its final name."""
        await self._open.commit()


def staging(token: str) -> Path:
    """Return a private folder on this worker's disk, the same in every attempt of the task.

    :raises SecurityError: if the folder belongs to another user.
    """
    path = Path(tempfile.gettempdir()) / f"flowrunner-{os.getuid()}-{token}"
    with disk_errors(str(path)):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SecurityError(f"{path} belongs to another user", remedy="remove it, or set TMPDIR to a private folder")
    return path


def clean_staging(path: Path) -> None:
    """Remove a staging folder with its contents."""
    shutil.rmtree(path, ignore_errors=True)
