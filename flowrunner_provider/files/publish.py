"""Results that a task publishes in a store, one after another: each complete under its final name, or not at all.

A result is written under a hidden name, counted on both sides, and published in one step. Before that its size and
digest are written to the checkpoint. A retry that finds exactly these bytes under the final name knows that they are
its own; it neither produces them again nor takes them for an existing file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    IntegrityError,
    Json,
    NotFound,
    PermanentError,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.store import Entry, Store, Upload, identity
from flowrunner_provider.files.transfer import digest_of

__all__ = ["IfExists", "Produce", "Published", "Publisher", "Sink", "one_of", "pinned"]

IfExists = Literal["overwrite", "skip", "fail"]


class Sink:
    """Receives the bytes of one result, counts and digests them.

    :param upload: an uncommitted upload.
    :param action: the id of the action, for the failpoints.
    """

    def __init__(self, upload: Upload, action: str, guard: FencingGuard) -> None:
        self._upload, self._action, self._guard = upload, action, guard
        self.digest = Digest()

    async def write(self, data: bytes) -> None:
        """Append ``data``."""
        if data:
            self.digest.update(data)
            failpoint(f"{self._action}.before_write")
            self._guard.check_awake()
            await self._upload.write(data)
            failpoint(f"{self._action}.after_write")


Produce = Callable[[Sink], Awaitable[Json]]
"""Writes one result to its sink, and returns what :attr:`Published.detail` will be."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published result.

    :param path: the path in the store.
    :param sha256: the digest of its bytes; empty for a file that existed before and was skipped.
    :param detail: what ``produce`` returned.
    """

    path: str
    size: int
    sha256: str
    detail: Json = None
    skipped: bool = False

    def to_json(self) -> list[Json]:
        return [self.path, self.size, self.sha256, self.detail, self.skipped]

    @classmethod
    def from_json(cls, row: Sequence[Json]) -> Published:
        path, size, sha256, detail, skipped = row
        return cls(path=str(path), size=int(str(size)), sha256=str(sha256), detail=detail, skipped=bool(skipped))


class Publisher:
    """Publishes the results of a task in order; a retry resumes at :attr:`next`.

    :param store: an open store.
    :param action: the id of the action; names the checkpoint and the failpoints.
    :param work: JSON that must be unchanged for a retry to resume.
    :param announce: write each result to the checkpoint before it is published, which costs one write per result.
        Otherwise a result may be produced twice, and must then be the same; only allowed with ``overwrite``.
    :param keep: the number of results that :attr:`published` keeps.
    """

    def __init__(
        self, run: Run, store: Store, action: str, work: Json, if_exists: IfExists, *, announce: bool, keep: int = 20
    ) -> None:
        self.run, self.store, self._action, self._if_exists = run, store, action, if_exists
        self._guard, self._announce = FencingGuard(run), announce or if_exists != "overwrite"
        self._keep, self._token, self._folders = keep, fingerprint("files", *run.scope)[:16], set[str]()
        self._checkpoint = run.checkpoint(action.partition(".")[2], fingerprint(work))
        state = self._checkpoint.state or {}
        self.resumed = bool(state)
        self.files, self.bytes, self.skipped = state.get("counts", (0, 0, 0))
        self.published = [Published.from_json(row) for row in state.get("published", [])]
        self.last: Sequence[Json] | None = state.get("last")
        self._announced = Published.from_json(state["announced"]) if state.get("announced") else None

    @property
    def next(self) -> int:
        """The number of the first result that is not published yet, from 0."""
        return int(self.files + self.skipped)

    async def refuse_existing(self, targets: Iterable[str]) -> None:
        """With ``if_exists="fail"``, raise ``AlreadyExists`` before anything is written if a target exists."""
        if self._if_exists != "fail" or self.resumed:
            return

        async def check(target: str) -> None:
            if await self._present(target) is not None:
                raise _target_exists(target)

        await for_each(8, check, targets)
        self._save(force=True)  # from now on an existing target may be our own

    async def publish(
        self,
        target: str,
        produce: Produce,
        *,
        modified: datetime | None = None,
        key: Sequence[Json] | Callable[[Published], Sequence[Json]] | None = None,
    ) -> Published:
        """Publish the next result under the final name ``target``.

        :param produce: writes the result; not called if the result is already published, or skipped.
        :param modified: the modification time to set.
        :param key: the position in the source, which becomes :attr:`last`; a function is called after publishing.
        """
        published = await self._published_before(target) or await self._skipped(target)
        if published is None:
            try:
                published = await self._produce(target, produce, modified)
            except AlreadyExists:
                if self._if_exists != "skip":
                    raise
                published = await self._skipped(target)
                if published is None:
                    raise
        self.last = key(published) if callable(key) else key
        self._count(published)
        return published

    async def _published_before(self, target: str) -> Published | None:
        """Return the result if a killed attempt of this task has published it."""
        announced, self._announced = self._announced, None
        present = None if announced is None or announced.path != target else await self._present(target)
        if announced is None or present is None or present.size not in (None, announced.size):
            return None
        digest = await digest_of(self.store.read(target))
        if (digest.size, digest.hexdigest()) != (announced.size, announced.sha256):
            return None
        await self.store.forget(target, self._token)
        return announced

    async def _skipped(self, target: str) -> Published | None:
        if self._if_exists == "overwrite":
            return None
        present = await self._present(target)
        if present is None:
            return None
        if self._if_exists == "fail":
            raise _target_exists(target)
        await self.store.forget(target, self._token)
        return Published(path=target, size=present.size or 0, sha256="", skipped=True)

    async def _present(self, target: str) -> Entry | None:
        try:
            entry = await self.store.stat(target)
        except NotFound:
            return None
        if entry.is_dir or entry.is_link:
            kind = "a folder" if entry.is_dir else "a symbolic link"
            raise PermanentError(f"{self.store.where}: {target} is {kind}", remedy="choose another name")
        return entry

    async def _produce(self, target: str, produce: Produce, modified: datetime | None) -> Published:
        await self._make_parent_of(target)
        self._guard.check()
        failpoint(f"{self._action}.before_begin")
        upload = await self.store.begin(target, self._token)
        try:
            sink = Sink(upload, self._action, self._guard)
            detail = await produce(sink)
            await upload.sync()
            size, digest = sink.digest.size, sink.digest.hexdigest()
            if (held := await upload.size()) != size:
                raise IntegrityError(
                    f"{target}: {size} bytes were sent, but it has {held}", remedy="check the disk of the server"
                )
            published = Published(path=target, size=size, sha256=digest, detail=detail)
            self._guard.check_now()
            if self._announce:
                self._save(announced=published, force=True)
            failpoint(f"{self._action}.before_commit")
            await upload.commit(replace=self._if_exists == "overwrite", modified=modified)
            failpoint(f"{self._action}.after_commit")
        except BaseException as error:
            await self._guard.clean_up(upload, error)
            raise
        finally:
            await upload.close()
        return published

    async def _make_parent_of(self, target: str) -> None:
        folder = target.rpartition("/")[0]
        if folder and folder not in self._folders:
            failpoint(f"{self._action}.before_mkdir")
            await self.store.mkdir(folder, parents=True)
            self._folders.add(folder)

    def _count(self, published: Published) -> None:
        if published.skipped:
            self.skipped += 1
        else:
            self.files += 1
            self.bytes += published.size
        if len(self.published) < self._keep:
            self.published.append(published)
        self._save()

    def _save(self, *, announced: Published | None = None, force: bool = False) -> None:
        state: dict[str, Json] = {
            "counts": [self.files, self.bytes, self.skipped],
            "published": [published.to_json() for published in self.published],
            "announced": announced.to_json() if announced else None,
            "last": None if self.last is None else list(self.last),
        }
        self._checkpoint.save(state, force=force)


def _target_exists(target: str) -> AlreadyExists:
    return AlreadyExists(f"{target} already exists", remedy="delete it, or set if_exists to 'overwrite' or 'skip'")


async def pinned(
    store: Store,
    path: str,
    known: tuple[int | None, datetime | None, str],
    advance: Callable[[int], None] = lambda count: None,
) -> AsyncIterator[bytes]:
    """Yield the bytes of a file that must not have changed since it was listed.

    :param known: the :func:`~flowrunner_provider.files.store.identity` of the listed file.
    :param advance: called with the number of bytes that were read.
    :raises IntegrityError: after the last byte, if the file has changed or bytes are missing.
    """
    count = 0
    async for chunk in store.read(path):
        count += len(chunk)
        yield chunk
        advance(len(chunk))
    try:
        now = identity(await store.stat(path))
    except NotFound:
        now = None
    if now != known or known[0] not in (None, count):
        raise IntegrityError(
            f"{path} changed while it was read ({count} bytes were received)",
            remedy="use it once it is complete: wait with files.wait, or for a done marker",
        )


def one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ``ConfigError`` if ``value`` is not one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write one of {', '.join(allowed)}")
