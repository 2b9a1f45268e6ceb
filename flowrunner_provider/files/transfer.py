"""One file from one store to another: whole and verified under its final name, or not there at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.core.errors import (
    ConfigError,
    Fenced,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PermanentError,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.store import Store, Upload, identity

__all__ = ["Transfer", "digest_of", "transfer"]

_TAIL = 256 * 1024


@dataclass(kw_only=True)
class Transfer:
    """What :func:`transfer` needs to know.

    :param resume: how far an earlier attempt came: its offset and the digest of the bytes before it.
    :param advance: told how many bytes have passed.
    :param due: whether it is time to remember how far it came.
    :param remember: given an offset and a digest that a later attempt may take up.
    :param guard: raises if this attempt must not act any more; called before the commit.
    """

    source: Store
    path: str
    item: Item
    dest: Store
    target: str
    token: str
    verify: Literal["size", "checksum"]
    replace: bool
    preserve_times: bool
    durable: bool
    resume: tuple[int, str] | None
    advance: Callable[[int], None]
    due: Callable[[], bool]
    remember: Callable[[int, str], None]
    guard: Callable[[], None]


async def transfer(job: Transfer) -> int:
    """Copy one file; returns its size.

    After an error that a retry may mend the part stays and is gone on with; after any other it is removed.

    :raises IntegrityError: when the source changed meanwhile, or the far side does not hold what was sent.
    """
    failpoint("files.copy.before_begin")
    upload, digest = await _begin(job)
    failpoint("files.copy.after_begin")
    try:
        await _pump(job, upload, digest)
        await _verify(job, upload, digest)
        job.guard()
        failpoint("files.copy.before_commit")
        modified = job.item.modified if job.preserve_times else None
        await upload.commit(replace=job.replace, modified=modified, durable=job.durable)
        failpoint("files.copy.after_commit")
    except Fenced:
        raise
    except (PermanentError, ConfigError):
        with suppress(FlowRunnerError):
            await upload.discard()
        raise
    finally:
        await upload.close()
    return digest.size


async def _begin(job: Transfer) -> tuple[Upload, Digest]:
    """Go on where an earlier attempt was, if what it left is what it says; else start afresh."""
    if job.resume is not None and job.dest.capabilities.resumable_upload and job.source.capabilities.ranged_read:
        offset, expected = job.resume
        upload = await job.dest.begin(job.target, job.token, resume_at=offset, size=job.item.size)
        kept = False
        try:
            digest = await _taken_up(job, upload, offset) if upload.offset == offset else Digest()
            if kept := digest.size == offset and digest.hexdigest() == expected:
                job.advance(offset)
                return upload, digest
        finally:
            if not kept:
                await upload.close()
    return await job.dest.begin(job.target, job.token, size=job.item.size), Digest()


async def _taken_up(job: Transfer, upload: Upload, offset: int) -> Digest:
    """The digest of the first ``offset`` bytes: of the part where that is near, else of the source.

    In the second case the end of the part is compared, too: what was acknowledged there is there.
    """
    if job.dest.capabilities.nearby:
        return await digest_of(upload.read_back(0, offset))
    digest, tail = Digest(), b""
    async for chunk in job.source.read(job.path, 0, offset):
        digest.update(chunk)
        tail = (tail + chunk)[-_TAIL:]
    held = b"".join([chunk async for chunk in upload.read_back(offset - len(tail), len(tail))])
    return digest if held == tail else Digest()


async def _pump(job: Transfer, upload: Upload, digest: Digest) -> None:
    size = job.item.size
    chunks = job.source.read(job.path, digest.size, None if size is None else size - digest.size)
    async for chunk in chunks:
        digest.update(chunk)
        failpoint("files.copy.before_write")
        await upload.write(chunk)
        job.advance(len(chunk))
        if job.due():
            await upload.sync()
            job.remember(digest.size, digest.hexdigest())
        failpoint("files.copy.after_write")
    await upload.sync()


async def _verify(job: Transfer, upload: Upload, digest: Digest) -> None:
    try:
        now = identity(await job.source.stat(job.path))
    except NotFound:
        now = None
    if now != job.item.identity or job.item.size not in (None, digest.size):
        raise IntegrityError(
            f"{job.path} changed while it was read ({digest.size} bytes came)",
            remedy="copy it when it is finished: select by min_age, or wait for a done marker",
        )
    held = await upload.size()
    if held != digest.size:
        raise IntegrityError(
            f"{job.target}: {digest.size} bytes were sent and {held} are there", remedy="look at the far side's disk"
        )
    if job.verify == "checksum" and (await digest_of(upload.read_back())).hexdigest() != digest.hexdigest():
        raise IntegrityError(
            f"{job.target}: the bytes read back are not those that were sent",
            remedy="look at the far side's disk, and at what stands between",
        )


async def digest_of(chunks: AsyncIterator[bytes]) -> Digest:
    """Count and digest a stream."""
    digest = Digest()
    async for chunk in chunks:
        digest.update(chunk)
    return digest
