"""Streams of bytes that end as promised or raise; memory stays constant whatever the far side sends.

Each function wraps one stream of chunks in another, so they read like a pipeline::

    body = exactly(response, length=content_length, what=name)
    text = decompressed(body, encoding="gzip", max_bytes=1 << 30, what=name)
    async for line in lines(text, what=name): ...

How the bytes are cut into chunks never matters: the same bytes give the same bytes, and the same bytes come
before an error. A wrapper owns the stream it wraps and closes it when it ends, fails or is closed itself.

Two errors, after what the reader should conclude: ``IntegrityError`` means that these are not the bytes that
were announced or agreed on, also when there are more of them than the caller's own ``max_bytes``;
``BombDetected`` is kept for data that grows beyond its cap while it is *unpacked*.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar, Literal

from flowrunner_provider.core.crc32 import crc32_joined
from flowrunner_provider.core.errors import BombDetected, ConfigError, IntegrityError

__all__ = ["MAX_LINE", "Count", "Crc32", "Digest", "bounded", "collect", "decompressed", "exactly", "lines"]

MAX_LINE = 16 * 1024 * 1024
"""The longest line that :func:`lines` takes by default, in bytes."""

_FEED = 16 * 1024  # compressed bytes handed to zlib at once
_STEP = 64 * 1024  # decoded bytes taken from zlib at once; the caps are judged at multiples of it
_RATIO_FROM = 1024 * 1024  # short and very regular data compresses well without being a bomb
_DAMAGED_REMEDY = "fetch it again; if it fails again, the source itself is damaged"


class Digest:
    """A running checksum and byte count of what passed by.

    :param algorithm: a name that :mod:`hashlib` knows and that has a fixed length.
    """

    quick: ClassVar[bool] = False
    """Whether it costs less than a turn in a thread."""

    def __init__(self, algorithm: str = "sha256") -> None:
        try:
            self._hash = hashlib.new(algorithm, usedforsecurity=False)
        except ValueError:
            raise ConfigError(f"unknown checksum algorithm {algorithm!r}", field="algorithm") from None
        if not self._hash.digest_size:
            raise ConfigError(f"the checksum algorithm {algorithm!r} has no fixed length", field="algorithm")
        self.algorithm = algorithm
        self.size = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Count ``chunk`` in."""
        self._hash.update(chunk)
        self.size += memoryview(chunk).nbytes

    def hexdigest(self) -> str:
        """The checksum of everything so far, in lower-case hexadecimal."""
        return self._hash.hexdigest()


class Count(Digest):
    """A byte count alone, for where nobody asks for the checksum."""

    quick = True

    def __init__(self) -> None:
        self.algorithm, self.size = "", 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Count ``chunk`` in."""
        self.size += memoryview(chunk).nbytes

    def hexdigest(self) -> str:
        """None: empty."""
        return ""


class Crc32(Digest):
    """A checksum against accidents: whether bytes that were written are still there. A third of SHA-256's cost."""

    quick = True

    def __init__(self) -> None:
        self.algorithm, self.size = "crc32", 0
        self._sum = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Count ``chunk`` in."""
        self._sum = zlib.crc32(chunk, self._sum)
        self.size += memoryview(chunk).nbytes

    def append(self, checksum: int, size: int) -> None:
        """Count ``size`` bytes in that somebody else has seen, by their CRC-32."""
        self._sum = crc32_joined(self._sum, checksum, size)
        self.size += size

    def hexdigest(self) -> str:
        """Eight digits."""
        return f"{self._sum:08x}"


async def bounded(chunks: AsyncIterator[bytes], *, max_bytes: int | None, what: str) -> AsyncGenerator[bytes, None]:
    """Pass on at most ``max_bytes``; raise ``IntegrityError`` after them if there are more.

    :param chunks: the stream to read; it is closed at the end.
    :param max_bytes: the most that the caller agreed to take; None for no limit.
    :param what: what the stream is, for the message.
    """
    left = max_bytes
    async with _owned(chunks):
        async for chunk in chunks:
            if left is not None:
                fitting = chunk[:left]
                if fitting:
                    yield fitting
                if len(chunk) > left:
                    raise IntegrityError(
                        f"{what} is larger than {max_bytes} bytes",
                        remedy="raise `max_bytes` if this size is expected",
                    )
                left -= len(chunk)
            elif chunk:
                yield chunk


async def exactly(chunks: AsyncIterator[bytes], *, length: int, what: str) -> AsyncGenerator[bytes, None]:
    """Pass on ``length`` bytes; raise ``IntegrityError`` if the stream is shorter or longer.

    :param chunks: the stream to read; it is closed at the end.
    :param length: the size that was announced, in bytes; never is a byte beyond it passed on.
    :param what: what the stream is, for the message.
    """
    left = length
    async with _owned(chunks):
        async for chunk in chunks:
            fitting = chunk[:left]
            if fitting:
                yield fitting
            if len(chunk) > left:
                raise IntegrityError(f"{what} is longer than the {length} bytes announced", remedy=_DAMAGED_REMEDY)
            left -= len(chunk)
    if left:
        raise IntegrityError(
            f"{what} ended after {length - left} of {length} bytes",
            remedy="fetch it again, or resume from there",
        )


async def decompressed(
    chunks: AsyncIterator[bytes],
    *,
    encoding: Literal["gzip", "deflate"],
    max_bytes: int,
    max_ratio: float = 100,
    what: str,
) -> AsyncGenerator[bytes, None]:
    """Pass on the decoded bytes; raise ``IntegrityError`` for damage, ``BombDetected`` beyond the caps.

    gzip may have many members and zero padding after the last (RFC 1952); deflate is taken with the zlib
    wrapper that RFC 9110 prescribes or raw, as some servers send it. A stream of no bytes is truncated.

    :param chunks: the encoded stream; it is closed at the end.
    :param encoding: the name of the content coding.
    :param max_bytes: the most decoded bytes to pass on.
    :param max_ratio: the most decoded bytes per encoded byte, judged once 1 MiB has been decoded.
    :param what: what the stream is, for the message.
    """
    inflater = _Inflater(encoding, max_bytes, max_ratio, what)
    async with _owned(chunks):
        async for chunk in chunks:
            for start in range(0, len(chunk), _FEED):
                for piece in inflater.feed(chunk[start : start + _FEED]):
                    yield piece
    inflater.finish()


async def collect(chunks: AsyncIterator[bytes], *, max_bytes: int, what: str) -> bytes:
    """Return the whole stream, at most ``max_bytes`` of it; raise ``IntegrityError`` if there is more.

    :param chunks: the stream to read; it is closed at the end.
    :param max_bytes: the most to hold in memory.
    :param what: what the stream is, for the message.
    """
    body = bytearray()
    async for chunk in bounded(chunks, max_bytes=max_bytes, what=what):
        body += chunk
    return bytes(body)


async def lines(chunks: AsyncIterator[bytes], *, max_line: int = MAX_LINE, what: str) -> AsyncGenerator[bytes, None]:
    r"""Pass on one line at a time without its ``\n`` or ``\r\n``; the last one may lack the ending.

    :param chunks: the stream to read; it is closed at the end.
    :param max_line: the longest line to hold in memory, in bytes before ``\n``; beyond it ``IntegrityError``.
    :param what: what the stream is, for the message.
    """
    pending = bytearray()
    async with _owned(chunks):
        async for chunk in chunks:
            *complete, rest = chunk.split(b"\n")
            for end in complete:
                pending += end
                yield _line(pending, max_line, what)
                pending.clear()
            pending += rest
            if len(pending) > max_line:
                break
    if pending:
        yield _line(pending, max_line, what, ended=False)


def _line(pending: bytearray, max_line: int, what: str, *, ended: bool = True) -> bytes:
    if len(pending) > max_line:
        raise IntegrityError(
            f"{what} contains a line longer than {max_line} bytes",
            remedy="raise `max_line`, or check its format",
        )
    return bytes(pending.removesuffix(b"\r") if ended else pending)


class _Inflater:
    """The synchronous half of :func:`decompressed`: encoded bytes in, decoded pieces out."""

    def __init__(self, encoding: Literal["gzip", "deflate"], max_bytes: int, max_ratio: float, what: str) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._what = what
        self._decoder: zlib._Decompress | None = None
        self._held = b""  # the first byte of a deflate stream, until the second shows its format
        self._ended = False  # a member is complete and nothing has followed it
        self._padding = False
        self._taken = 0
        self._decoded = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what ``data`` decodes to, in pieces of at most 64 KiB."""
        data, self._held = self._held + data, b""
        while data:
            if self._decoder is None:
                if self._ended:
                    data = self._between_members(data)
                    if not data:
                        return
                if self._encoding == "deflate" and len(data) < 2:
                    self._held = data
                    return
                self._decoder, self._ended = zlib.decompressobj(self._window(data)), False
            yield from self._inflate(self._decoder, data)
            data = self._decoder.unused_data
            if self._decoder.eof:
                self._decoder, self._ended = None, True

    def finish(self) -> None:
        """Raise if the stream stopped before its end."""
        if not self._ended:
            raise self._damaged("stops before its end")

    def _inflate(self, decoder: zlib._Decompress, data: bytes) -> Iterator[bytes]:
        pending = True
        while data or pending:
            room = _STEP - self._decoded % _STEP
            before = decoder.copy()
            try:
                piece = decoder.decompress(data, room)
            except zlib.error:
                yield from self._capped(_up_to_damage(before, data, room))
                raise self._damaged("is damaged") from None
            self._taken += len(data) - len(decoder.unconsumed_tail) - len(decoder.unused_data)
            data, pending = decoder.unconsumed_tail, len(piece) == room
            yield from self._capped(piece)
            if decoder.eof:
                return

    def _capped(self, piece: bytes) -> Iterator[bytes]:
        """Yield ``piece`` up to the caps; the ratio is judged at full steps, whatever the chunks."""
        left = self._max_bytes - self._decoded
        self._decoded += len(piece)
        if fitting := piece[:left]:
            yield fitting
        if len(piece) > left:
            raise BombDetected(
                f"{self._what} unpacks to more than {self._max_bytes} bytes",
                remedy="raise `max_bytes` if this size is expected",
            )
        full_step = bool(piece) and self._decoded % _STEP == 0
        if full_step and self._decoded > _RATIO_FROM and self._decoded > self._max_ratio * self._taken:
            raise BombDetected(
                f"{self._what} unpacks to more than {self._max_ratio:g} times its size",
                remedy="raise `max_ratio` if the data is known to be this regular",
            )

    def _between_members(self, data: bytes) -> bytes:
        """Return the start of the next member, or nothing when only padding follows."""
        if self._encoding == "gzip":
            rest = data.lstrip(b"\0")
            self._padding |= len(rest) < len(data)
            if not (rest and self._padding):
                return rest
        raise self._damaged("goes on after its end")

    def _window(self, data: bytes) -> int:
        """Return zlib's ``wbits``: gzip, or deflate with the header of RFC 1950, or raw deflate."""
        if self._encoding == "gzip":
            return zlib.MAX_WBITS | 16
        wrapped = data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0
        return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS

    def _damaged(self, how: str) -> IntegrityError:
        return IntegrityError(f"{self._what}: the {self._encoding} data {how}", remedy=_DAMAGED_REMEDY)


def _up_to_damage(decoder: zlib._Decompress, data: bytes, room: int) -> bytes:
    """Return what decodes before the error in ``data``; zlib itself drops it, more of it the larger the chunk."""
    piece = b""
    for byte in data:
        try:
            piece += decoder.decompress(bytes((byte,)), max(1, room - len(piece)))
        except zlib.error:
            break
    return piece


@asynccontextmanager
async def _owned(chunks: AsyncIterator[bytes]) -> AsyncGenerator[None, None]:
    """Close the stream on the way out, if it is one that can be closed."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
