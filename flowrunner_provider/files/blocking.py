"""Files of a store for modules that read by blocking calls, such as Python's archive modules, in a thread."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from flowrunner_provider.core.errors import BombDetected, IntegrityError
from flowrunner_provider.files.store import Store

__all__ = ["ForwardFile", "RangedFile"]

T = TypeVar("T")

_AHEAD = 64 * 1024
_REST = 1024 * 1024  # bytes that may be read "to the end" at once


class _BlockingFile(io.RawIOBase):
    """Reads through the event loop, which runs in another thread.

    Must not be called on the thread of the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._stream: AsyncIterator[bytes] | None = None
        self._held = b""
        self._position = 0
        self.last = b""  # what the last read returned

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        if size is None or size < 0:
            raise io.UnsupportedOperation("a complete file is not read into memory")
        data = self.last = self._wait(self._take(size))
        self._position += len(data)
        return data

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _take(self, size: int) -> bytes:
        raise io.UnsupportedOperation("read")

    async def _more(self, size: int) -> bytes:
        """Return the next bytes of the stream."""
        held = bytearray(self._held)
        while len(held) < size and self._stream is not None:
            chunk = await anext(self._stream, None)
            if chunk is None:
                break
            held += chunk
        self._held = bytes(held[size:])
        return bytes(held[:size])

    async def aclose(self) -> None:
        """Close the open stream."""
        stream, self._stream, self._held = self._stream, None, b""
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


class RangedFile(_BlockingFile):
    """A file that can be read at any position.

    After a seek, a small piece is read ahead; if reading continues there, the rest is read as one stream.

    :param size: the size of the file.
    """

    def __init__(self, store: Store, path: str, size: int) -> None:
        super().__init__()
        self._store, self._path, self._size = store, path, size
        self._from = 0  # where the held bytes and then the stream go on
        self._near, self._near_at = b"", 0

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        rest = self._size - self._position
        return super().read(rest if (size is None or size < 0) and rest <= _REST else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    async def _take(self, size: int) -> bytes:
        at = self._position
        size = max(0, min(size, self._size - at))
        if not size:
            return b""
        if self._stream is not None and self._from == at:
            data = await self._more(size)
            self._from += len(data)
            return data
        inside = at - self._near_at
        if inside >= 0 and inside + size <= len(self._near):
            return self._near[inside : inside + size]
        await self.aclose()
        if size <= _AHEAD and at != self._near_at + len(self._near):
            wanted = min(_AHEAD, self._size - at)
            self._near_at, self._near = at, b"".join([c async for c in self._store.read(self._path, at, wanted)])
            return self._near[:size]
        self._stream, self._from = self._store.read(self._path, at, self._size - at), at
        data = await self._more(size)
        self._from += len(data)
        return data


class ForwardFile(_BlockingFile):
    """A stream that can only be read forward; seeking forward reads and drops bytes.

    :param most: the maximum size of one read; a header that announces more is an attack on the memory.
    """

    def __init__(self, stream: AsyncIterator[bytes], *, most: int, what: str) -> None:
        super().__init__()
        self._stream, self._most, self._what = stream, most, what

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise IntegrityError(f"{self._what} points back into itself", remedy="it is damaged or malicious")
        while self._position < offset and self.read(min(_AHEAD, offset - self._position)):
            pass
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self._most:
            raise BombDetected(f"{self._what} has a header of {size} bytes", remedy="it is damaged or malicious")
        return super().read(size)

    async def _take(self, size: int) -> bytes:
        return await self._more(size)
