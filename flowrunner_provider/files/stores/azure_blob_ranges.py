"""A range of a blob into an open file: obstore receives it, and its blocks are summed and written in threads."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConnectionLost, IntegrityError, Rejected
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.files.stores.object_errors import obstore_errors, refusal

if TYPE_CHECKING:
    from obstore.store import AzureStore

__all__ = ["read_into"]

_BLOCK = 1024 * 1024
"""Bytes, about, that wait in memory until a thread writes them; a range has one such block on its way."""

_TRIES = 5

_WHILE = 300.0
"""Seconds within which a broken connection is gone on with; then it is the task's next attempt that does so."""


async def read_into(
    container: AzureStore, what: str, file: OpenFile, key: str, offset: int, length: int, version: str
) -> int:
    """See :class:`~flowrunner_provider.files.store.RangeStore`. A connection that breaks is gone on with where it was.

    :param container: obstore's, of an open store.
    :param what: what is being done, on what; for messages.
    :raises IntegrityError: if the blob is another version by now, or the answer another range.
    """
    range_ = _Range(what, file, offset, offset + length)
    await RetryPlan(attempts=_TRIES).acall(lambda: _receive(container, range_, key, version), Deadline(_WHILE))
    return range_.checksum


class _Range:
    """What is left of a range.

    :param what: what is being done, on what; for messages.
    :param start: the first byte that is missing; :attr:`at` goes on with what arrives.
    :param end: the first byte behind it.
    """

    def __init__(self, what: str, file: OpenFile, start: int, end: int) -> None:
        self.what, self._file = what, file
        self.at, self.end = start, end
        self.checksum = 0

    def take(self, block: bytes) -> None:
        """Blocking. Write the next bytes."""
        data = memoryview(block)
        if self.at + len(data) > self.end:
            raise self.another()
        self._file.write(data, self.at)
        self.checksum = zlib.crc32(data, self.checksum)
        self.at += len(data)

    def another(self) -> IntegrityError:
        return IntegrityError(
            f"{self.what}: another range came than was asked for", remedy="look at what stands between"
        )


async def _receive(container: AzureStore, range_: _Range, key: str, version: str) -> None:
    """Ask once for what is left."""
    import obstore

    wanted = (range_.at, range_.end)
    try:
        with obstore_errors(range_.what):
            answer = await obstore.get_async(container, key, options={"range": wanted, "if_match": f'"{version}"'})
    except Rejected as error:
        if error.status == 416:  # it is shorter by now
            raise refusal(range_.what, 412) from None
        raise
    if (answer.meta["e_tag"] or "").strip('"') != version:
        raise refusal(range_.what, 412)
    if answer.range != wanted:
        raise range_.another()
    blocks = aiter(answer.stream(min_chunk_size=_BLOCK))
    while True:
        with obstore_errors(range_.what):
            block = await anext(blocks, None)
        if block is None:
            break
        await asyncio.to_thread(range_.take, block)
    if range_.at != range_.end:
        raise ConnectionLost(f"{range_.what}: the answer ended too soon", remedy="nothing to do: it is tried again")
