"""One object on its way: kept in memory while it is small, sent in parts while it grows; nobody sees it before commit.

The parts have lengths that are known beforehand but for the last one, and several travel at once, as memory allows.
A part that arrived stays, also when this process is killed. The next attempt reads its source from the start, as it
must to know the checksum, and the vendor's :class:`Parts` recognises by their checksums the parts that are there: they
are verified and not sent again, with no record but the far side's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, cast

from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.open_file import OpenFile

__all__ = ["FileParts", "ObjectUpload", "Parts", "Put", "UnderWay", "part_lengths"]

_MIB = 1024 * 1024

MEMORY = 96 * _MIB
"""Bytes that travel to one store at the same time; beyond them every object may send one part."""

HELD = _MIB
"""Bytes in memory of a part that is sent from an open file."""

LARGEST = 5 * 1024 * 1024 * _MIB
"""An object of unknown size may grow to so many bytes."""


def part_lengths(first: int, most: int, size: int | None) -> Callable[[int], int]:
    """How long the parts of an object are, by their number, so that ``most`` of them suffice.

    Of a known size all are equally long. Of an unknown one they grow with the square of the number: by nothing in the
    first gigabytes, and to 1.6 GiB where 10,000 parts have to take 5 TiB.

    :param first: bytes of the first one.
    """
    if size is not None:
        same = max(first, -(-size // (most * _MIB)) * _MIB)
        return lambda number: same
    growth = 3.06 * LARGEST / most**3  # the sum of all squares is a third of the cube
    return lambda number: first + int(number * number * growth) // _MIB * _MIB


class Parts(Protocol):
    """What a vendor supplies: the unfinished upload of one key, as the far side keeps it.

    Made without any request. Numbers count from 1. Everything may be called again after an error.
    """

    def length(self, number: int) -> int:
        """Bytes of a part; the last one has 1 to so many. What is not longer than the first is put in one request."""

    @property
    def at_once(self) -> int:
        """How many parts may travel at the same time, if there is memory for them."""

    async def start(self) -> None:
        """Take up the unfinished upload of this key that an earlier attempt of ours has left, or begin a new one."""

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        """See that the part is there, unharmed; one that is there already, by its checksum, is not sent again."""

    async def held(self) -> int:
        """How many bytes the far side says it holds in parts, asked now."""

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        """Send the last part and make the object visible, in one step where the far side can.

        :param tail: none of a vendor with :class:`FileParts` if the last part was sent from a file.
        :param replace: False to raise ``AlreadyExists`` when the key is taken; the upload stays.
        """

    async def abort(self) -> None:
        """Remove what is unfinished of this key and ours; nothing is fine."""


class FileParts(Parts, Protocol):
    """Of a vendor whose store ``takes_ranges``."""

    async def send_file(self, number: int, file: OpenFile, offset: int, length: int) -> None:
        """:meth:`send` for a range of an open file."""


class Put(Protocol):
    """Put a small object in one request."""

    def __call__(self, data: bytes, *, replace: bool) -> Awaitable[None]:
        """See :meth:`~.objects.ObjectStore.put`."""


class UnderWay:
    """The bytes of parts that travel to one store at this moment; all its uploads share it."""

    def __init__(self) -> None:
        self.bytes = 0

    def has_room(self, more: int) -> bool:
        """Whether there is memory for so many more."""
        return self.bytes + more <= MEMORY


class ObjectUpload:
    """An :class:`~flowrunner_provider.files.store.Upload` in parts; ``sync`` waits for the whole ones.

    What does not fill a part is kept in memory until the commit; :meth:`size` counts it in.

    :param put: for the whole object, if it stays small.
    """

    def __init__(self, put: Put, parts: Parts, under_way: UnderWay) -> None:
        self._put, self._parts, self._under_way = put, parts, under_way
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._length = parts.length(1)
        self._number, self._sent = 0, 0
        self._pending: dict[asyncio.Task[None], int] = {}
        self._started = False

    @property
    def offset(self) -> int:
        return self._sent + self._buffered

    async def write(self, chunk: bytes) -> None:
        while chunk:
            if self._buffered == self._length:  # more follows, so this is not the last part
                await self._send()
            room = self._length - self._buffered
            self._chunks.append(chunk[:room] if len(chunk) > room else chunk)
            self._buffered += len(self._chunks[-1])
            chunk = chunk[room:]

    async def write_file(self, file: OpenFile, size: int, advance: Callable[[int], None]) -> None:
        """See :class:`~flowrunner_provider.files.store.RangeUpload`."""
        parts = cast("FileParts", self._parts)

        async def send(offset: int, length: int, number: int) -> None:
            await parts.send_file(number, file, offset, length)
            advance(length)

        while self._sent < size:
            await self._room(HELD)
            length = min(self._length, size - self._sent)
            self._begin(length, HELD, partial(send, self._sent, length))
        await self.sync()

    async def _send(self) -> None:
        await self._room(self._length)
        pieces = self._take()
        self._begin(self._length, self._length, lambda number: self._parts.send(number, pieces))

    async def _room(self, held: int) -> None:
        """Wait until one more part may travel, with so many bytes in memory."""
        if not self._started:
            failpoint("objects.before_start")
            await self._parts.start()
            failpoint("objects.after_start")
            self._started = True
        while self._pending and not self._fits(held):
            await self._reap(asyncio.FIRST_COMPLETED)

    def _fits(self, held: int) -> bool:
        return len(self._pending) < self._parts.at_once and self._under_way.has_room(held)

    def _begin(self, length: int, held: int, send: Callable[[int], Awaitable[None]]) -> None:
        """Send the next part, by its number."""
        self._number += 1
        self._sent += length
        self._under_way.bytes += held
        self._pending[asyncio.create_task(self._one(self._number, send))] = held
        self._length = self._parts.length(self._number + 1)

    def _landed(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._under_way.bytes -= self._pending.pop(task)

    def _take(self) -> list[bytes]:
        pieces = self._chunks
        self._chunks, self._buffered = [], 0
        return pieces

    async def _one(self, number: int, send: Callable[[int], Awaitable[None]]) -> None:
        failpoint("objects.before_part")
        await send(number)
        failpoint("objects.after_part")

    async def _reap(self, until: str) -> None:
        """Wait for parts under way; the first failure is raised."""
        if self._pending:
            done, _ = await asyncio.wait(self._pending, return_when=until)
            self._landed(done)
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
            await self._parts.complete(self._number + 1, self._chunks, replace=replace)
            failpoint("objects.after_complete")
        else:
            failpoint("objects.before_put")
            await self._put(b"".join(self._chunks), replace=replace)
            failpoint("objects.after_put")
        self._started = False

    async def close(self) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        self._landed([*self._pending])
        self._chunks.clear()

    async def discard(self) -> None:
        await asyncio.gather(*self._pending, return_exceptions=True)  # a part that arrives later would stay
        await self.close()
        if self._started:
            await self._parts.abort()
            self._started = False

    async def withdraw(self) -> None:
        """The newer attempt may have taken up what was sent."""
        await self.close()
