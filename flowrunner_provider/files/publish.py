"""The results that a task makes in a store, one after another: each whole under its final name, or not there at all.

A result is written under a hidden name, counted on both sides, and published in one step. Before that its size and
digest are written down: a retry that finds exactly these bytes under the final name knows that they are its own,
and neither makes them again nor takes them for somebody else's.
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
from flowrunner_provider.files.guard import Guard
from flowrunner_provider.files.store import Entry, Store, Upload, identity
from flowrunner_provider.files.transfer import digest_of

__all__ = ["IfExists", "Produce", "Published", "Publisher", "Sink", "one_of", "pinned"]

IfExists = Literal["overwrite", "skip", "fail"]


class Sink:
    """Where the bytes of one result go; counts and digests them.

    :param upload: not seen by anybody yet.
    :param action: the id of the action, for the failpoints.
    """

    def __init__(self, upload: Upload, action: str, guard: Guard) -> None:
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
"""Writes one result into its sink and returns what the task's own result says about it."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A result that is there.

    :param path: as the store calls it.
    :param sha256: of its bytes; empty for one that was there before and was left alone.
    :param detail: what its maker said about it.
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
    """Publishes the results of a task in their order; a retry goes on at :attr:`next`.

    :param store: open.
    :param action: the id of the action: names the record and the failpoints.
    :param work: what must be the same for a retry to go on (JSON).
    :param announce: write down what is about to be published, which costs one write of the record for each result.
        Without it a result may be made twice, so it must come out the same; never off unless ``overwrite``.
    :param keep: how many results :attr:`published` remembers.
    """

    def __init__(
        self, run: Run, store: Store, action: str, work: Json, if_exists: IfExists, *, announce: bool, keep: int = 20
    ) -> None:
        self.run, self.store, self._action, self._if_exists = run, store, action, if_exists
        self._guard, self._announce = Guard(run), announce or if_exists != "overwrite"
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
        """The number of the first result that is not known to be there, from 0."""
        return int(self.files + self.skipped)

    async def refuse_existing(self, targets: Iterable[str]) -> None:
        """With ``if_exists="fail"``: raise before anything is written if one of the names is taken."""
        if self._if_exists != "fail" or self.resumed:
            return

        async def check(target: str) -> None:
            if await self._present(target) is not None:
                raise _taken(target)

        await for_each(8, check, targets)
        self._save(force=True)  # from now on a name that is taken may be one of ours

    async def publish(
        self,
        target: str,
        produce: Produce,
        *,
        modified: datetime | None = None,
        key: Sequence[Json] | Callable[[Published], Sequence[Json]] | None = None,
    ) -> Published:
        """Make the next result under the final name ``target``.

        :param produce: writes it; not called for one that is there already.
        :param modified: the time to give it.
        :param key: where the source stands in the order of the work; :attr:`last` has that of the last result.
            A function is asked when the result is there.
        """
        published = await self._ours(target) or await self._left_alone(target)
        if published is None:
            try:
                published = await self._made(target, produce, modified)
            except AlreadyExists:
                if self._if_exists != "skip":
                    raise
                published = await self._left_alone(target)
                if published is None:
                    raise
        self.last = key(published) if callable(key) else key
        self._count(published)
        return published

    async def _ours(self, target: str) -> Published | None:
        """What a killed attempt of this task has published here."""
        announced, self._announced = self._announced, None
        present = None if announced is None or announced.path != target else await self._present(target)
        if announced is None or present is None or present.size not in (None, announced.size):
            return None
        digest = await digest_of(self.store.read(target))
        if (digest.size, digest.hexdigest()) != (announced.size, announced.sha256):
            return None
        await self.store.forget(target, self._token)
        return announced

    async def _left_alone(self, target: str) -> Published | None:
        if self._if_exists == "overwrite":
            return None
        present = await self._present(target)
        if present is None:
            return None
        if self._if_exists == "fail":
            raise _taken(target)
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

    async def _made(self, target: str, produce: Produce, modified: datetime | None) -> Published:
        await self._folder_of(target)
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
                    f"{target}: {size} bytes were sent and {held} are there", remedy="look at the far side's disk"
                )
            published = Published(path=target, size=size, sha256=digest, detail=detail)
            self._guard.check_now()
            if self._announce:
                self._save(announced=published, force=True)
            failpoint(f"{self._action}.before_commit")
            await upload.commit(replace=self._if_exists == "overwrite", modified=modified)
            failpoint(f"{self._action}.after_commit")
        except BaseException as error:
            await self._guard.let_go(upload, error)
            raise
        finally:
            await upload.close()
        return published

    async def _folder_of(self, target: str) -> None:
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


def _taken(target: str) -> AlreadyExists:
    return AlreadyExists(f"{target} is there already", remedy="remove it, or set if_exists to 'overwrite' or 'skip'")


async def pinned(
    store: Store,
    path: str,
    known: tuple[int | None, datetime | None, str],
    advance: Callable[[int], None] = lambda count: None,
) -> AsyncIterator[bytes]:
    """The bytes of a file that must stay what it was when it was listed.

    :param known: its :func:`~flowrunner_provider.files.store.identity` then.
    :param advance: told how many bytes have passed.
    :raises IntegrityError: after the last byte, if it is another file by now or fewer bytes came.
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
            f"{path} changed while it was read ({count} bytes came)",
            remedy="use it when it is finished: wait with files.wait, or for a done marker",
        )


def one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write one of {', '.join(allowed)}")
