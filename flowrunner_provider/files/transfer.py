"""Copy one file from one store to another: complete and verified under its final name, or not at all."""

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
from flowrunner_provider.files.store import CopyingStore, FinishingUpload, ModeUpload, Upload, WholeStore, identity
from flowrunner_provider.files.transfer_job import Transfer

__all__ = ["digest_of", "transfer"]

_TAIL = 256 * 1024

_LARGE = 512 * 1024
"""Bytes; larger chunks are digested in a thread while they are written."""


async def transfer(job: Transfer) -> Digest:
    """Copy one file, and return its digest.

    After a transient error the upload is kept for a retry; after any other error it is deleted.

    :raises IntegrityError: if the source changed in the meantime, or the destination does not hold what was sent.
    """
    if job.within and job.source is job.dest and job.dest.capabilities.server_side_copy:
        return await _copy_within(job)
    job.guard.check()
    failpoint("files.copy.before_begin")
    upload, digest = await _begin(job)
    failpoint("files.copy.after_begin")
    try:
        sent_one_version = await _send(job, upload, digest)
        await _verify(job, upload, digest, changed=not sent_one_version and await _has_changed(job))
        if job.mode is not None:
            await cast("ModeUpload", upload).chmod(job.mode)
        job.guard.check()
        failpoint("files.copy.before_commit")
        await upload.commit(replace=job.replace, modified=job.modified, durable=job.durable)
        failpoint("files.copy.after_commit")
    except BaseException as error:
        await job.guard.clean_up(upload, error)
        raise
    finally:
        await upload.close()
    if job.verify == "checksum" and not job.dest.capabilities.readable_parts:
        await _verify_committed(job, digest)
    return digest


async def _copy_within(job: Transfer) -> Digest:
    """Have the store copy the file by itself; compare the sizes, or with ``checksum`` the contents, afterwards."""
    failpoint("files.copy.before_copy_within")
    job.guard.check()
    store = cast("CopyingStore", job.dest)
    copied = await store.copy_within(job.path, job.target, replace=job.replace, version=job.item.version)
    failpoint("files.copy.after_copy_within")
    if not job.item.version and await _has_changed(job):
        raise _source_changed(job)
    if copied.size != job.item.size:
        raise _size_mismatch(job, job.item.size, copied.size)
    digest = Digest(job.algorithm)
    digest.size = job.item.size or 0
    if job.verify == "checksum":
        digest = await digest_of(job.source.read(job.path), job.algorithm)
        await _verify_committed(job, digest)
    job.advance(digest.size)
    return digest


async def _begin(job: Transfer) -> tuple[Upload, Digest]:
    """Resume the upload of an earlier attempt if it holds what the checkpoint says; otherwise start a new one."""
    if job.resume is not None and job.dest.capabilities.resumable_upload and job.source.capabilities.ranged_read:
        offset, expected = job.resume
        upload = await job.dest.begin(job.target, job.token, resume_at=offset, size=job.item.size)
        kept = False
        try:
            digest = await _digest_of_prefix(job, upload, offset) if upload.offset == offset else job.digest()
            if kept := digest.size == offset and digest.hexdigest() == expected:
                job.advance(offset)
                return upload, digest
        finally:
            if not kept:
                await upload.close()
    return await job.dest.begin(job.target, job.token, size=job.item.size), job.digest()


async def _digest_of_prefix(job: Transfer, upload: Upload, offset: int) -> Digest:
    """Return the digest of the first ``offset`` bytes: of the upload if it is on this machine, otherwise of the source.

    In the second case the end of the upload is compared with the source, which proves that acknowledged bytes are
    there.
    """
    if job.dest.capabilities.nearby:
        return await _update_all(job.digest(), upload.read_back(0, offset))
    digest, tail = job.digest(), b""
    async for chunk in job.source.read(job.path, 0, offset):
        digest.update(chunk)
        tail = (tail + chunk)[-_TAIL:]
    if not job.dest.capabilities.readable_parts:
        return digest
    held = b"".join([chunk async for chunk in upload.read_back(offset - len(tail), len(tail))])
    return digest if held == tail else job.digest()


async def _send(job: Transfer, upload: Upload, digest: Digest) -> bool:
    """Send the bytes; return whether all are of one version, so that the source need not be checked for changes."""
    if unchanged := job.at_one_moment and not digest.size:
        await _send_whole(job, upload, digest)
    elif unchanged := isinstance(digest, Crc32) and ranges.fetches(job, digest):
        await ranges.fetch(job, upload, digest)
    elif ranges.sends(job, digest):
        await _send_ranges(job, upload, digest)
    else:
        await _send_stream(job, upload, digest)
    await _sync(job, upload)
    return unchanged


async def _send_whole(job: Transfer, upload: Upload, digest: Digest) -> None:
    size = job.item.size or 0
    data = await cast("WholeStore", job.source).read_whole(job.path, size, job.item.version)
    if data is None:
        raise _source_changed(job)
    digest.update(data)
    failpoint("files.copy.before_write")
    await upload.write(data)
    job.advance(size)
    failpoint("files.copy.after_write")


async def _send_ranges(job: Transfer, upload: Upload, digest: Digest) -> None:
    try:
        await ranges.send(job, upload, digest)
    except TransientError:  # such as a wrong checksum of a part
        if await _has_changed(job):
            raise _source_changed(job) from None
        raise


async def _send_stream(job: Transfer, upload: Upload, digest: Digest) -> None:
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


async def _sync(job: Transfer, upload: Upload) -> None:
    """Wait for all bytes to arrive, together with the work of the commit where nothing has to happen in between."""
    job.guard.check()  # a newer attempt may have resumed and committed this upload
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
        raise _source_changed(job)
    if job.expected and not hmac.compare_digest(job.expected.encode(), digest.hexdigest().encode()):
        raise IntegrityError(
            f"{job.path} has the {job.algorithm} checksum {digest.hexdigest()} instead of {job.expected[:128]}",
            remedy="request the file again: it is not the one that its sender computed the checksum of",
        )
    held = await upload.size()
    if held != digest.size:
        raise _size_mismatch(job, digest.size, held)
    if job.verify == "checksum" and job.dest.capabilities.readable_parts:
        back = await digest_of(upload.read_back(), job.algorithm)
        if back.hexdigest() != digest.hexdigest():
            raise _content_mismatch(job)


async def _verify_committed(job: Transfer, digest: Digest) -> None:
    """Read a file back after its commit, if the store cannot read uploads; delete it if it is wrong."""
    back = await digest_of(job.dest.read(job.target), job.algorithm)
    if back.hexdigest() != digest.hexdigest():
        with suppress(FlowRunnerError):
            await job.dest.delete(job.target)
        raise _content_mismatch(job)


def _source_changed(job: Transfer) -> IntegrityError:
    return IntegrityError(
        f"{job.path} changed after it was listed",
        remedy="copy it once it is complete: set min_age or stable_for, or wait for a done marker",
    )


def _size_mismatch(job: Transfer, sent: int | None, held: int | None) -> IntegrityError:
    return IntegrityError(
        f"{job.target}: {sent} bytes were sent, but it has {held}", remedy="check the disk of the server"
    )


def _content_mismatch(job: Transfer) -> IntegrityError:
    return IntegrityError(
        f"{job.target}: the bytes read back differ from those that were sent",
        remedy="check the disk of the server, and proxies on the way to it",
    )


async def digest_of(chunks: AsyncIterator[bytes], algorithm: str = "sha256") -> Digest:
    """Return the digest of a stream."""
    return await _update_all(Digest(algorithm), chunks)


async def _update_all(digest: Digest, chunks: AsyncIterator[bytes]) -> Digest:
    async for chunk in chunks:
        digest.update(chunk)
    return digest
