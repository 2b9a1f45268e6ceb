"""A large file between this machine's disk and a store that moves ranges by itself: no byte passes the event loop.

The engine says which range, the store's threads move it, and what comes back is its CRC-32. Ranges arrive in any order;
what a later attempt is told is how far they have arrived without a gap, in the terms of a file that is written from its
start to its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.streams import Crc32, Digest
from flowrunner_provider.files.job import Transfer
from flowrunner_provider.files.store import DiskStore, DiskUpload, RangeStore, RangeUpload, Upload

__all__ = ["fetch", "fetches", "send", "sends"]

_LONGEST = 64 * 1024 * 1024
"""Bytes of a range that is read, however long the store's parts are: what is fetched again after a kill."""


def sends(job: Transfer, digest: Digest) -> bool:
    """Whether the destination can read the source's open file by itself."""
    here, there = job.source.capabilities, job.dest.capabilities
    return digest.quick and here.opens_files and not digest.size and 0 < there.takes_ranges < (job.item.size or 0)


def fetches(job: Transfer, digest: Digest) -> bool:
    """Whether the source can write into the destination's open file by itself, and all from one version."""
    here, there = job.source.capabilities, job.dest.capabilities
    able = there.opens_files and isinstance(digest, Crc32) and bool(job.item.version)
    return able and 0 < here.reads_ranges < (job.item.size or 0) - digest.size


async def send(job: Transfer, upload: Upload, digest: Digest) -> None:
    """Have the destination take the whole file."""
    size = job.item.size or 0
    file = await cast("DiskStore", job.source).open_file(job.path)
    failpoint("files.copy.before_send")
    await cast("RangeUpload", upload).write_file(file, size, job.advance)
    failpoint("files.copy.after_send")
    digest.size = size


async def fetch(job: Transfer, upload: Upload, digest: Crc32) -> None:
    """Have the source write what lies behind ``digest.size``, a window of ranges under way."""
    source, part = cast("RangeStore", job.source), cast("DiskUpload", upload)
    file = await part.open_file()
    longest, size, at = min(source.capabilities.reads_ranges, _LONGEST), job.item.size or 0, digest.size

    async def one(offset: int, length: int) -> int:
        failpoint("files.copy.before_range")
        checksum = await source.read_into(file, job.path, offset, length, job.item.version)
        failpoint("files.copy.after_range")
        return checksum

    pending: deque[tuple[int, asyncio.Task[int]]] = deque()
    try:
        while pending or at < size:
            while at < size and len(pending) < source.ranges_at_once:
                length = min(longest, size - at)
                pending.append((length, asyncio.create_task(one(at, length))))
                at += length
            length, task = pending[0]
            digest.append(await task, length)
            pending.popleft()
            part.filled(digest.size)
            job.advance(length)
            if job.due():
                job.remember(digest.size, digest.hexdigest())
    finally:
        for _, task in pending:
            task.cancel()
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
