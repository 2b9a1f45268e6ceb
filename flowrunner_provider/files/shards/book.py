"""The wave book: the plan of a sync that several tasks carry out, in a folder of some store, while it is being made.

A *wave* is some files to copy, dealt to all shards. It is one file, ``<generation>-000001.jsonl``, that appears whole
and never changes: its first line says what each shard's part must be, the parts follow, one file to copy per line.
``plan.json`` says which generation of waves counts. At the end of the planning ``<generation>-end.json`` says how many
there are, with the checksum of them all; it never changes either, so an attempt that wakes too late can repeat what is
there and not contradict it. A plan that is made anew has another generation, so that no two of them mix. When a shard
has worked off every wave it says so, with that checksum, in ``done-0000.json``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, IntegrityError, Json, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.books import token_of
from flowrunner_provider.files.content import IfExists, read_whole, write_once
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.records import read_from
from flowrunner_provider.files.store import FolderStore, Store

__all__ = ["MOST_SHARDS", "Book", "Part", "Summary", "Wave", "line_of"]

MOST_SHARDS = 256

_HEAD, _SMALL = 1 << 16, 1 << 20
"""Bytes that the first line of a wave, and a file in JSON, have at most."""

_LOOKS = 3
_END = "-end.json"
_AGAIN = "clear the task of files.sync_plan with resume=False, and then the shards"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a wave has for one shard.

    :param size: of its lines together, with the checksum ``sha256``.
    """

    files: int
    bytes: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Wave:
    """A wave that is published.

    :param number: from 1.
    :param head: its first line.
    """

    generation: str
    number: int
    parts: Sequence[Part]
    head: bytes

    @classmethod
    def of(cls, generation: str, number: int, parts: Sequence[Part]) -> Wave:
        """A wave that is going to be published."""
        rows = [[part.files, part.bytes, part.size, part.sha256] for part in parts]
        head = json.dumps({"generation": generation, "wave": number, "parts": rows}, separators=(",", ":"))
        return cls(generation=generation, number=number, parts=parts, head=head.encode() + b"\n")

    @classmethod
    def from_head(cls, head: bytes, where: str) -> Wave:
        """Read the first line of a wave.

        :raises IntegrityError: if it is none.
        """
        try:
            record = json.loads(head)
            parts = [Part(files=row[0], bytes=row[1], size=row[2], sha256=row[3]) for row in record["parts"]]
            return cls(generation=record["generation"], number=record["wave"], parts=parts, head=head)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise IntegrityError(f"{where} is no wave of ours", remedy=_AGAIN) from error

    def start_of(self, shard: int) -> int:
        """Where the lines of a shard begin."""
        return len(self.head) + sum(part.size for part in self.parts[:shard])

    def chained(self, chain: str) -> str:
        """The checksum of all waves up to this one; ``chain`` is that of those before."""
        return fingerprint(chain, self.head)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known of a plan.

    :param work: the fingerprint of what is planned.
    :param generation: names the waves that count.
    :param waves: how many there are; None while the plan is being made, and then the rest is not known either.
    :param chain: the checksum of all of them.
    :param listed: how many files the source had.
    :param files: how many are to be copied.
    :param largest: the size of the files of the shard that has most.
    :param copies: the first names.
    """

    work: str
    generation: str
    shards: int
    waves: int | None = None
    chain: str = ""
    listed: int = 0
    files: int = 0
    bytes: int = 0
    largest: int = 0
    deletes: int = 0
    extra: int = 0
    copies: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every wave is published."""
        return self.waves is not None

    @property
    def begun(self) -> Summary:
        """What was known at the beginning."""
        return Summary(work=self.work, generation=self.generation, shards=self.shards)


class Book:
    """The folder that one plan lies in.

    :param path: of the folder, which is the plan's own.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path.rstrip("/")

    @property
    def summary_path(self) -> str:
        return self.store.join(self.path, "plan.json")

    def wave_path(self, generation: str, number: int) -> str:
        return self.store.join(self.path, f"{generation}-{number:06}.jsonl")

    def _end_path(self, generation: str) -> str:
        return self.store.join(self.path, f"{generation}{_END}")

    def _done_path(self, shard: int) -> str:
        return self.store.join(self.path, f"done-{shard:04}.json")

    # -- the plan

    async def summary(self) -> Summary | None:
        """What is known of the plan; None if it is known that there is none.

        :raises IntegrityError: if it is not one of ours.
        """
        begun = await self._told(self.summary_path)
        return begun and (await self._told(self._end_path(begun.generation)) or begun)

    async def _told(self, path: str) -> Summary | None:
        record = await self._record(path)
        try:
            return None if record is None else Summary(**record)
        except TypeError as error:
            raise IntegrityError(f"{self._label(path)} is no plan of ours", remedy=_AGAIN) from error

    async def complete(self, work: str) -> Summary:
        """What was planned.

        :param work: the fingerprint of what the caller is about to do.
        :raises NotFound: if there is no plan, or it is not complete.
        :raises ConfigError: if it is the plan of other work.
        """
        summary = await self.summary()
        if summary is None or not summary.complete:
            lack = "no plan" if summary is None else "no plan that is complete"
            raise NotFound(
                f"there is {lack} in {self._label(self.path)}",
                remedy="run files.sync_plan first, with the same plan_path, in the same DAG run",
            )
        if summary.work != work:
            raise ConfigError(
                "the plan was made for another source, destination or choice of files",
                field="plan_name",
                remedy="give the tasks of one sync the same parameters, and two syncs of a DAG two plan_names",
            )
        return summary

    async def tell(self, summary: Summary, run: Run) -> Summary:
        """Make it known; returns what counts, which is another end if another attempt was faster."""
        told: Summary | None = summary
        if summary.complete:
            path = self._end_path(summary.generation)
            if not await self._put(path, _json(asdict(summary)), "skip", run):
                told = await self._told(path)
        await self._put(self.summary_path, _json(asdict(summary.begun)), "overwrite", run)
        return told or summary

    # -- its waves

    async def wave(self, generation: str, number: int) -> Wave | None:
        """A wave without its lines; None if it is known not to be there yet.

        :raises IntegrityError: if what is there is no wave of ours.
        """
        path = self.wave_path(generation, number)
        try:
            start = b"".join([chunk async for chunk in self.store.read(path, 0, _HEAD)])
        except NotFound:
            return None
        head, found, _ = start.partition(b"\n")
        wave = Wave.from_head(head + found, self._label(path))
        if (wave.generation, wave.number) != (generation, number):
            raise IntegrityError(f"{self._label(path)} is another wave", remedy=_AGAIN)
        return wave

    async def publish(self, wave: Wave, lines: Sequence[bytes], run: Run) -> bool:
        """Make a wave appear, whole; False if one of its number is there already, which stays.

        :param lines: of all shards.
        """
        return await self._put(self.wave_path(wave.generation, wave.number), b"".join([wave.head, *lines]), "skip", run)

    async def items(self, wave: Wave, shard: int) -> AsyncIterator[list[tuple[Item, bool]]]:
        """What a wave has for a shard, some at a time: files to copy, and whether their bytes are to be compared.

        :raises IntegrityError: at the end, if it is not what was planned.
        """
        path, part = self.wave_path(wave.generation, wave.number), wave.parts[shard]
        digest, rest, count = Digest(), b"", 0
        async for chunk in self._section(path, wave.start_of(shard), part.size):
            digest.update(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            count += len(lines)
            yield list(_items(lines, self._label(path)))
        if rest or digest.hexdigest() != part.sha256 or count != part.files:
            raise IntegrityError(f"{self._label(path)} is not as it was planned", remedy=_AGAIN)

    async def _section(self, path: str, start: int, size: int) -> AsyncIterator[bytes]:
        if not size:
            return
        ranged = self.store.capabilities.ranged_read
        async for chunk in self.store.read(path, start, size) if ranged else read_from(self.store, path, start):
            yield chunk[:size]
            size -= len(chunk)
            if size <= 0:
                return

    # -- its shards

    async def tell_done(self, shard: int, generation: str, chain: str, run: Run) -> None:
        """A shard has worked off all waves of a generation."""
        await self._put(self._done_path(shard), _json({"generation": generation, "chain": chain}), "overwrite", run)

    async def is_done(self, shard: int, summary: Summary) -> bool:
        """Whether a shard has worked off every wave of this plan."""
        record = await self._record(self._done_path(shard))
        return record == {"generation": summary.generation, "chain": summary.chain}

    # -- the folder

    async def remove(self, parent: str) -> None:
        """Remove the plan, and the folders that are empty then.

        An attempt that was killed may have been anywhere in this, and what it had asked of the server may be done
        while this one looks: that something is gone already is no reason to stop before the end.

        :param parent: the folder of the plans.
        """
        for _ in range(_LOOKS):
            for path in await self._files():
                with suppress(NotFound):
                    await self.store.delete(path)
            if await self._remove_folders(parent):
                return

    async def _remove_folders(self, parent: str) -> bool:
        """Whether the plan's own folder is gone."""
        if not self.store.capabilities.removes_folders:
            return True
        store = cast("FolderStore", self.store)
        if not await store.rmdir(self.path):
            return False
        failpoint("files.sync_finish.between_rmdirs")
        await store.rmdir(parent.rstrip("/"))
        return True

    async def _files(self) -> list[str]:
        """What lies in the plan's folder, what says that there is a plan last."""
        try:
            paths = [entry.path async for entry in self.store.list(self.path) if not entry.is_dir]
        except NotFound:
            return []
        return sorted(paths, key=self.summary_path.__eq__)

    def _label(self, path: str) -> str:
        return self.store.where + path

    async def _record(self, path: str) -> dict[str, Any] | None:
        try:
            record = json.loads(await read_whole(self.store, path, _SMALL))
        except NotFound:
            return None
        except ValueError as error:
            raise IntegrityError(f"{self._label(path)} is damaged", remedy=_AGAIN) from error
        if not isinstance(record, dict):
            raise IntegrityError(f"{self._label(path)} is no plan of ours", remedy=_AGAIN)
        return record

    # -- writing

    async def _put(self, path: str, data: bytes, if_exists: IfExists, run: Run) -> bool:
        """Write a file of the book, whole; False if there is one already, which stays.

        :raises Fenced: when a newer attempt has taken over, even while this was written.
        """
        try:
            written = await write_once(self.store, path, data, if_exists, run, self._label(path))
            run.lease.check()
        except Fenced:
            with suppress(FlowRunnerError):
                await self._mend(path, run)
            raise
        return not written.skipped

    async def _mend(self, path: str, run: Run) -> None:
        """Undo what was written after the attempt that has taken over had finished, and nobody expects any more."""
        if not run.journal.finished_by_now():
            return
        files, first = await self._files(), path == self.summary_path
        ends = [file for file in files if file.endswith(_END)]
        removed = not ends if first else self.summary_path not in files
        if removed:  # the sync is over
            with suppress(NotFound):
                await self.store.delete(path)
            await self._remove_folders(self.path.rpartition("/")[0])
        elif first and len(ends) == 1 and (end := await self._told(ends[0])):
            await self._put_back(end, run)

    async def _put_back(self, end: Summary, run: Run) -> None:
        """Say again which generation counts: a plan that was made anew, and is complete."""
        data = _json(asdict(end.begun))
        upload = await self.store.begin(self.summary_path, token_of(run), size=len(data))
        try:
            await upload.write(data)
            await upload.sync()
            await upload.commit()
        finally:
            await upload.close()


def _json(record: Json) -> bytes:
    return json.dumps(record).encode()


def line_of(item: Item, doubtful: bool) -> bytes:
    """A file to copy as a line of a wave."""
    return json.dumps([*item.to_json(), int(doubtful)]).encode() + b"\n"


def _items(lines: Sequence[bytes], where: str) -> Iterator[tuple[Item, bool]]:
    try:
        for row in map(json.loads, lines):
            yield Item.from_json(row[:-1]), bool(row[-1])
    except (ValueError, TypeError, IndexError) as error:
        raise IntegrityError(f"{where} is damaged", remedy=_AGAIN) from error
