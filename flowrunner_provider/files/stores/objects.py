"""The base class of all object stores; a vendor's store is a short subclass of :class:`ObjectStore`.

A subclass provides ``capabilities`` (:data:`CAPABILITIES` with its differences) and the abstract methods of this class
and of :class:`~.object_bucket.Bucket`.

Paths are ``/key``, without the bucket. There are no real folders: ``/d`` is a folder if a key starts with ``d/``.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Self

from flowrunner_provider.core.errors import IntegrityError, NotFound, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import join_inside
from flowrunner_provider.files.store import Capabilities, Entry
from flowrunner_provider.files.stores.object_bucket import Bucket, refuse_odd
from flowrunner_provider.files.stores.object_upload import InFlight, ObjectUpload, Parts

__all__ = ["CAPABILITIES", "ObjectStore"]

BLOCK = 4 * 1024 * 1024
"""Bytes per ranged read."""

WINDOW = 6
"""Ranged reads in flight per file."""

CAPABILITIES = Capabilities(
    atomic_replace=True,
    atomic_create=True,
    resumable_upload=False,  # not by position; existing parts are recognised by their checksums
    readable_parts=False,
    server_side_copy=True,
    hashes=frozenset({"md5"}),
    sets_modified=False,
    posix_names=False,
    folders=False,
    reads_whole=BLOCK - 1,
    tiny_at_once=64,  # the size of the connection pool
)


class ObjectStore(Bucket):
    """One bucket or container.

    :param where: its name in messages, e.g. ``s3://aws_default@raw``.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.capabilities = CAPABILITIES
        self._in_flight = InFlight()
        self._stack: AsyncExitStack | None = None

    # -- implemented by each vendor

    @abstractmethod
    def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        """Yield the keys that start with ``prefix``, page by page.

        :param delimited: combine the keys with a ``/`` after the prefix into one :meth:`folder` each.
        :param most: a hint that the caller needs only this many entries; 0 for all.
        """

    @abstractmethod
    def parts(self, key: str, token: str, size: int | None) -> Parts:
        """Return the multipart upload of ``key`` without making a request."""

    @abstractmethod
    async def fetch(
        self, key: str, what: str, offset: int, wanted: int, version: str | None = None
    ) -> tuple[int, str | None, bytes] | None:
        """Return size and version of an object, and ``wanted`` bytes from ``offset``; None if it ends before.

        :param what: the operation and its path, for messages.
        :param version: the expected version; another one raises ``IntegrityError``.
        """

    @abstractmethod
    async def put(self, key: str, data: bytes, *, replace: bool) -> None:
        """Put a small object in one request and verify that it arrived.

        :param replace: False to raise ``AlreadyExists`` if the key exists.
        """

    @abstractmethod
    async def remove(self, key: str) -> None:
        """Delete an existing object."""

    @abstractmethod
    async def copy_key(self, key: str, target: str, *, replace: bool, source: Entry) -> None:
        """Copy an object within the server.

        :param replace: False to raise ``AlreadyExists`` if ``target`` exists.
        :param source: the expected source; another version raises ``IntegrityError`` if the server can check it.
        """

    # -- the store

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self.connect(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            await self._stack.aclose()

    def join(self, folder: str, relative: str) -> str:
        return f"{folder.rstrip('/')}/{join_inside('', relative)}"

    async def stat(self, path: str) -> Entry:
        key = _folder_key(path)
        if not key:
            return self.folder("")
        with suppress(NotFound):
            if not path.endswith("/"):
                return await self.head(key)
        async for found in self.pages(f"{key}/", delimited=False, most=1):
            if found:
                return self.folder(f"{key}/")
        raise NotFound(f"{self.label(key)} does not exist", remedy="check the path")

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        key = _folder_key(path)
        prefix, exists = f"{key}/" if key else "", not key
        itself = self.folder(prefix).path
        async for found in self.pages(prefix, delimited=not recursive):
            exists = exists or bool(found)
            for entry in found:
                if not (entry.is_dir and entry.path == itself):
                    yield entry
        if not exists:
            await self._raise_no_folder(key)

    async def _raise_no_folder(self, key: str) -> None:
        try:
            await self.head(key)
        except NotFound:
            raise NotFound(f"nothing found below {self.label(key)}/", remedy="check the path") from None
        raise PermanentError(f"{self.label(key)} is not a folder", remedy="check the path")

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        key = path.removeprefix("/")
        what = f"reading {self.label(key)}"
        refuse_odd(key, what)
        if length == 0:
            await self.head(key)
            return
        end = None if length is None else offset + length
        first = await self.fetch(key, what, offset, BLOCK if end is None else min(BLOCK, end - offset))
        if first is None:
            return
        size, version, block = first
        yield block
        position = offset + len(block)
        async for block in self._blocks(key, what, position, size if end is None else min(end, size), version):
            yield block

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        key = path.removeprefix("/")
        what = f"reading {self.label(key)}"
        refuse_odd(key, what)
        found = await self.fetch(key, what, 0, size + 1)
        if found is None or (version and (found[1] or "").strip('"') != version.strip('"')):
            return None
        return found[2] if len(found[2]) == size else None

    async def _blocks(self, key: str, what: str, position: int, end: int, version: str | None) -> AsyncIterator[bytes]:
        """Yield the rest of an object in order, with a window of ranged reads in flight, all of one version."""
        pending: deque[asyncio.Task[tuple[int, str | None, bytes] | None]] = deque()
        try:
            while pending or position < end:
                while position < end and len(pending) < WINDOW:
                    wanted = min(BLOCK, end - position)
                    pending.append(asyncio.create_task(self.fetch(key, what, position, wanted, version)))
                    position += wanted
                found = await pending.popleft()
                if found is None:
                    return
                yield found[2]
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> ObjectUpload:
        key = path.removeprefix("/")
        refuse_odd(key, f"writing {self.label(key)}")
        return ObjectUpload(partial(self.put, key), self.parts(key, token, size), self._in_flight)

    async def forget(self, path: str, token: str) -> None:
        await self.parts(path.removeprefix("/"), token, None).abort()

    async def delete(self, path: str) -> None:
        key = _folder_key(path)
        if (await self.stat(path)).is_dir:
            raise PermanentError(f"{self.label(key)} is a folder", remedy="name a file")
        failpoint("objects.before_delete")
        await self.remove(key)
        failpoint("objects.after_delete")

    async def mkdir(self, path: str, parents: bool = False) -> None:
        """Do nothing: object stores have no folders."""

    async def copy_within(self, path: str, target: str, *, replace: bool = True, version: str = "") -> Entry:
        source = await self.stat(path)
        key, other = path.removeprefix("/"), target.removeprefix("/")
        refuse_odd(other, f"copying {self.label(key)}")
        if source.is_dir:
            raise PermanentError(f"{self.label(key)} is a folder", remedy="name a file")
        if version and source.version != version:
            raise IntegrityError(f"{self.label(key)} changed meanwhile", remedy="run the task again")
        if not replace:
            await self.refuse_existing(other)
        failpoint("objects.before_copy")
        await self.copy_key(key, other, replace=replace, source=source)
        failpoint("objects.after_copy")
        copied = await self.head(other)
        if copied.size != source.size:
            raise IntegrityError(f"{self.label(key)} changed while it was copied", remedy="run the task again")
        return copied

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        """Copy, then delete; killed between the two, both names exist."""
        await self.copy_within(path, target, replace=replace)
        await self.delete(path)


def _folder_key(path: str) -> str:
    return path.removeprefix("/").rstrip("/")
