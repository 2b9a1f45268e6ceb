"""A text file as a stream of whole records, whose ends are known and whose bytes are not changed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from flowrunner_provider.core.errors import IntegrityError, PermanentError
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.files.store import Store

__all__ = ["BOM", "first_record", "read_from", "records", "refuse_binary"]

BOM = b"\xef\xbb\xbf"
"""What some programs put at the start of a UTF-8 text."""

_STEP = 256 * 1024  # so many bytes are looked at once, however large the chunks of the store are
_HEAD = 64 * 1024
_LINE_END = re.compile(rb"\n")


async def records(
    chunks: AsyncIterator[bytes], *, quoted: bool, what: str
) -> AsyncGenerator[tuple[bytes, Sequence[int]], None]:
    r"""The same bytes in blocks of whole records, each block with the ends of its records.

    :param chunks: start at the start of a record.
    :param quoted: a line break between double quotes belongs to the record, as in CSV.
    :param what: the file, for the message.
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
                    f"{what} holds a record of more than {MAX_LINE} bytes", remedy="is it a text? Look at the file"
                )
    if held:
        if quoted and held.count(b'"') % 2:
            raise IntegrityError(f"{what} ends between double quotes", remedy="it is cut off, or no CSV: look at it")
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
    """The header of a file with its line break; empty for an empty file."""
    async with aclosing(records(store.read(path), quoted=quoted, what=path)) as blocks:
        async for block, ends in blocks:
            return block[: ends[0]]
    return b""


async def read_from(store: Store, path: str, offset: int) -> AsyncIterator[bytes]:
    """The bytes from ``offset``; where the store cannot begin there, what comes before is read and forgotten."""
    ranged = store.capabilities.ranged_read
    skip = 0 if ranged else offset
    async for chunk in store.read(path, offset if ranged else 0):
        if skip < len(chunk):
            yield chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))


async def refuse_binary(store: Store, path: str, remedy: str) -> None:
    """Refuse a file with NUL among its first bytes: a packed one, or a text whose letters take two bytes or four.

    :raises PermanentError: with this remedy.
    """
    async for chunk in store.read(path, 0, _HEAD):
        if b"\0" in chunk:
            raise PermanentError(f"{path} holds NUL: it is no text, or one in UTF-16", remedy=remedy)
