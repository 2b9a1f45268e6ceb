"""Planning a sync for several tasks: what is to be copied is dealt out and published while both folders are listed.

A wave that is published is a fact. An attempt that goes on after a killed one reads the waves that are there, and
deals out what its own listing shows besides. Should two attempts be alive, whoever publishes a number first has it;
the other one takes that wave for a fact, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.books import token_of
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.results import SyncPlanResult
from flowrunner_provider.files.shards.book import Book, Summary, Wave
from flowrunner_provider.files.shards.deal import Deal, Planned, largest_first
from flowrunner_provider.files.spool import Spool
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.plan import Plan
from flowrunner_provider.files.tree import Tree, chooser

__all__ = ["MOST_FILES", "WAVE_BYTES", "WAVE_SECONDS", "plan_shards"]

MOST_FILES = 100_000
"""Files that a wave may be told to have; so many are in memory until it is published."""

WAVE_BYTES = 1 << 40
WAVE_SECONDS = 10.0
"""While the listing goes on, a wave of so many bytes, or so long after the last one, is published as it is."""

_SHOWN, _CHARACTERS = 20, 6_000
_CHUNK = 500


async def plan_shards(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    shards: int,
    wave_size: int,
    work: str,
    book: Book,
    label: str,
) -> SyncPlanResult:
    """Write the plan into ``book``; with ``dry_run`` only tell what it would be.

    :param work: the fingerprint of the sync, which its other tasks must have, too.
    :param label: the address of ``book``.
    """
    choose = chooser(options.include, options.exclude)
    trees = Tree(*source, choose, field="source"), Tree(*dest, choose, field="dest")
    plan = _Listing(*trees, run, options, deleted_before=0)
    try:
        if options.dry_run:
            return await _previewed(plan)
        with _Planning(plan, run, book, shards=shards, wave_size=wave_size, work=work) as planning:
            told = await planning.done()
        return SyncPlanResult(
            plan=label, shards=shards, waves=told.waves or 0, listed=told.listed, files=told.files, bytes=told.bytes,
            largest=told.largest, deletes=told.deletes, extra=told.extra, dry_run=False, copies=told.copies,
        )  # fmt: skip
    finally:
        await plan.close()


async def _previewed(plan: Plan) -> SyncPlanResult:
    plan.start()
    first, files, size = await plan.preview()
    return SyncPlanResult(
        plan="", shards=0, waves=0, listed=plan.listed, files=files, bytes=size, largest=0, deletes=plan.deletes,
        extra=plan.extra, dry_run=True, copies=_names(first),
    )  # fmt: skip


def _names(items: Iterable[Item]) -> list[str]:
    names: list[str] = []
    for item in items:
        if len(names) < _SHOWN and sum(map(len, names)) < _CHARACTERS:
            names.append(item.relative)
    return names


class _Listing(Plan):
    """The plan of the whole sync."""

    @property
    def is_over(self) -> bool:
        """Nothing further is listed: what is to be copied is known."""
        return self._task is not None and self._task.done()


class _Planning:
    """One attempt to make the plan, or to go on with it.

    :param plan: not yet started.
    :param wave_size: how many files a wave has.
    """

    def __init__(self, plan: _Listing, run: Run, book: Book, *, shards: int, wave_size: int, work: str) -> None:
        self._plan, self._run, self._book = plan, run, book
        self._work, self._shards, self._size = work, shards, wave_size
        self._deal = Deal(shards)
        self._spool = Spool()
        self._known = self._spool.rows()  # what the waves hold that this attempt has found
        self._summary = Summary(work=work, generation="", shards=shards)
        self._told, self._waves, self._chain = False, 0, ""
        self._pending: list[Planned] = []
        self._bytes, self._published_at = 0, run.clock.monotonic()

    def __enter__(self) -> _Planning:
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.close()

    async def done(self) -> Summary:
        """The complete plan."""
        if not await self._begun():
            return self._summary
        self._plan.start()
        after = 0
        while rows := await self._plan.to_copy(after):
            after = rows[-1][0]
            self._take([item for _, item in rows])
            while self._is_due():
                await self._publish()
            await apause(0)
        await self._plan.complete()
        while self._pending:
            await self._publish()
        plan, deal = self._plan, self._deal
        self._summary = replace(
            self._summary, waves=self._waves, chain=self._chain, listed=plan.listed, files=deal.files,
            bytes=deal.size, largest=deal.largest, deletes=plan.deletes, extra=plan.extra,
        )  # fmt: skip
        await self._tell()
        return self._summary

    async def _begun(self) -> bool:
        """Whether there is something left to plan; what is published already is known then."""
        checkpoint = self._run.checkpoint("plan", fingerprint("files.sync_plan", self._work, self._shards))
        if checkpoint.state is None:
            checkpoint.save(secrets.token_hex(6), force=True)
        generation = str(checkpoint.state)
        found = None
        with suppress(IntegrityError):  # whatever it is, it is replaced
            found = await self._book.summary()
        if found is None or found.generation != generation:
            self._summary = replace(self._summary, generation=generation)
            if found is not None:  # no shard may go on with it
                await self._tell()
            return True
        self._summary, self._told = found, True
        if found.complete:
            return False
        while wave := await self._book.wave(generation, self._waves + 1):
            await self._learn(wave)
        await self._book.store.forget(self._book.wave_path(generation, self._waves + 1), token_of(self._run))
        self._run.log.info("An earlier attempt has published %d waves; the plan goes on behind them.", self._waves)
        return True

    async def _tell(self) -> None:
        failpoint("files.sync_plan.before_tell")
        self._summary = await self._book.tell(self._summary, self._run)
        self._told = True
        failpoint("files.sync_plan.after_tell")

    # -- one wave

    def _take(self, items: list[Item]) -> None:
        """Files that the listings have shown; those that are dealt already are left out."""
        files = self._unknown([(item, item.relative in self._plan.doubtful) for item in items])
        self._plan.doubtful.clear()
        self._pending += files
        self._bytes += sum(item.size or 0 for item, _ in files)

    def _unknown(self, files: list[Planned]) -> list[Planned]:
        if not self._known.count:
            return files
        unknown: list[Planned] = []
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            known = self._known.named([item.relative for item, _ in chunk])
            unknown += [file for file in chunk if file[0].relative not in known]
        return unknown

    def _is_due(self) -> bool:
        count = len(self._pending)
        if self._plan.is_over or count < self._shards:
            return count >= self._size
        waited = self._run.clock.monotonic() - self._published_at
        return count >= self._size or self._bytes >= WAVE_BYTES or waited >= WAVE_SECONDS

    async def _publish(self) -> None:
        files, rest = self._pending[: self._size], self._pending[self._size :]
        if not self._told and (rest or not self._plan.is_over):
            await self._tell()
        parts, lines = self._deal.out(files)
        wave = Wave.of(self._summary.generation, self._waves + 1, parts)
        failpoint("files.sync_plan.before_wave")
        if await self._book.publish(wave, lines, self._run):
            self._count(wave, [item for item, _ in largest_first(files)] if wave.number == 1 else [])
            self._pending = rest
        else:
            await self._give_way(wave.number)
        failpoint("files.sync_plan.after_wave")
        self._bytes = sum(item.size or 0 for item, _ in self._pending)
        self._published_at = self._run.clock.monotonic()

    async def _give_way(self, number: int) -> None:
        """Another attempt was faster."""
        wave = await self._book.wave(self._summary.generation, number)
        if wave is None:
            raise IntegrityError(
                f"wave {number} was published by another attempt and is gone", remedy="clear the task with resume=False"
            )
        await self._learn(wave)
        self._pending = self._unknown(self._pending)

    async def _learn(self, wave: Wave) -> None:
        """What a wave holds that this attempt has not published."""
        first: list[Planned] = []
        for shard in range(len(wave.parts)):
            async for files in self._book.items(wave, shard):
                for item, _ in files:
                    self._known.add(item)
                if wave.number == 1:
                    first = largest_first([*first, *files])[:_SHOWN]
        self._count(wave, [item for item, _ in first])

    def _count(self, wave: Wave, first: list[Item]) -> None:
        self._waves, self._chain = wave.number, wave.chained(self._chain)
        self._deal.count(wave.parts)
        if wave.number == 1:
            self._summary = replace(self._summary, copies=_names(first))
