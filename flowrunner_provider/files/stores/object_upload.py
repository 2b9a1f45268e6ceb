"""An upload to an object store: small objects are buffered, larger ones sent in parts; invisible until the commit.

The length of every part but the last is known in advance. Several parts are in flight as far as memory allows. Parts
that arrived survive a kill of this process. The next attempt reads its source from the start, which the checksum
requires anyway, and the vendor's :class:`Parts` recognises existing parts by their checksums: they are verified but
not sent again. No record besides the server's own is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, cast

from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.open_file import OpenFile

__all__ = ["FileParts", "InFlight", "ObjectUpload", "Parts", "Put", "part_lengths"]

_MIB = 1024 * 1024

MEMORY = 96 * _MIB
"""Bytes in flight to one store; beyond this limit each object may still send one part."""

HELD = _MIB
"""Memory that a part takes when it is sent from an open file, in bytes."""

LARGEST = 5 * 1024 * 1024 * _MIB
"""The largest object of unknown size, in bytes."""


def part_lengths(first: int, most: int, size: int | None) -> Callable[[int], int]:
    """Return a function from part number to part length, such that ``most`` parts suffice for the object.

    If the size is known, all parts have the same length. Otherwise they grow with the square of their number: not at
    all in the first gigabytes, and up to 1.6 GiB for 5 TiB in 10,000 parts.

    :param first: the length of the first part, in bytes.
    """
    if size is not None:
        same = max(first, -(-size // (most * _MIB)) * _MIB)
        return lambda number: same
    growth = 3.06 * LARGEST / most**3  # the sum of all squares is a third of the cube
    return lambda number: first + int(number * number * growth) // _MIB * _MIB


class Parts(Protocol):
    """The unfinished upload of one key on the server; implemented for each vendor.

    Creating it makes no request. Part numbers count from 1. Every method may be called again after an error.
    """

    def length(self, number: int) -> int:
        """Return the length of a part; the last one may be shorter. Objects up to one part are put in one request."""

    @property
    def at_once(self) -> int:
        """How many parts may be in flight at the same time."""

    async def start(self) -> None:
        """Resume the unfinished upload that an earlier attempt left for this key, or start a new one."""

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        """Send a part and verify it, unless the server already has it with the same checksum."""

    async def stored_size(self) -> int:
        """Ask the server how many bytes it holds in parts."""

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        """Send the last part and publish the object, atomically if the server can.

        :param tail: empty if the last part was sent by :meth:`FileParts.send_file`.
        :param replace: False to raise ``AlreadyExists`` if the key exists; the upload then stays.
        """

    async def abort(self) -> None:
        """Remove our unfinished uploads of this key, if there are any."""


class FileParts(Parts, Protocol):
    """Parts that can be sent from an open file; for stores with ``takes_ranges``."""

    async def send_file(self, number: int, file: OpenFile, offset: int, length: int) -> None:
        """Send a range of an open file as :meth:`send` does."""


class Put(Protocol):
    """Puts a small object in one request."""

    def __call__(self, data: bytes, *, replace: bool) -> Awaitable[None]:
        """See :meth:`~.objects.ObjectStore.put`."""


class InFlight:
    """The number of bytes in flight to one store, shared by all its uploads."""

    def __init__(self) -> None:
        self.bytes = 0

    def has_room(self, more: int) -> bool:
        """Return whether ``more`` bytes stay within the limit."""
        return self.bytes + more <= MEMORY


class ObjectUpload:
    """An :class:`~flowrunner_provider.files.store.Upload` in parts; ``sync`` waits for the parts in flight.

    The incomplete last part stays in memory until the commit; :meth:`size` includes it.

    :param put: puts the complete object if it stays small.
    """

    def __init__(self, put: Put, parts: Parts, in_flight: InFlight) -> None:
        self._put, self._parts, self._in_flight = put, parts, in_flight
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
            await self._wait_for_room(HELD)
            length = min(self._length, size - self._sent)
            self._start_part(length, HELD, partial(send, self._sent, length))
        await self.sync()

    async def _send(self) -> None:
        await self._wait_for_room(self._length)
        pieces = self._take_buffer()
        self._start_part(self._length, self._length, lambda number: self._parts.send(number, pieces))

    async def _wait_for_room(self, held: int) -> None:
        """Wait until another part may be sent that takes ``held`` bytes of memory."""
        if not self._started:
            failpoint("objects.before_start")
            await self._parts.start()
            failpoint("objects.after_start")
            self._started = True
        while self._pending and not self._fits(held):
            await self._wait_for_parts(asyncio.FIRST_COMPLETED)

    def _fits(self, held: int) -> bool:
        return len(self._pending) < self._parts.at_once and self._in_flight.has_room(held)

    def _start_part(self, length: int, held: int, send: Callable[[int], Awaitable[None]]) -> None:
        """Start sending the next part in a task."""
        self._number += 1
        self._sent += length
        self._in_flight.bytes += held
        self._pending[asyncio.create_task(self._send_part(self._number, send))] = held
        self._length = self._parts.length(self._number + 1)

    def _release(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._in_flight.bytes -= self._pending.pop(task)

    def _take_buffer(self) -> list[bytes]:
        pieces = self._chunks
        self._chunks, self._buffered = [], 0
        return pieces

    async def _send_part(self, number: int, send: Callable[[int], Awaitable[None]]) -> None:
        failpoint("objects.before_part")
        await send(number)
        failpoint("objects.after_part")

    async def _wait_for_parts(self, until: str) -> None:
        """Wait for parts in flight; raise the first failure."""
        if self._pending:
            done, _ = await asyncio.wait(self._pending, return_when=until)
            self._release(done)
            for task in done:
                task.result()

    async def sync(self) -> None:
        while self._pending:
            await self._wait_for_parts(asyncio.FIRST_EXCEPTION)

    async def size(self) -> int:
        return (await self._parts.stored_size() if self._started else 0) + self._buffered

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
        self._release([*self._pending])
        self._chunks.clear()

    async def discard(self) -> None:
        await asyncio.gather(*self._pending, return_exceptions=True)  # a part that arrives after the abort would remain
        await self.close()
        if self._started:
            await self._parts.abort()
            self._started = False

    async def withdraw(self) -> None:
        """Keep the parts: a newer attempt may have resumed them."""
        await self.close()
