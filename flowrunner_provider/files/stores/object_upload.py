"""One object on its way: kept in memory while it is small, sent in parts while it grows; nobody sees it before commit.

The parts are equally long but for the last one, and several travel at once. A part that arrived stays, also when this
process is killed; the next attempt finds it (see :class:`Parts`) and sends only what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from flowrunner_provider.core.failpoints import failpoint

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.objects import ObjectStore

__all__ = ["ObjectUpload", "Parts"]


class Parts(Protocol):
    """What a vendor supplies: the unfinished upload of one key, as the far side keeps it.

    Made without any request. Numbers count from 1. Everything may be called again after an error.
    """

    @property
    def step(self) -> int:
        """Bytes of every part but the last, which has 1 to ``step``. Smaller objects are put in one request."""

    @property
    def at_once(self) -> int:
        """How many parts may travel at the same time; 1 where they must come in order."""

    async def start(self) -> None:
        """Begin a new upload, and remove unfinished ones of this key that earlier attempts of ours have left."""

    async def find(self) -> int:
        """Take up what an earlier attempt has left: how many whole parts are there, from the first without a gap.

        0 for none; then :meth:`start` follows. Parts of another length than ``step`` do not count.
        """

    async def send(self, number: int, data: bytes) -> None:
        """Send a part and see that it arrived unharmed; one that :meth:`find` saw with the same checksum is kept."""

    async def held(self) -> int:
        """How many bytes the far side says it holds in parts, asked now."""

    async def complete(self, number: int, tail: bytes, *, replace: bool) -> None:
        """Send the last part and make the object visible, in one step where the far side can.

        :param replace: False to raise ``AlreadyExists`` when the key is taken; the upload stays.
        """

    async def abort(self) -> None:
        """Remove what is unfinished of this key and ours; nothing is fine."""


class ObjectUpload:
    """A :class:`~flowrunner_provider.files.store.PartedUpload`."""

    def __init__(self, store: ObjectStore, key: str, parts: Parts) -> None:
        self._store, self._key, self._parts = store, key, parts
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._sent = 0
        self._arrived: set[int] = set()
        self._kept = 0
        self._pending: set[asyncio.Task[None]] = set()
        self._started = False

    @property
    def step(self) -> int:
        return self._parts.step

    @property
    def offset(self) -> int:
        return self._sent * self.step + self._buffered

    @property
    def kept(self) -> int:
        return self._kept * self.step

    async def open(self, resume_at: int) -> None:
        """Find the parts that are there, up to ``resume_at``."""
        if resume_at >= self.step:
            found = await self._parts.find()
            self._started = found > 0
            self._sent = self._kept = min(found, resume_at // self.step)

    async def write(self, chunk: bytes) -> None:
        while chunk:
            if self._buffered == self.step:  # more follows, so this is not the last part
                await self._send()
            room = self.step - self._buffered
            self._chunks.append(chunk[:room] if len(chunk) > room else chunk)
            self._buffered += len(self._chunks[-1])
            chunk = chunk[room:]

    async def _send(self) -> None:
        if not self._started:
            failpoint("objects.before_start")
            await self._parts.start()
            failpoint("objects.after_start")
            self._started = True
        while len(self._pending) >= self._parts.at_once:
            await self._reap(asyncio.FIRST_COMPLETED)
        data = self._take()
        self._sent += 1
        self._pending.add(asyncio.create_task(self._one(self._sent, data)))

    def _take(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks, self._buffered = [], 0
        return data

    async def _one(self, number: int, data: bytes) -> None:
        failpoint("objects.before_part")
        await self._parts.send(number, data)
        failpoint("objects.after_part")
        self._arrived.add(number)
        while self._kept + 1 in self._arrived:
            self._kept += 1
            self._arrived.remove(self._kept)

    async def _reap(self, until: str) -> None:
        """Wait for parts under way; the first failure is raised."""
        if self._pending:
            done, self._pending = await asyncio.wait(self._pending, return_when=until)
            for task in done:
                task.result()

    async def sync(self) -> None:
        while self._pending:
            await self._reap(asyncio.FIRST_EXCEPTION)

    async def size(self) -> int:
        return (await self._parts.held() if self._started else 0) + self._buffered

    async def read_back(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Parts cannot be read (``readable_parts=False``)."""
        raise ValueError("the parts of an object cannot be read")
        yield b""

    async def commit(self, *, replace: bool = True, modified: datetime | None = None, durable: bool = False) -> None:
        await self.sync()
        if self._started:
            failpoint("objects.before_complete")
            await self._parts.complete(self._sent + 1, b"".join(self._chunks), replace=replace)
            failpoint("objects.after_complete")
        else:
            failpoint("objects.before_put")
            await self._store.put(self._key, b"".join(self._chunks), replace=replace)
            failpoint("objects.after_put")
        self._started = False

    async def close(self) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        self._pending.clear()
        self._chunks.clear()

    async def discard(self) -> None:
        await asyncio.gather(*self._pending, return_exceptions=True)  # a part that arrives later would stay
        await self.close()
        if self._started:
            await self._parts.abort()
            self._started = False
