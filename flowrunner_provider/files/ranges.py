"""Transfers of a large file between this machine's disk and a store that moves ranges by itself, past the event loop.

The engine chooses the ranges, the threads of the store move them, and the result is their CRC-32. Ranges arrive in any
order. The checkpoint says up to which offset they have arrived without a gap, as for a file that is written
sequentially.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.streams import Crc32, Digest
from flowrunner_provider.files.store import DiskStore, DiskUpload, RangeStore, RangeUpload, Upload
from flowrunner_provider.files.transfer_job import Transfer

__all__ = ["fetch", "fetches", "send", "sends"]

_MAX_RANGE = 64 * 1024 * 1024
"""The maximum size of a range that is read, which bounds what is fetched again after a kill."""


def sends(job: Transfer, digest: Digest) -> bool:
    """Return whether the destination can read the open source file by itself."""
    here, there = job.source.capabilities, job.dest.capabilities
    return digest.quick and here.opens_files and not digest.size and 0 < there.takes_ranges < (job.item.size or 0)


def fetches(job: Transfer, digest: Digest) -> bool:
    """Return whether the source can write one version of the file into the open destination file by itself."""
    here, there = job.source.capabilities, job.dest.capabilities
    able = there.opens_files and isinstance(digest, Crc32) and bool(job.item.version)
    return able and 0 < here.reads_ranges < (job.item.size or 0) - digest.size


async def send(job: Transfer, upload: Upload, digest: Digest) -> None:
    """Have the destination read the complete file."""
    size = job.item.size or 0
    file = await cast("DiskStore", job.source).open_file(job.path)
    failpoint("files.copy.before_send")
    await cast("RangeUpload", upload).write_file(file, size, job.advance)
    failpoint("files.copy.after_send")
    digest.size = size


async def fetch(job: Transfer, upload: Upload, digest: Crc32) -> None:
    """Have the source write everything after ``digest.size``, several ranges at a time."""
    source, part = cast("RangeStore", job.source), cast("DiskUpload", upload)
    file = await part.open_file()
    range_size, size, at = min(source.capabilities.reads_ranges, _MAX_RANGE), job.item.size or 0, digest.size

    async def fetch_range(offset: int, length: int) -> int:
        failpoint("files.copy.before_range")
        checksum = await source.read_into(file, job.path, offset, length, job.item.version)
        failpoint("files.copy.after_range")
        return checksum

    pending: deque[tuple[int, asyncio.Task[int]]] = deque()
    try:
        while pending or at < size:
            while at < size and len(pending) < source.ranges_at_once:
                length = min(range_size, size - at)
                pending.append((length, asyncio.create_task(fetch_range(at, length))))
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
