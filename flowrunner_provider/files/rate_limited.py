"""A store with the rate limit of its connection: each operation waits for its turn; bytes are not counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, cast

from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.store import (
    Capabilities,
    CopyingStore,
    Entry,
    FolderStore,
    RangeStore,
    Store,
    Upload,
    WholeStore,
)

__all__ = ["RateLimitedStore"]


class RateLimitedStore:
    """A store whose operations are rate-limited.

    :param turn: waits until one more operation may start.
    """

    def __init__(self, store: Store, turn: Callable[[], Awaitable[None]]) -> None:
        self._store, self._turn = store, turn

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def where(self) -> str:
        return self._store.where

    async def __aenter__(self) -> Self:
        await self._turn()
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)

    def join(self, folder: str, relative: str) -> str:
        return self._store.join(folder, relative)

    async def stat(self, path: str) -> Entry:
        await self._turn()
        return await self._store.stat(path)

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        await self._turn()
        async for entry in self._store.list(path, recursive):
            yield entry

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._turn()
        async for chunk in self._store.read(path, offset, length):
            yield chunk

    async def begin(self, path: str, token: str, *, resume_at: int = 0, size: int | None = None) -> Upload:
        await self._turn()
        return await self._store.begin(path, token, resume_at=resume_at, size=size)

    async def forget(self, path: str, token: str) -> None:
        await self._turn()
        await self._store.forget(path, token)

    async def delete(self, path: str) -> None:
        await self._turn()
        await self._store.delete(path)

    async def mkdir(self, path: str, parents: bool = False) -> None:
        await self._turn()
        await self._store.mkdir(path, parents)

    async def rename(self, path: str, target: str, *, replace: bool = False) -> None:
        await self._turn()
        await self._store.rename(path, target, replace=replace)

    async def read_whole(self, path: str, size: int, version: str) -> bytes | None:
        await self._turn()
        return await cast("WholeStore", self._store).read_whole(path, size, version)

    @property
    def ranges_at_once(self) -> int:
        return cast("RangeStore", self._store).ranges_at_once

    async def read_into(self, file: OpenFile, path: str, offset: int, length: int, version: str) -> int:
        await self._turn()
        return await cast("RangeStore", self._store).read_into(file, path, offset, length, version)

    async def rmdir(self, path: str) -> bool:
        await self._turn()
        return await cast("FolderStore", self._store).rmdir(path)

    async def copy_within(self, path: str, target: str, *, replace: bool = True, version: str = "") -> Entry:
        await self._turn()
        return await cast("CopyingStore", self._store).copy_within(path, target, replace=replace, version=version)
