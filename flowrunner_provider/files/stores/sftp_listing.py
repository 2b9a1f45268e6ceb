"""What is in a folder on an SFTP server, and below it: several folders are read at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from flowrunner_provider.core.errors import NotFound, Rejected
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.sftp_files import SftpFiles, entry_of
from flowrunner_provider.transport.sftp_session import let_go
from flowrunner_provider.transport.sftp_wire import Attributes, Violation
from flowrunner_provider.transport.ssh_errors import ssh_errors

__all__ = ["Listing"]

_AHEAD = 2
"""Requests under way for a folder: of a small one the second says that there is no more."""

_EMPTY = 100
"""Answers without a name, one after another, that are borne with."""

Names = list[tuple[str, Attributes]] | None


class _Folder:
    """One folder that is being read; its next request is always under way."""

    def __init__(self, files: SftpFiles, path: str) -> None:
        self.path = path
        self._files = files
        self._what = f"listing {files.label(path)}"
        with ssh_errors(self._what):
            self._opened = files.session.opendir(path)
        self._handle: bytes | None = None
        self._empty = 0
        self._answers: deque[asyncio.Future[Names]] = deque()

    async def more(self) -> Names:
        """Some of its names, maybe none; None when there are no more."""
        session = self._files.session
        try:
            with ssh_errors(self._what):
                if self._handle is None:
                    self._handle = await self._opened
                    self._answers.extend(session.readdir(self._handle) for _ in range(_AHEAD))
                    return []
                names = await self._answers.popleft()
                if names is not None:
                    self._answers.append(session.readdir(self._handle))
                    self._empty = 0 if names else self._empty + 1
                    if self._empty > _EMPTY:
                        raise Violation("no names, and no end")
                return names
        except (NotFound, Rejected) as error:
            await self._files.not_a_folder(self.path)
            raise error

    def close(self) -> None:
        let_go(self._answers)
        handle = self._handle
        if handle is None and not self._opened.cancel() and not self._opened.cancelled():
            handle = None if self._opened.exception() else self._opened.result()
        if handle is not None:
            self._files.session.drop(handle)


class Listing:
    """The entries of a folder, those below it in no order.

    :param files: open.
    """

    def __init__(self, files: SftpFiles, path: str, recursive: bool) -> None:
        self._files, self._recursive = files, recursive
        self._waiting = [path]
        self._open: deque[_Folder] = deque()

    async def entries(self) -> AsyncGenerator[Entry, None]:
        try:
            while self._open or self._waiting:
                while self._waiting and len(self._open) < self._files.session.most_folders:
                    self._open.append(_Folder(self._files, self._waiting.pop()))
                folder = self._open[0]
                names = await folder.more()
                self._open.rotate(-1)
                if names is None:
                    self._open.pop().close()
                    continue
                prefix = folder.path.rstrip("/") + "/" if folder.path else ""
                for name, attributes in names:
                    if name in (".", ".."):
                        continue
                    entry = entry_of(prefix + name, attributes)
                    if self._recursive and entry.is_dir:
                        self._waiting.append(entry.path)
                    yield entry
        finally:
            for folder in self._open:
                folder.close()
