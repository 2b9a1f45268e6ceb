"""One file from one store to another: whole and verified under its final name, or not there at all."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, NotFound, TransientError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.streams import Crc32, Digest
from flowrunner_provider.files import ranges
from flowrunner_provider.files.job import Transfer
from flowrunner_provider.files.store import CopyingStore, FinishingUpload, ModeUpload, Upload, WholeStore, identity

__all__ = ["digest_of", "transfer"]

_TAIL = 256 * 1024

_LARGE = 512 * 1024
"""Bytes from which a chunk is digested in a thread, while it is written."""


async def transfer(job: Transfer) -> Digest:
    """Copy one file; returns its digest.

    After an error that a retry may mend the part stays and is gone on with; after any other it is removed.

    :raises IntegrityError: when the source changed meanwhile, or the far side does not hold what was sent.
    """
    if job.within and job.source is job.dest and job.dest.capabilities.server_side_copy:
        return await _within(job)
    job.guard.check()
    failpoint("files.copy.before_begin")
    upload, digest = await _begin(job)
    failpoint("files.copy.after_begin")
    try:
        at_one_moment = await _pump(job, upload, digest)
        await _verify(job, upload, digest, changed=not at_one_moment and await _has_changed(job))
        if job.mode is not None:
            await cast("ModeUpload", upload).chmod(job.mode)
        job.guard.check()
        failpoint("files.copy.before_commit")
        await upload.commit(replace=job.replace, modified=job.modified, durable=job.durable)
        failpoint("files.copy.after_commit")
    except BaseException as error:
        await job.guard.let_go(upload, error)
        raise
    finally:
        await upload.close()
    if job.verify == "checksum" and not job.dest.capabilities.readable_parts:
        await _verify_committed(job, digest)
    return digest


async def _within(job: Transfer) -> Digest:
    """The store copies by itself; afterwards both sizes, or with ``checksum`` both contents, are compared."""
    failpoint("files.copy.before_copy_within")
    job.guard.check()
    store = cast("CopyingStore", job.dest)
    there = await store.copy_within(job.path, job.target, replace=job.replace, version=job.item.version)
    failpoint("files.copy.after_copy_within")
    if not job.item.version and await _has_changed(job):
        raise _changed(job)
    if there.size != job.item.size:
        raise _short(job, job.item.size, there.size)
    digest = Digest(job.algorithm)
    digest.size = job.item.size or 0
    if job.verify == "checksum":
        digest = await digest_of(job.source.read(job.path), job.algorithm)
        await _verify_committed(job, digest)
    job.advance(digest.size)
    return digest


async def _begin(job: Transfer) -> tuple[Upload, Digest]:
    """Go on where an earlier attempt was, if what it left is what it says; else start afresh."""
    if job.resume is not None and job.dest.capabilities.resumable_upload and job.source.capabilities.ranged_read:
        offset, expected = job.resume
        upload = await job.dest.begin(job.target, job.token, resume_at=offset, size=job.item.size)
        kept = False
        try:
            digest = await _taken_up(job, upload, offset) if upload.offset == offset else job.digest()
            if kept := digest.size == offset and digest.hexdigest() == expected:
                job.advance(offset)
                return upload, digest
        finally:
            if not kept:
                await upload.close()
    return await job.dest.begin(job.target, job.token, size=job.item.size), job.digest()


async def _taken_up(job: Transfer, upload: Upload, offset: int) -> Digest:
    """The digest of the first ``offset`` bytes: of the part where that is near, else of the source.

    In the second case the end of the part is compared, too: what was acknowledged there is there.
    """
    if job.dest.capabilities.nearby:
        return await _through(job.digest(), upload.read_back(0, offset))
    digest, tail = job.digest(), b""
    async for chunk in job.source.read(job.path, 0, offset):
        digest.update(chunk)
        tail = (tail + chunk)[-_TAIL:]
    if not job.dest.capabilities.readable_parts:
        return digest
    held = b"".join([chunk async for chunk in upload.read_back(offset - len(tail), len(tail))])
    return digest if held == tail else job.digest()


async def _pump(job: Transfer, upload: Upload, digest: Digest) -> bool:
    """Send the bytes; whether all are of one version, so that the source cannot have changed meanwhile."""
    if unchanged := job.at_one_moment and not digest.size:
        await _whole(job, upload, digest)
    elif unchanged := isinstance(digest, Crc32) and ranges.fetches(job, digest):
        await ranges.fetch(job, upload, digest)
    elif ranges.sends(job, digest):
        await _ranges(job, upload, digest)
    else:
        await _stream(job, upload, digest)
    await _arrive(job, upload)
    return unchanged


async def _whole(job: Transfer, upload: Upload, digest: Digest) -> None:
    size = job.item.size or 0
    data = await cast("WholeStore", job.source).read_whole(job.path, size, job.item.version)
    if data is None:
        raise _changed(job)
    digest.update(data)
    failpoint("files.copy.before_write")
    await upload.write(data)
    job.advance(size)
    failpoint("files.copy.after_write")


async def _ranges(job: Transfer, upload: Upload, digest: Digest) -> None:
    try:
        await ranges.send(job, upload, digest)
    except TransientError:  # such as a part that does not have its checksum
        if await _has_changed(job):
            raise _changed(job) from None
        raise


async def _stream(job: Transfer, upload: Upload, digest: Digest) -> None:
    resumable, size = job.dest.capabilities.resumable_upload, job.item.size
    chunks = job.source.read(job.path, digest.size, None if size is None else size - digest.size)
    async for chunk in chunks:
        failpoint("files.copy.before_write")
        job.guard.check_awake()
        if digest.quick or len(chunk) < _LARGE:
            digest.update(chunk)
            await upload.write(chunk)
        else:
            await asyncio.gather(upload.write(chunk), asyncio.to_thread(digest.update, chunk))
        job.advance(len(chunk))
        if resumable and job.due():
            await upload.sync()
            job.remember(digest.size, digest.hexdigest())
        failpoint("files.copy.after_write")


async def _arrive(job: Transfer, upload: Upload) -> None:
    """All is there; in one go with what the commit would do, where nobody has to touch the part in between."""
    job.guard.check()  # a newer attempt may have gone on with the part, and have given it its name
    if job.dest.capabilities.finishes and job.mode is None and job.verify != "checksum":
        await cast("FinishingUpload", upload).finish(modified=job.modified, durable=job.durable)
    else:
        await upload.sync()


async def _has_changed(job: Transfer) -> bool:
    try:
        return identity(await job.source.stat(job.path)) != job.item.identity
    except NotFound:
        return True


async def _verify(job: Transfer, upload: Upload, digest: Digest, *, changed: bool) -> None:
    if changed or job.item.size not in (None, digest.size):
        raise _changed(job)
    if job.expected and not hmac.compare_digest(job.expected.encode(), digest.hexdigest().encode()):
        raise IntegrityError(
            f"{job.path} has the {job.algorithm} checksum {digest.hexdigest()} instead of {job.expected[:128]}",
            remedy="ask for the file again: it is not what its sender has checksummed",
        )
    held = await upload.size()
    if held != digest.size:
        raise _short(job, digest.size, held)
    if job.verify == "checksum" and job.dest.capabilities.readable_parts:
        back = await digest_of(upload.read_back(), job.algorithm)
        if back.hexdigest() != digest.hexdigest():
            raise _differs(job)


async def _verify_committed(job: Transfer, digest: Digest) -> None:
    """A store that cannot show a part is read when the file has its name; what is wrong is removed."""
    back = await digest_of(job.dest.read(job.target), job.algorithm)
    if back.hexdigest() != digest.hexdigest():
        with suppress(FlowRunnerError):
            await job.dest.delete(job.target)
        raise _differs(job)


def _changed(job: Transfer) -> IntegrityError:
    return IntegrityError(
        f"{job.path} changed after it was listed",
        remedy="copy it when it is finished: set min_age or stable_for, or wait for a done marker",
    )


def _short(job: Transfer, sent: int | None, held: int | None) -> IntegrityError:
    return IntegrityError(
        f"{job.target}: {sent} bytes were sent and {held} are there", remedy="look at the far side's disk"
    )


def _differs(job: Transfer) -> IntegrityError:
    return IntegrityError(
        f"{job.target}: the bytes read back are not those that were sent",
        remedy="look at the far side's disk, and at what stands between",
    )


async def digest_of(chunks: AsyncIterator[bytes], algorithm: str = "sha256") -> Digest:
    """Count and digest a stream."""
    return await _through(Digest(algorithm), chunks)


async def _through(digest: Digest, chunks: AsyncIterator[bytes]) -> Digest:
    async for chunk in chunks:
        digest.update(chunk)
    return digest
