"""Readers for TAR archives, compressed or not, and for single compressed files; both read streams."""

from __future__ import annotations

import asyncio
import stat
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from flowrunner_provider.core.errors import BombDetected, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.streams import decompressed
from flowrunner_provider.files.archives.members import Limits, Member, Open, damaged
from flowrunner_provider.files.blocking import ForwardFile

__all__ = ["SingleReader", "TarReader", "unpacked"]

_CHUNK = 256 * 1024
_MAX_HEADER = 2 * 1024 * 1024
_ZSTD_INPUT = 2 * 1024  # bytes per call; they decompress to at most 64 MB
_MAX_WINDOW = 128 * 1024 * 1024
_RATIO_FROM = 1024 * 1024
_KINDS = {
    tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link", tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device", tarfile.FIFOTYPE: "pipe", tarfile.DIRTYPE: "folder",
}  # fmt: skip


async def unpacked(chunks: AsyncIterator[bytes], packing: str, limits: Limits, what: str) -> AsyncIterator[bytes]:
    """Yield the decompressed bytes.

    :param packing: ``gz``, ``zst``, or empty for uncompressed data.
    :raises IntegrityError: if the data is damaged or truncated.
    :raises BombDetected: if it exceeds the limits.
    """
    if packing == "":
        stream = chunks
    elif packing == "zst":
        stream = _unzstd(chunks, limits, what)
    else:
        stream = decompressed(
            chunks, encoding="gzip", max_bytes=_max_stream(limits), max_ratio=limits.max_ratio, what=what
        )
    try:
        async for piece in stream:
            yield piece
    except BombDetected as error:
        raise BombDetected(error.message, remedy="raise max_ratio or max_size if this size is expected") from error
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _max_stream(limits: Limits) -> int:
    """Return the most bytes of a TAR stream: its files and their headers."""
    return limits.max_size + 1536 * limits.max_entries


async def _unzstd(chunks: AsyncIterator[bytes], limits: Limits, what: str) -> AsyncIterator[bytes]:
    zstandard = load("zstandard", extra="archive", needed_for="a zst archive")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame, taken, given = decompressor.decompressobj(), 0, 0
    ended = False
    async for chunk in chunks:
        for start in range(0, len(chunk), _ZSTD_INPUT):
            data = chunk[start : start + _ZSTD_INPUT]
            taken += len(data)
            while data:
                if ended:
                    frame, ended = decompressor.decompressobj(), False
                try:
                    piece = frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise damaged(what, error) from error
                data, ended = (frame.unused_data if frame.eof else b""), frame.eof
                given += len(piece)
                if given > _max_stream(limits) or (given > _RATIO_FROM and given > limits.max_ratio * taken):
                    raise BombDetected(f"{what} unpacks to more than max_size or max_ratio allow")
                if piece:
                    yield piece
    if not ended:
        raise damaged(what, "it is truncated")


class SingleReader:
    """A single compressed file.

    :param read: opens the compressed stream.
    :param name: the name of the unpacked file.
    """

    def __init__(
        self, read: Callable[[], AsyncIterator[bytes]], packing: str, name: str, limits: Limits, what: str
    ) -> None:
        self._read, self._packing, self._name, self._limits, self._what = read, packing, name, limits, what

    async def members(self) -> AsyncIterator[Member]:
        yield Member(name=self._name, size=None, modified=None)

    async def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        async for member in self.members():
            yield member, lambda: unpacked(self._read(), self._packing, self._limits, self._what)

    async def aclose(self) -> None:
        """Do nothing: the reader holds no resources."""


class TarReader:
    """A TAR archive.

    :param read: opens the stream of the archive.
    :param packing: ``gz``, ``zst``, or empty.
    """

    def __init__(self, read: Callable[[], AsyncIterator[bytes]], packing: str, limits: Limits, what: str) -> None:
        self._read, self._packing, self._limits, self._what = read, packing, limits, what

    async def members(self) -> AsyncIterator[Member]:
        async for member, _ in self._pass():
            yield member

    async def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        async for found in self._pass():
            yield found

    async def aclose(self) -> None:
        """Do nothing: the reader holds no resources."""

    async def _pass(self) -> AsyncIterator[tuple[Member, Open]]:
        """Yield all entries, then read the stream to its end, which verifies its own checksum."""
        async with aclosing(_generator(unpacked(self._read(), self._packing, self._limits, self._what))) as stream:
            file = ForwardFile(stream, most=_MAX_HEADER, what=self._what)
            try:
                archive: Any = await asyncio.to_thread(tarfile.open, mode="r:", fileobj=file)
                while (info := await asyncio.to_thread(archive.next)) is not None:
                    archive.members = []  # otherwise tarfile keeps every entry in memory
                    yield self._member(info), _content_of(archive, info, self._what)
            except (tarfile.TarError, UnicodeError, ValueError, OverflowError) as error:
                raise damaged(self._what, error) from error
            if file.last != bytes(tarfile.BLOCKSIZE):
                raise damaged(self._what, "it is truncated, or contains data that is not TAR")
            while await asyncio.to_thread(file.read, _CHUNK):
                pass

    def _member(self, info: tarfile.TarInfo) -> Member:
        kind = "file" if info.isreg() else _KINDS.get(info.type, "entry of an unknown kind")
        if stat.S_IFMT(info.mode) not in (0, stat.S_IFREG, stat.S_IFDIR) and kind == "file":
            kind = "special file"
        try:
            modified = datetime.fromtimestamp(int(info.mtime), UTC)
        except (OverflowError, ValueError, OSError):
            modified = None
        return Member(name=info.name, size=info.size, modified=modified, kind=kind)


def _generator(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if not isinstance(stream, AsyncGenerator):
        raise TypeError("not a generator")
    return stream


def _content_of(archive: Any, info: tarfile.TarInfo, what: str) -> Open:
    async def read() -> AsyncIterator[bytes]:
        file = archive.extractfile(info)
        if file is None:
            raise IntegrityError(f"{what}: {info.name!a} has no content", remedy="exclude it with members")
        left = info.size
        while left:
            try:
                chunk = await asyncio.to_thread(file.read, min(_CHUNK, left))
            except tarfile.TarError as error:
                raise damaged(what, error) from error
            if not chunk:
                raise damaged(what, f"{info.name!a} is truncated")
            left -= len(chunk)
            yield chunk

    return read
