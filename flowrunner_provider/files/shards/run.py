"""Carrying out a plan that was dealt to shards: each by a task of its own, and the end of it all by the last one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.each import each
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.results import ShardResult, SyncFinishResult
from flowrunner_provider.files.shards.book import Book, Summary, Wave
from flowrunner_provider.files.shards.look import SUCCESS, Place, Seen, look
from flowrunner_provider.files.shards.part import PartPlan
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.engine import sync
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["StateOf", "Wait", "finish", "planned_before", "run_shard"]

StateOf = Callable[[], Awaitable[str]]
"""Asks for the state of the task that makes the plan."""

Wait = Callable[[Place, str], Awaitable[None]]
"""Waits a little; or gives the worker's slot up, by an exception that Airflow understands."""


async def planned_before() -> str:
    """The state of a plan that was complete before its shards began."""
    return SUCCESS


async def run_shard(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    shard: int,
    work: str,
    book: Book,
    state_of: StateOf,
    wait: Wait,
) -> ShardResult:
    """Copy what the plan deals to one shard, wave after wave.

    :param work: the fingerprint of the sync.
    """
    working = _Shard(source, dest, run, replace(options, delete_extra=False, dry_run=False), shard, work, book)
    await working.take_up()
    while True:
        seen, state = await working.look(state_of)
        if seen.wave is not None:
            await working.begin(seen.place, seen.wave)
        elif seen.end is not None:
            return await working.end(seen.place, seen.end)
        else:
            await wait(seen.place, state)


class _Shard:
    """One attempt at one shard. What it has begun is written down, so that no attempt leaves a wave half done."""

    def __init__(
        self,
        source: tuple[Store, str],
        dest: tuple[Store, str],
        run: Run,
        options: SyncOptions,
        shard: int,
        work: str,
        book: Book,
    ) -> None:
        self._source, self._dest, self._run, self._options = source, dest, run, options
        self._shard, self._work, self._book = shard, work, book
        self._checkpoint = run.checkpoint("shard", fingerprint("files.sync_shard", work, shard))
        self._place = Place()

    async def take_up(self) -> None:
        """Finish the wave that an earlier attempt has begun, whichever plan it belongs to."""
        if self._checkpoint.state is None:
            return
        place = Place.from_json(self._checkpoint.state)
        wave = await self._book.wave(place.generation, place.wave)
        if wave is not None:
            await self._work_off(place, wave)

    async def look(self, state_of: StateOf) -> tuple[Seen, str]:
        """What is next, and the state that the plan was in before."""

        async def looked() -> tuple[Seen, str]:
            state = await state_of()
            return await look(self._book, self._work, self._place, state), state

        return await self._run.retry.acall(looked, self._run.deadline)

    async def begin(self, place: Place, wave: Wave) -> None:
        """Work off the wave behind ``place``."""
        if not 0 <= self._shard < len(wave.parts):
            raise self._unknown(len(wave.parts))
        place = replace(place, wave=wave.number, chain=wave.chained(place.chain))
        self._checkpoint.save(place.to_json(), force=True)
        await self._work_off(place, wave)

    async def _work_off(self, place: Place, wave: Wave) -> None:
        part = wave.parts[self._shard]
        failpoint("files.sync_shard.before_wave")
        if part.files:
            result = await sync(
                self._source,
                self._dest,
                self._run,
                self._options,
                identity_of_work=["files.sync_shard", self._work, self._shard, place.generation, place.chain],
                plan=partial(PartPlan, book=self._book, wave=wave, shard=self._shard),
            )
            copied, size = place.copied + result.copied, place.bytes + result.bytes
            place = replace(place, files=place.files + part.files, copied=copied, bytes=size)
        failpoint("files.sync_shard.after_wave")
        self._place = place

    async def end(self, place: Place, summary: Summary) -> ShardResult:
        """There is no further wave."""
        if not 0 <= self._shard < summary.shards:
            raise self._unknown(summary.shards)
        failpoint("files.sync_shard.before_done")
        await self._book.tell_done(self._shard, summary.generation, summary.chain, self._run)
        failpoint("files.sync_shard.after_done")
        return ShardResult(
            shard=self._shard, waves=place.wave, files=place.files, copied=place.copied,
            unchanged=place.files - place.copied, bytes=place.bytes,
        )  # fmt: skip

    def _unknown(self, shards: int) -> ConfigError:
        return ConfigError(
            f"there is no shard {self._shard}: the plan has {shards}",
            field="shard",
            remedy="count from 0, and to as many as files.sync_plan was told to make",
        )


async def finish(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    work: str,
    book: Book,
    parent: str,
) -> SyncFinishResult:
    """List both folders again, copy what has changed since the plan was made, delete what is extra, and the plan.

    :param work: the fingerprint of the sync.
    :param parent: the folder of the plans.
    :raises IntegrityError: before anything is done, if a shard has not worked off every wave.
    """
    checkpoint = run.checkpoint("finish", fingerprint("files.sync_finish", work))
    if checkpoint.state is None:
        summary = await book.complete(work)
        await _all_done(book, summary)
        checkpoint.save([summary.files, summary.bytes], force=True)
    planned, planned_bytes = checkpoint.state
    result = await sync(
        source,
        dest,
        run,
        options,
        identity_of_work=["files.sync_finish", work],
        plan=partial(Plan, trusting=True),
    )
    if result.copied:
        run.log.info("%d files changed after the plan was made, and were copied now.", result.copied)
    run.lease.check()
    failpoint("files.sync_finish.before_remove_plan")
    await book.remove(parent)
    failpoint("files.sync_finish.after_remove_plan")
    return SyncFinishResult(
        listed=result.listed, planned=planned, planned_bytes=planned_bytes, late=result.copied,
        deleted=result.deleted, extra=result.extra,
    )  # fmt: skip


async def _all_done(book: Book, summary: Summary) -> None:
    lacking: list[int] = []

    async def check(shard: int) -> None:
        if not await book.is_done(shard, summary):
            lacking.append(shard)

    await each(8, check, range(summary.shards))
    if lacking:
        first = ", ".join(map(str, sorted(lacking)[:5]))
        raise IntegrityError(
            f"{len(lacking)} of {summary.shards} shards have not worked off this plan; the first are {first}",
            remedy="run, or clear, the tasks of these shards; then this one",
        )
