"""Text files as streams of complete records; their bytes are not changed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from flowrunner_provider.core.errors import IntegrityError, PermanentError
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.files.store import Store

__all__ = ["BOM", "first_record", "read_from", "records", "refuse_binary"]

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some programs write at the start of UTF-8 files."""

_STEP = 256 * 1024  # bytes per block, however large the chunks of the store are
_HEAD = 64 * 1024
_LINE_END = re.compile(rb"\n")


async def records(
    chunks: AsyncIterator[bytes], *, quoted: bool, what: str
) -> AsyncGenerator[tuple[bytes, Sequence[int]], None]:
    """Yield the same bytes in blocks of complete records, each with the positions at which its records end.

    :param chunks: must start at the start of a record.
    :param quoted: whether a line break between double quotes belongs to the record, as in CSV.
    :param what: the file, for messages.
    :raises IntegrityError: for a record of more than 16 MiB, or a quote that is never closed.
    """
    held = b""
    async for chunk in chunks:
        for start in range(0, len(chunk), _STEP):
            held += chunk[start : start + _STEP]
            ends = _ends(held, quoted)
            if ends:
                yield held[: ends[-1]], ends
                held = held[ends[-1] :]
            elif len(held) > MAX_LINE:
                raise IntegrityError(
                    f"{what} holds a record of more than {MAX_LINE} bytes", remedy="check that it is a text file"
                )
    if held:
        if quoted and held.count(b'"') % 2:
            raise IntegrityError(
                f"{what} ends between double quotes", remedy="check whether it is truncated, or not CSV"
            )
        yield held, [len(held)]


def _ends(data: bytes, quoted: bool) -> list[int]:
    ends = [match.end() for match in _LINE_END.finditer(data)]
    if not quoted:
        return ends
    kept, quotes, before = [], 0, 0
    for end in ends:
        quotes += data.count(b'"', before, end)
        before = end
        if quotes % 2 == 0:
            kept.append(end)
    return kept


async def first_record(store: Store, path: str, *, quoted: bool) -> bytes:
    """Return the header of a file with its line break; empty for an empty file."""
    async with aclosing(records(store.read(path), quoted=quoted, what=path)) as blocks:
        async for block, ends in blocks:
            return block[: ends[0]]
    return b""


async def read_from(store: Store, path: str, offset: int) -> AsyncIterator[bytes]:
    """Yield the bytes from ``offset``; without ranged reads, the bytes before it are read and dropped."""
    ranged = store.capabilities.ranged_read
    skip = 0 if ranged else offset
    async for chunk in store.read(path, offset if ranged else 0):
        if skip < len(chunk):
            yield chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))


async def refuse_binary(store: Store, path: str, remedy: str) -> None:
    """Refuse a file with NUL among its first bytes: a binary file, or a text in UTF-16 or UTF-32.

    :raises PermanentError: with this remedy.
    """
    async for chunk in store.read(path, 0, _HEAD):
        if b"\0" in chunk:
            raise PermanentError(f"{path} contains NUL: it is binary, or a text in UTF-16", remedy=remedy)
