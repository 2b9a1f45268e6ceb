"""Ranged reads from Azure into an open file: obstore receives the data, threads checksum and write it."""

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
"""The approximate size of the block, one per range, that is in memory until a thread writes it."""

_TRIES = 5

_RESUME_SECONDS = 300.0
"""How long a range is resumed after lost connections; after that, the task's next attempt resumes it."""


async def read_into(
    container: AzureStore, what: str, file: OpenFile, key: str, offset: int, length: int, version: str
) -> int:
    """Read a range as :class:`~flowrunner_provider.files.store.RangeStore` says; resume after a lost connection.

    :param container: obstore's client of the container.
    :param what: the operation and its path, for messages.
    :raises IntegrityError: if the blob has another version, or the answer is another range.
    """
    range_ = _Range(what, file, offset, offset + length)
    await RetryPlan(attempts=_TRIES).acall(lambda: _receive(container, range_, key, version), Deadline(_RESUME_SECONDS))
    return range_.checksum


class _Range:
    """The missing rest of a range.

    :param what: the operation and its path, for messages.
    :param start: the offset of the first missing byte; :attr:`at` advances with each block.
    :param end: the offset after the last byte.
    """

    def __init__(self, what: str, file: OpenFile, start: int, end: int) -> None:
        self.what, self._file = what, file
        self.at, self.end = start, end
        self.checksum = 0

    def take(self, block: bytes) -> None:
        """Write the next bytes. Blocking."""
        data = memoryview(block)
        if self.at + len(data) > self.end:
            raise self.wrong_range()
        self._file.write(data, self.at)
        self.checksum = zlib.crc32(data, self.checksum)
        self.at += len(data)

    def wrong_range(self) -> IntegrityError:
        return IntegrityError(
            f"{self.what}: the answer is not the requested range", remedy="check the proxies in between"
        )


async def _receive(container: AzureStore, range_: _Range, key: str, version: str) -> None:
    """Request the missing rest once."""
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
        raise range_.wrong_range()
    blocks = aiter(answer.stream(min_chunk_size=_BLOCK))
    while True:
        with obstore_errors(range_.what):
            block = await anext(blocks, None)
        if block is None:
            break
        await asyncio.to_thread(range_.take, block)
    if range_.at != range_.end:
        raise ConnectionLost(f"{range_.what}: the answer ended too soon", remedy="nothing to do: it is retried")
