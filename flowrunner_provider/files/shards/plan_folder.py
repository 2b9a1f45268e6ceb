"""The folder that holds the plan of a sharded sync, in any store, while the plan is written and carried out.

A *wave* is a set of files to copy, divided among all shards. It is one file, ``<generation>-000001.jsonl``, that
appears complete and never changes: the first line describes the share of each shard, the other lines name one file to
copy each. ``plan.json`` names the current generation. When planning ends, ``<generation>-end.json`` records the number
of waves and a checksum over all of them. It never changes either, so an attempt that wakes late can only repeat it.
A new plan gets a new generation, so that the waves of two plans never mix. A shard that has copied every wave writes
that checksum to ``done-0000.json``.
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
from flowrunner_provider.files.content import IfExists, read_whole, write_once
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.records import read_from
from flowrunner_provider.files.session import token_of
from flowrunner_provider.files.store import FolderStore, Store

__all__ = ["MAX_SHARDS", "PlanFolder", "Share", "Summary", "Wave", "line_of"]

MAX_SHARDS = 256

_MAX_HEAD, _MAX_JSON = 1 << 16, 1 << 20
"""The largest first line of a wave, and the largest JSON file, in bytes."""

_REMOVE_PASSES = 3
_END = "-end.json"
_PLAN_AGAIN = "clear the task of files.sync_plan with resume=False, and then the shards"


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a wave that belongs to one shard.

    :param bytes: the size of its files.
    :param size: the length of its lines in the wave file.
    :param sha256: the checksum of these lines.
    """

    files: int
    bytes: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Wave:
    """A wave without its lines.

    :param number: counts from 1.
    :param head: the first line of the wave file.
    """

    generation: str
    number: int
    shares: Sequence[Share]
    head: bytes

    @classmethod
    def of(cls, generation: str, number: int, shares: Sequence[Share]) -> Wave:
        """Return a wave that is not yet published."""
        rows = [[share.files, share.bytes, share.size, share.sha256] for share in shares]
        head = json.dumps({"generation": generation, "wave": number, "parts": rows}, separators=(",", ":"))
        return cls(generation=generation, number=number, shares=shares, head=head.encode() + b"\n")

    @classmethod
    def from_head(cls, head: bytes, where: str) -> Wave:
        """Parse the first line of a wave file.

        :raises IntegrityError: if it is not the head of a wave.
        """
        try:
            record = json.loads(head)
            shares = [Share(files=row[0], bytes=row[1], size=row[2], sha256=row[3]) for row in record["parts"]]
            return cls(generation=record["generation"], number=record["wave"], shares=shares, head=head)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise IntegrityError(f"{where} is not a valid wave file", remedy=_PLAN_AGAIN) from error

    def start_of(self, shard: int) -> int:
        """Return the offset of the lines of a shard."""
        return len(self.head) + sum(share.size for share in self.shares[:shard])

    def chained(self, chain: str) -> str:
        """Return the checksum of all waves up to this one.

        :param chain: the checksum of the earlier waves.
        """
        return fingerprint(chain, self.head)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary of a plan.

    :param work: the fingerprint of the sync.
    :param generation: the current generation of waves.
    :param waves: the number of waves; None, like all that follows, until the plan is complete.
    :param chain: the checksum of all waves.
    :param listed: how many files the source has.
    :param files: how many of them are to be copied.
    :param bytes: the size of these files.
    :param largest: the size of the files of the shard with the most bytes.
    :param deletes: how many files will be deleted.
    :param extra: how many files only the destination has.
    :param copies: the names of the first files to copy.
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
        """Whether every wave is published."""
        return self.waves is not None

    @property
    def as_started(self) -> Summary:
        """The summary as it was when planning started."""
        return Summary(work=self.work, generation=self.generation, shards=self.shards)


class PlanFolder:
    """The folder of one plan.

    :param path: the path of the folder; nothing else may be in it.
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
        """Return the summary of the plan, or None if there is no plan.

        :raises IntegrityError: if the file is not a valid summary.
        """
        started = await self._read_summary(self.summary_path)
        return started and (await self._read_summary(self._end_path(started.generation)) or started)

    async def _read_summary(self, path: str) -> Summary | None:
        record = await self._read_json(path)
        try:
            return None if record is None else Summary(**record)
        except TypeError as error:
            raise IntegrityError(f"{self._label(path)} is not a valid plan", remedy=_PLAN_AGAIN) from error

    async def complete(self, work: str) -> Summary:
        """Return the summary of the complete plan.

        :param work: the fingerprint of the caller's sync.
        :raises NotFound: if there is no complete plan.
        :raises ConfigError: if the plan belongs to another sync.
        """
        summary = await self.summary()
        if summary is None or not summary.complete:
            missing = "no plan" if summary is None else "no complete plan"
            raise NotFound(
                f"there is {missing} in {self._label(self.path)}",
                remedy="run files.sync_plan first, with the same plan_path, in the same DAG run",
            )
        if summary.work != work:
            raise ConfigError(
                "the plan was made for another source, destination or choice of files",
                field="plan_name",
                remedy="give all tasks of one sync the same parameters, and each sync of a DAG its own plan_name",
            )
        return summary

    async def publish_summary(self, summary: Summary, run: Run) -> Summary:
        """Publish the summary and return the valid one: that of another attempt if it published its end first."""
        valid: Summary | None = summary
        if summary.complete:
            path = self._end_path(summary.generation)
            if not await self._write(path, _json(asdict(summary)), "skip", run):
                valid = await self._read_summary(path)
        await self._write(self.summary_path, _json(asdict(summary.as_started)), "overwrite", run)
        return valid or summary

    # -- its waves

    async def wave(self, generation: str, number: int) -> Wave | None:
        """Return a wave without its lines, or None if it is not published yet.

        :raises IntegrityError: if the file is not the expected wave.
        """
        path = self.wave_path(generation, number)
        try:
            start = b"".join([chunk async for chunk in self.store.read(path, 0, _MAX_HEAD)])
        except NotFound:
            return None
        head, found, _ = start.partition(b"\n")
        wave = Wave.from_head(head + found, self._label(path))
        if (wave.generation, wave.number) != (generation, number):
            raise IntegrityError(f"{self._label(path)} contains another wave", remedy=_PLAN_AGAIN)
        return wave

    async def publish(self, wave: Wave, lines: Sequence[bytes], run: Run) -> bool:
        """Publish a wave atomically; return False and change nothing if its number is already taken.

        :param lines: the lines of each shard.
        """
        return await self._write(
            self.wave_path(wave.generation, wave.number), b"".join([wave.head, *lines]), "skip", run
        )

    async def items(self, wave: Wave, shard: int) -> AsyncIterator[list[tuple[Item, bool]]]:
        """Yield the files of a shard in batches, each with whether its content must be compared first.

        :raises IntegrityError: at the end, if the lines do not match the head of the wave.
        """
        path, share = self.wave_path(wave.generation, wave.number), wave.shares[shard]
        digest, rest, count = Digest(), b"", 0
        async for chunk in self._read_range(path, wave.start_of(shard), share.size):
            digest.update(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            count += len(lines)
            yield list(_items(lines, self._label(path)))
        if rest or digest.hexdigest() != share.sha256 or count != share.files:
            raise IntegrityError(f"{self._label(path)} does not match the plan", remedy=_PLAN_AGAIN)

    async def _read_range(self, path: str, start: int, size: int) -> AsyncIterator[bytes]:
        if not size:
            return
        ranged = self.store.capabilities.ranged_read
        async for chunk in self.store.read(path, start, size) if ranged else read_from(self.store, path, start):
            yield chunk[:size]
            size -= len(chunk)
            if size <= 0:
                return

    # -- its shards

    async def mark_done(self, shard: int, generation: str, chain: str, run: Run) -> None:
        """Record that a shard has copied all waves of a generation."""
        await self._write(self._done_path(shard), _json({"generation": generation, "chain": chain}), "overwrite", run)

    async def is_done(self, shard: int, summary: Summary) -> bool:
        """Return whether a shard has copied every wave of this plan."""
        record = await self._read_json(self._done_path(shard))
        return record == {"generation": summary.generation, "chain": summary.chain}

    # -- the folder

    async def remove(self, parent: str) -> None:
        """Remove the plan, and the folders that are empty afterwards.

        A killed attempt may have removed a part of it, and its last requests may still take effect on the server:
        files that are already gone are skipped, and the folder is listed again if it is not empty.

        :param parent: the folder that holds the plans.
        """
        for _ in range(_REMOVE_PASSES):
            for path in await self._files():
                with suppress(NotFound):
                    await self.store.delete(path)
            if await self._remove_folders(parent):
                return

    async def _remove_folders(self, parent: str) -> bool:
        """Remove the empty folders; return whether the folder of the plan is gone."""
        if not self.store.capabilities.removes_folders:
            return True
        store = cast("FolderStore", self.store)
        if not await store.rmdir(self.path):
            return False
        failpoint("files.sync_finish.between_rmdirs")
        await store.rmdir(parent.rstrip("/"))
        return True

    async def _files(self) -> list[str]:
        """Return the files of the folder. ``plan.json`` comes last, so that an unfinished removal is still found."""
        try:
            paths = [entry.path async for entry in self.store.list(self.path) if not entry.is_dir]
        except NotFound:
            return []
        return sorted(paths, key=self.summary_path.__eq__)

    def _label(self, path: str) -> str:
        return self.store.where + path

    async def _read_json(self, path: str) -> dict[str, Any] | None:
        try:
            record = json.loads(await read_whole(self.store, path, _MAX_JSON))
        except NotFound:
            return None
        except ValueError as error:
            raise IntegrityError(f"{self._label(path)} is damaged", remedy=_PLAN_AGAIN) from error
        if not isinstance(record, dict):
            raise IntegrityError(f"{self._label(path)} is not a valid plan", remedy=_PLAN_AGAIN)
        return record

    # -- writing

    async def _write(self, path: str, data: bytes, if_exists: IfExists, run: Run) -> bool:
        """Write a file atomically; return False if ``if_exists`` is ``skip`` and the file exists.

        :raises Fenced: if a newer attempt took over, even if only during the write.
        """
        try:
            written = await write_once(self.store, path, data, if_exists, run, self._label(path))
            run.lease.check()
        except Fenced:
            with suppress(FlowRunnerError):
                await self._undo_late_write(path, run)
            raise
        return not written.skipped

    async def _undo_late_write(self, path: str, run: Run) -> None:
        """Undo a write that happened after the newer attempt had already finished."""
        if not run.journal.finished_by_now():
            return
        files, first = await self._files(), path == self.summary_path
        ends = [file for file in files if file.endswith(_END)]
        removed = not ends if first else self.summary_path not in files
        if removed:  # the sync is over
            with suppress(NotFound):
                await self.store.delete(path)
            await self._remove_folders(self.path.rpartition("/")[0])
        elif first and len(ends) == 1 and (end := await self._read_summary(ends[0])):
            await self._restore_summary(end, run)

    async def _restore_summary(self, end: Summary, run: Run) -> None:
        """Restore ``plan.json`` for the complete plan of the newer attempt."""
        data = _json(asdict(end.as_started))
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
    """Return the line of a wave for a file.

    :param doubtful: its content must be compared before it is copied.
    """
    return json.dumps([*item.to_json(), int(doubtful)]).encode() + b"\n"


def _items(lines: Sequence[bytes], where: str) -> Iterator[tuple[Item, bool]]:
    try:
        for row in map(json.loads, lines):
            yield Item.from_json(row[:-1]), bool(row[-1])
    except (ValueError, TypeError, IndexError) as error:
        raise IntegrityError(f"{where} is damaged", remedy=_PLAN_AGAIN) from error
