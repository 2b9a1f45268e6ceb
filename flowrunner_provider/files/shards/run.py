"""Carrying out a plan that was cut into shards: each by a task of its own, and the end of it all by the last one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.results import ShardResult, SyncFinishResult
from flowrunner_provider.files.shards.engine import Folder, ShardPlan
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.engine import sync
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["finish", "run_shard"]


async def run_shard(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    number: int,
    work: str,
    folder: Folder,
) -> ShardResult:
    """Copy what the plan has dealt to one shard.

    :param work: the fingerprint of the sync.
    """
    summary = await folder.summary(work)
    if not 0 <= number < len(summary.shards):
        raise ConfigError(
            f"there is no shard {number}: the plan has {len(summary.shards)}",
            field="shard",
            remedy="count from 0, and to as many as files.sync_plan was told to make",
        )
    shard = summary.shards[number]
    result = await sync(
        source,
        dest,
        run,
        replace(options, delete_extra=False, dry_run=False),
        identity_of_work=["files.sync_shard", work, number, shard.sha256],
        plan=partial(ShardPlan, folder=folder, number=number, shard=shard),
    )
    return ShardResult(
        shard=number, files=shard.files, copied=result.copied, unchanged=shard.files - result.copied, bytes=result.bytes
    )


async def finish(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    work: str,
    folder: Folder,
    parent: str,
) -> SyncFinishResult:
    """List both folders again, copy what has changed since the plan was made, delete what is extra, and the plan.

    :param work: the fingerprint of the sync.
    :param parent: the folder of the plans.
    """
    checkpoint = run.checkpoint("finish", fingerprint("files.sync_finish", work))
    if checkpoint.state is None:
        summary = await folder.summary(work)
        checkpoint.save([summary.files, summary.size], force=True)
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
    await folder.remove(parent)
    failpoint("files.sync_finish.after_remove_plan")
    return SyncFinishResult(
        listed=result.listed, planned=planned, planned_bytes=planned_bytes, late=result.copied,
        deleted=result.deleted, extra=result.extra,
    )  # fmt: skip
