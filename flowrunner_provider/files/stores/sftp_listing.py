"""List a folder on an SFTP server, optionally with all folders below it, several of them concurrently."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from flowrunner_provider.core.errors import NotFound, Rejected
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.sftp_files import SftpFiles, entry_of
from flowrunner_provider.transport.sftp_session import abandon
from flowrunner_provider.transport.sftp_wire import Attributes, Violation
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["Listing"]

_REQUESTS_IN_FLIGHT = 2
"""Requests in flight per folder. The second one already returns the end of a small folder."""

_MAX_EMPTY_ANSWERS = 100
"""Consecutive answers without names that are tolerated."""

Names = list[tuple[str, Attributes]] | None


class _Folder:
    """One open folder whose next request is always in flight."""

    def __init__(self, files: SftpFiles, path: str) -> None:
        self.path = path
        self._files = files
        self._operation = f"listing {files.label(path)}"
        with ssh_errors(self._operation):
            self._opening = files.session.opendir(path)
        self._handle: bytes | None = None
        self._empty_answers = 0
        self._answers: deque[asyncio.Future[Names]] = deque()

    async def next_names(self) -> Names:
        """Return the next names, possibly none; None at the end of the folder."""
        session = self._files.session
        try:
            with ssh_errors(self._operation):
                if self._handle is None:
                    self._handle = await self._opening
                    self._answers.extend(session.readdir(self._handle) for _ in range(_REQUESTS_IN_FLIGHT))
                    return []
                names = await self._answers.popleft()
                if names is not None:
                    self._answers.append(session.readdir(self._handle))
                    self._empty_answers = 0 if names else self._empty_answers + 1
                    if self._empty_answers > _MAX_EMPTY_ANSWERS:
                        raise Violation("endless answers without names")
                return names
        except (NotFound, Rejected) as error:
            await self._files.raise_unless_folder(self.path)
            raise error

    def close(self) -> None:
        abandon(self._answers)
        handle = self._handle
        if handle is None and not self._opening.cancel() and not self._opening.cancelled():
            handle = None if self._opening.exception() else self._opening.result()
        if handle is not None:
            self._files.session.close_unawaited(handle)


class Listing:
    """The entries of a folder; with ``recursive`` also those below it, in no particular order.

    :param files: an open store.
    """

    def __init__(self, files: SftpFiles, path: str, recursive: bool) -> None:
        self._files, self._recursive = files, recursive
        self._unvisited = [path]
        self._open_folders: deque[_Folder] = deque()

    async def entries(self) -> AsyncGenerator[Entry, None]:
        try:
            while self._open_folders or self._unvisited:
                while self._unvisited and len(self._open_folders) < self._files.session.max_folders:
                    self._open_folders.append(_Folder(self._files, self._unvisited.pop()))
                folder = self._open_folders[0]
                names = await folder.next_names()
                self._open_folders.rotate(-1)
                if names is None:
                    self._open_folders.pop().close()
                    continue
                prefix = folder.path.rstrip("/") + "/" if folder.path else ""
                for name, attributes in names:
                    if name in (".", ".."):
                        continue
                    entry = entry_of(prefix + name, attributes)
                    if self._recursive and entry.is_dir:
                        self._unvisited.append(entry.path)
                    yield entry
        finally:
            for folder in self._open_folders:
                folder.close()
