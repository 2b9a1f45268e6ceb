"""Where a body is written: a file on any store, which appears under its name when it is whole."""

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

__all__ = ["Holding", "Target", "Writing", "clean_staging", "local_target", "staging"]

BLOCK = 1024 * 1024
"""Bytes that are handed to a store at once."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file, or a folder for one, on an open store.

    :param path: as the store takes it.
    :param root: what an address has before its path; empty on this machine.
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
        """The last component."""
        return self.path.rpartition("/")[2]

    @property
    def here(self) -> bool:
        """Whether it is on this machine's disks."""
        return isinstance(self.store, LocalStore)

    def beside(self, name: str) -> Target:
        """``name`` in the same folder."""
        folder, slash, _ = self.path.rpartition("/")
        return replace(self, path=f"{folder}{slash}{name}")

    def below(self, name: str) -> Target:
        """``name`` in this folder."""
        return replace(self, path=self.store.join(self.path.rstrip("/") or "/", name))

    async def entry(self) -> Entry | None:
        """What is there; None only when it is known that nothing is."""
        try:
            return await self.store.stat(self.path.rstrip("/") or "/")
        except NotFound:
            return None

    async def is_folder(self) -> bool:
        """Whether a name is still to be given."""
        if self.path.endswith("/"):
            return True
        if self.here:
            return os.path.isdir(self.path)  # noqa: ASYNC240, PTH112 - one quick look, links followed
        found = await self.entry()
        return found is not None and found.is_dir

    def compare(self, sent: int, held: int) -> None:
        """What was sent has arrived.

        :raises IntegrityError: when the store does not hold what it was given, in bytes.
        """
        if held != sent:
            raise IntegrityError(
                f"{self.shown}: {sent} bytes were written and {held} are there",
                remedy="look at the disk of the far side",
            )

    async def begin(self, token: str, *, resume_at: int = 0, size: int | None = None) -> Upload:
        """Start to write it, or go on; its folder is made."""
        folder = self.path.rpartition("/")[0]
        if folder:
            await self.store.mkdir(folder, parents=True)
        return await self.store.begin(self.path, token, resume_at=resume_at, size=size)


def local_target(path: str | Path) -> Target:
    """A file on this machine."""
    return Target(store=LocalStore(), path=str(path))


class Holding:
    """A target and its upload, once that was begun.

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
        """What was sent has arrived."""
        self.target.compare(size, await self._open.size())

    async def close(self) -> None:
        """Let go; what was written stays."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            await upload.close()

    async def discard(self) -> None:
        """Remove what was written; a store that cannot be reached any more keeps it for the next attempt."""
        upload, self._upload = self._upload, None
        with suppress(FlowRunnerError):
            if upload is not None:
                await upload.discard()
            else:
                await self.target.store.forget(self.target.path, self._token)

    async def withdraw(self) -> None:
        """Remove what was written if no newer attempt has it."""
        upload, self._upload = self._upload, None
        if upload is not None:
            with suppress(FlowRunnerError):
                await upload.withdraw()


class Writing(Holding):
    """One upload that may begin afresh: the last one counts."""

    async def fill(self, chunks: AsyncIterator[bytes]) -> int:
        """Write a whole stream from the start; returns its size.

        :raises IntegrityError: when the store does not hold what it was given.
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
        """Give the file its name."""
        await self._open.commit()


def staging(token: str) -> Path:
    """A folder of this worker's disk that a task finds again in its next attempt; nobody else may look into it.

    :raises SecurityError: when somebody else was there first.
    """
    path = Path(tempfile.gettempdir()) / f"flowrunner-{os.getuid()}-{token}"
    with disk_errors(str(path)):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SecurityError(f"{path} belongs to somebody else", remedy="remove it, or set TMPDIR to a private folder")
    return path


def clean_staging(path: Path) -> None:
    """Remove a staging folder with all that is in it."""
    shutil.rmtree(path, ignore_errors=True)
