"""Plan a sync for several tasks: files to copy are assigned to shards and published while both folders are listed.

A published wave never changes. An attempt that continues after a killed one reads the existing waves and assigns only
the files that they do not contain. If two attempts are alive, the first to publish a wave number wins, and the other
one accepts that wave.
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
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.results import SyncPlanResult
from flowrunner_provider.files.session import token_of
from flowrunner_provider.files.shards.balance import Balancer, PlannedFile, largest_first
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Summary, Wave
from flowrunner_provider.files.spool import Spool
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.plan import Plan
from flowrunner_provider.files.tree import Tree, path_filter

__all__ = ["MAX_FILES", "WAVE_BYTES", "WAVE_SECONDS", "plan_shards"]

MAX_FILES = 100_000
"""The largest allowed wave size, in files; a wave is in memory until it is published."""

WAVE_BYTES = 1 << 40
WAVE_SECONDS = 10.0
"""During the listing, a smaller wave is published once it has this many bytes, or after this many seconds."""

_MAX_NAMES, _MAX_CHARACTERS = 20, 6_000
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
    plan_folder: PlanFolder,
    label: str,
) -> SyncPlanResult:
    """Write the plan into ``plan_folder``; with ``dry_run``, return the counts without writing anything.

    :param work: the fingerprint of the sync; all its tasks must have the same.
    :param label: the address of ``plan_folder``, for the result.
    """
    choose = path_filter(options.include, options.exclude)
    trees = Tree(*source, choose, field="source"), Tree(*dest, choose, field="dest")
    plan = _SyncPlan(*trees, run, options, deleted_before=0)
    try:
        if options.dry_run:
            return await _preview(plan)
        with _Planner(plan, run, plan_folder, shards=shards, wave_size=wave_size, work=work) as planner:
            summary = await planner.run()
        return SyncPlanResult(
            plan=label, shards=shards, waves=summary.waves or 0, listed=summary.listed, files=summary.files,
            bytes=summary.bytes, largest=summary.largest, deletes=summary.deletes, extra=summary.extra,
            dry_run=False, copies=summary.copies,
        )  # fmt: skip
    finally:
        await plan.close()


async def _preview(plan: Plan) -> SyncPlanResult:
    plan.start()
    first, files, size = await plan.preview()
    return SyncPlanResult(
        plan="", shards=0, waves=0, listed=plan.listed, files=files, bytes=size, largest=0, deletes=plan.deletes,
        extra=plan.extra, dry_run=True, copies=_names(first),
    )  # fmt: skip


def _names(items: Iterable[Item]) -> list[str]:
    names: list[str] = []
    for item in items:
        if len(names) < _MAX_NAMES and sum(map(len, names)) < _MAX_CHARACTERS:
            names.append(item.relative)
    return names


class _SyncPlan(Plan):
    """The plan of the whole sync."""

    @property
    def is_listed(self) -> bool:
        """Both listings have ended, so all files to copy are known."""
        return self._task is not None and self._task.done()


class _Planner:
    """One attempt to write the plan, or to continue it.

    :param plan: not yet started.
    :param wave_size: files per wave.
    """

    def __init__(
        self, plan: _SyncPlan, run: Run, plan_folder: PlanFolder, *, shards: int, wave_size: int, work: str
    ) -> None:
        self._plan, self._run, self._plan_folder = plan, run, plan_folder
        self._work, self._shards, self._wave_size = work, shards, wave_size
        self._balancer = Balancer(shards)
        self._spool = Spool()
        self._assigned = self._spool.rows()  # files of the waves that other attempts published
        self._summary = Summary(work=work, generation="", shards=shards)
        self._is_published, self._waves, self._chain = False, 0, ""
        self._pending: list[PlannedFile] = []
        self._bytes, self._published_at = 0, run.clock.monotonic()

    def __enter__(self) -> _Planner:
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.close()

    async def run(self) -> Summary:
        """Return the complete plan."""
        if not await self._resume():
            return self._summary
        self._plan.start()
        after = 0
        while rows := await self._plan.to_copy(after):
            after = rows[-1][0]
            self._queue([item for _, item in rows])
            while self._is_due():
                await self._publish()
            await apause(0)
        await self._plan.complete()
        while self._pending:
            await self._publish()
        plan, balancer = self._plan, self._balancer
        self._summary = replace(
            self._summary, waves=self._waves, chain=self._chain, listed=plan.listed, files=balancer.files,
            bytes=balancer.size, largest=balancer.largest, deletes=plan.deletes, extra=plan.extra,
        )  # fmt: skip
        await self._publish_summary()
        return self._summary

    async def _resume(self) -> bool:
        """Read what earlier attempts published; return False if the plan is complete."""
        checkpoint = self._run.checkpoint("plan", fingerprint("files.sync_plan", self._work, self._shards))
        if checkpoint.state is None:
            checkpoint.save(secrets.token_hex(6), force=True)
        generation = str(checkpoint.state)
        found = None
        with suppress(IntegrityError):  # a damaged plan is replaced
            found = await self._plan_folder.summary()
        if found is None or found.generation != generation:
            self._summary = replace(self._summary, generation=generation)
            if found is not None:  # shards must stop using the old generation
                await self._publish_summary()
            return True
        self._summary, self._is_published = found, True
        if found.complete:
            return False
        while wave := await self._plan_folder.wave(generation, self._waves + 1):
            await self._read_wave(wave)
        await self._plan_folder.store.forget(
            self._plan_folder.wave_path(generation, self._waves + 1), token_of(self._run)
        )
        self._run.log.info("An earlier attempt published %d waves; planning continues after them.", self._waves)
        return True

    async def _publish_summary(self) -> None:
        failpoint("files.sync_plan.before_tell")
        self._summary = await self._plan_folder.publish_summary(self._summary, self._run)
        self._is_published = True
        failpoint("files.sync_plan.after_tell")

    # -- one wave

    def _queue(self, items: list[Item]) -> None:
        """Queue newly listed files, unless a published wave contains them."""
        files = self._not_assigned([(item, item.relative in self._plan.doubtful) for item in items])
        self._plan.doubtful.clear()
        self._pending += files
        self._bytes += sum(item.size or 0 for item, _ in files)

    def _not_assigned(self, files: list[PlannedFile]) -> list[PlannedFile]:
        if not self._assigned.count:
            return files
        remaining: list[PlannedFile] = []
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            assigned = self._assigned.named([item.relative for item, _ in chunk])
            remaining += [file for file in chunk if file[0].relative not in assigned]
        return remaining

    def _is_due(self) -> bool:
        count = len(self._pending)
        if self._plan.is_listed or count < self._shards:
            return count >= self._wave_size
        waited = self._run.clock.monotonic() - self._published_at
        return count >= self._wave_size or self._bytes >= WAVE_BYTES or waited >= WAVE_SECONDS

    async def _publish(self) -> None:
        files, rest = self._pending[: self._wave_size], self._pending[self._wave_size :]
        if not self._is_published and (rest or not self._plan.is_listed):
            await self._publish_summary()
        shares, lines = self._balancer.assign(files)
        wave = Wave.of(self._summary.generation, self._waves + 1, shares)
        failpoint("files.sync_plan.before_wave")
        if await self._plan_folder.publish(wave, lines, self._run):
            self._record(wave, [item for item, _ in largest_first(files)] if wave.number == 1 else [])
            self._pending = rest
        else:
            await self._accept_wave(wave.number)
        failpoint("files.sync_plan.after_wave")
        self._bytes = sum(item.size or 0 for item, _ in self._pending)
        self._published_at = self._run.clock.monotonic()

    async def _accept_wave(self, number: int) -> None:
        """Accept the wave that another attempt published first."""
        wave = await self._plan_folder.wave(self._summary.generation, number)
        if wave is None:
            raise IntegrityError(
                f"wave {number}, published by another attempt, has disappeared",
                remedy="clear the task with resume=False",
            )
        await self._read_wave(wave)
        self._pending = self._not_assigned(self._pending)

    async def _read_wave(self, wave: Wave) -> None:
        """Remember the files of a wave that this attempt did not publish."""
        first: list[PlannedFile] = []
        for shard in range(len(wave.shares)):
            async for files in self._plan_folder.items(wave, shard):
                for item, _ in files:
                    self._assigned.add(item)
                if wave.number == 1:
                    first = largest_first([*first, *files])[:_MAX_NAMES]
        self._record(wave, [item for item, _ in first])

    def _record(self, wave: Wave, first: list[Item]) -> None:
        self._waves, self._chain = wave.number, wave.chained(self._chain)
        self._balancer.record(wave.shares)
        if wave.number == 1:
            self._summary = replace(self._summary, copies=_names(first))
