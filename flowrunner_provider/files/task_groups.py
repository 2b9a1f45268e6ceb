"""Several actions that belong together, as one task group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from airflow.sdk import TaskGroup
from airflow.sdk.configuration import conf

from flowrunner_provider.files.operators.shards import (
    FileSyncFinishOperator,
    FileSyncPlanOperator,
    FileSyncShardOperator,
)

__all__ = ["sync_task_group"]


def sync_task_group(
    *,
    source: str,
    dest: str,
    shards: int = 4,
    group_id: str = "sync",
    plan_path: str | None = None,
    compare: Literal["size_mtime", "checksum", "name"] = "size_mtime",
    delete_extra: bool = False,
    max_deletes: int = 1000,
    backup_dir: str | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    concurrency: int = 4,
    wave_size: int = 10_000,
    plan_timeout: str | float | timedelta = "12h",
    poll_interval: str | float | timedelta = "20s",
    deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
    dry_run: bool = False,
    **task: Any,
) -> TaskGroup:
    """``files.sync`` spread over workers: when the group has succeeded, ``dest`` is what ``source`` is.

    Any of its tasks may be killed and retried alone. The tasks are ``plan``, which lists and deals out; ``shard``,
    mapped ``shards`` times, on whatever workers the executor has; and ``finish``, which compares the whole, deletes
    what is extra, and removes the plan. With ``dry_run`` there is only ``plan``, which tells what would be done.

    The shards begin with the plan, and copy while it still lists: a wave of ``wave_size`` files at a time, the first
    when ``dest`` is listed and 10,000 files of ``source`` are. A shard that has nothing to do yet gives its slot up,
    so that one slot is enough for all. If ``plan`` fails for good the shards fail, too: clear the whole group then.

    **What it costs.** Each folder is listed twice, by ``plan`` and by ``finish``: with the number of files, a request
    per page or folder. Neither memory nor Airflow's database grows with them. The copies take as long as ``files.sync``
    needs for the shard that has most, about 1/``shards`` of the files and bytes, if network, far side and workers
    give that much; where each file costs round trips rather than bytes, shards and ``concurrency`` multiply. Each wave
    costs one written file, and each shard two reads and one write of its state; a sync of less than ``wave_size``
    files is one wave. Each task costs Airflow's start of a process: one worker that is not busy is better served by
    ``files.sync``.

    :param source: a folder; a path on the worker must be the same disk on all workers.
    :param dest: a folder in any store.
    :param shards: how many tasks copy, from 1 to 256; those that run at once are limited by pools and workers.
    :param plan_path: the folder for plans, in any store; by default ``.flowrunner`` in ``dest``.
    :param concurrency: files at a time in each task.
    :param wave_size: how many files are dealt to the shards at a time.
    :param plan_timeout: how long a shard waits for the next wave.
    :param poll_interval: the time between two looks for it without a slot, at least 5 seconds; without ``deferrable``
        it grows to 5 minutes while nothing comes.
    :param deferrable: wait for it in the triggerer, if the plan is in a store and not on the workers' disk.
    :param dry_run: only plan.
    :param task: what every task shall have besides: ``pool``, ``queue``, ``executor``, ``retries``, ``timeout`` ...

    The other parameters are those of ``files.sync``.
    """
    with TaskGroup(group_id=group_id) as group:
        common: dict[str, Any] = {
            "source": source, "dest": dest, "plan_path": plan_path, "plan_name": group.group_id, "compare": compare,
            "delete_extra": delete_extra, "max_deletes": max_deletes, "backup_dir": backup_dir, "include": include,
            "exclude": exclude, "concurrency": concurrency, **task,
        }  # fmt: skip
        first = {**common, "priority_weight": task.get("priority_weight", 1) + 1}  # the shards have to wait for it
        plan = FileSyncPlanOperator(task_id="plan", shards=shards, wave_size=wave_size, dry_run=dry_run, **first)
        if not dry_run:
            copies = FileSyncShardOperator.partial(
                task_id="shard", plan_task=plan.task_id, plan_timeout=plan_timeout, poll_interval=poll_interval,
                deferrable=deferrable, **common,
            ).expand(shard=list(range(shards)))  # fmt: skip
            [plan, copies] >> FileSyncFinishOperator(task_id="finish", **common)
    return group
