"""Carry out a sharded plan: one task per shard copies, and a last task finishes the sync."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.results import ShardResult, SyncFinishResult
from flowrunner_provider.files.shards.next_wave import SUCCESS, NextStep, Position, find_next
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Summary, Wave
from flowrunner_provider.files.shards.wave_plan import WavePlan
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.engine import sync
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["StateOf", "Wait", "finish", "plan_is_complete", "run_shard"]

StateOf = Callable[[], Awaitable[str]]
"""Return the state of the task that makes the plan."""

Wait = Callable[[Position, str], Awaitable[None]]
"""Wait for a moment, or raise the Airflow exception that gives up the worker slot."""


async def plan_is_complete() -> str:
    """Return the state of a plan that was complete before its shards began."""
    return SUCCESS


async def run_shard(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    shard: int,
    work: str,
    plan_folder: PlanFolder,
    state_of: StateOf,
    wait: Wait,
) -> ShardResult:
    """Copy the files that the plan assigns to one shard, wave after wave.

    :param work: the fingerprint of the sync.
    """
    worker = _Shard(source, dest, run, replace(options, delete_extra=False, dry_run=False), shard, work, plan_folder)
    await worker.finish_open_wave()
    while True:
        step, state = await worker.find_next(state_of)
        if step.wave is not None:
            await worker.start_wave(step.position, step.wave)
        elif step.end is not None:
            return await worker.finish(step.position, step.end)
        else:
            await wait(step.position, state)


class _Shard:
    """One attempt at one shard. It checkpoints each wave before it starts, so that the next attempt finishes it."""

    def __init__(
        self,
        source: tuple[Store, str],
        dest: tuple[Store, str],
        run: Run,
        options: SyncOptions,
        shard: int,
        work: str,
        plan_folder: PlanFolder,
    ) -> None:
        self._source, self._dest, self._run, self._options = source, dest, run, options
        self._shard, self._work, self._plan_folder = shard, work, plan_folder
        self._checkpoint = run.checkpoint("shard", fingerprint("files.sync_shard", work, shard))
        self._position = Position()

    async def finish_open_wave(self) -> None:
        """Finish the wave that an earlier attempt started, even if its plan was replaced since."""
        if self._checkpoint.state is None:
            return
        position = Position.from_json(self._checkpoint.state)
        wave = await self._plan_folder.wave(position.generation, position.wave)
        if wave is not None:
            await self._copy_wave(position, wave)

    async def find_next(self, state_of: StateOf) -> tuple[NextStep, str]:
        """Return the next step, and the state of the plan's task before it was read."""

        async def find() -> tuple[NextStep, str]:
            state = await state_of()
            return await find_next(self._plan_folder, self._work, self._position, state), state

        return await self._run.retry.acall(find, self._run.deadline)

    async def start_wave(self, position: Position, wave: Wave) -> None:
        """Checkpoint and copy the wave that follows ``position``."""
        if not 0 <= self._shard < len(wave.shares):
            raise self._no_such_shard(len(wave.shares))
        position = replace(position, wave=wave.number, chain=wave.chained(position.chain))
        self._checkpoint.save(position.to_json(), force=True)
        await self._copy_wave(position, wave)

    async def _copy_wave(self, position: Position, wave: Wave) -> None:
        share = wave.shares[self._shard]
        failpoint("files.sync_shard.before_wave")
        if share.files:
            result = await sync(
                self._source,
                self._dest,
                self._run,
                self._options,
                identity_of_work=["files.sync_shard", self._work, self._shard, position.generation, position.chain],
                plan=partial(WavePlan, plan_folder=self._plan_folder, wave=wave, shard=self._shard),
            )
            copied, size = position.copied + result.copied, position.bytes + result.bytes
            position = replace(position, files=position.files + share.files, copied=copied, bytes=size)
        failpoint("files.sync_shard.after_wave")
        self._position = position

    async def finish(self, position: Position, summary: Summary) -> ShardResult:
        """Mark the shard as done: there are no more waves."""
        if not 0 <= self._shard < summary.shards:
            raise self._no_such_shard(summary.shards)
        failpoint("files.sync_shard.before_done")
        await self._plan_folder.mark_done(self._shard, summary.generation, summary.chain, self._run)
        failpoint("files.sync_shard.after_done")
        return ShardResult(
            shard=self._shard, waves=position.wave, files=position.files, copied=position.copied,
            unchanged=position.files - position.copied, bytes=position.bytes,
        )  # fmt: skip

    def _no_such_shard(self, shards: int) -> ConfigError:
        return ConfigError(
            f"there is no shard {self._shard}: the plan has {shards}",
            field="shard",
            remedy="number the shards from 0; their count is the parameter shards of files.sync_plan",
        )


async def finish(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    work: str,
    plan_folder: PlanFolder,
    parent: str,
) -> SyncFinishResult:
    """List both folders again, copy files that changed since the plan, delete extra files, and remove the plan.

    :param work: the fingerprint of the sync.
    :param parent: the folder that holds the plans.
    :raises IntegrityError: before anything is changed, if a shard has not copied every wave.
    """
    checkpoint = run.checkpoint("finish", fingerprint("files.sync_finish", work))
    if checkpoint.state is None:
        summary = await plan_folder.complete(work)
        await _require_all_done(plan_folder, summary)
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
        run.log.info("%d files had changed after the plan was made and were copied again.", result.copied)
    run.lease.check()
    failpoint("files.sync_finish.before_remove_plan")
    await plan_folder.remove(parent)
    failpoint("files.sync_finish.after_remove_plan")
    return SyncFinishResult(
        listed=result.listed, planned=planned, planned_bytes=planned_bytes, late=result.copied,
        deleted=result.deleted, extra=result.extra,
    )  # fmt: skip


async def _require_all_done(plan_folder: PlanFolder, summary: Summary) -> None:
    missing: list[int] = []

    async def check(shard: int) -> None:
        if not await plan_folder.is_done(shard, summary):
            missing.append(shard)

    await for_each(8, check, range(summary.shards))
    if missing:
        first = ", ".join(map(str, sorted(missing)[:5])) + (", ..." if len(missing) > 5 else "")
        raise IntegrityError(
            f"{len(missing)} of {summary.shards} shards have not finished this plan: {first}",
            remedy="run or clear the tasks of these shards, then this one",
        )
