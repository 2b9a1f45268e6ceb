"""Task groups for files."""

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
    """``files.sync``, spread over several workers: when the group has succeeded, ``dest`` is a copy of ``source``.

    Each task may be killed and retried alone. The task ``plan`` lists both folders and assigns the files to shards;
    ``shard`` is mapped ``shards`` times and copies; ``finish`` compares both folders, deletes extra files, and removes
    the plan. With ``dry_run`` the group consists of ``plan`` only.

    The shards start together with ``plan``, and copy while it is still listing. Files are published in waves of
    ``wave_size``; the first wave is ready when ``dest`` and 10,000 files of ``source`` are listed. A shard without
    work releases its slot, so one slot is enough for all of them. If ``plan`` fails for good, the shards fail too:
    clear the whole group then.

    **Cost.** ``plan`` and ``finish`` each list both folders, one request per page or folder. Neither memory nor
    Airflow's database grows with the number of files. If network, server and workers have the capacity, the copies
    take as long as ``files.sync`` takes for the largest shard, about 1/``shards`` of the files and bytes. Where files
    cost round trips rather than bandwidth, shards and ``concurrency`` multiply. Each wave writes one file; each shard
    reads its state twice and writes it once. Each task costs the start of a process, so a single idle worker is better
    served by ``files.sync``.

    :param source: a folder; a path on the worker must be the same disk on all workers.
    :param dest: a folder in any store.
    :param shards: the number of copying tasks, from 1 to 256; pools and workers limit how many run at once.
    :param plan_path: the folder for plans, in any store; by default ``.flowrunner`` in ``dest``.
    :param concurrency: files in flight in each task.
    :param wave_size: the number of files per wave.
    :param plan_timeout: how long a shard waits for the next wave.
    :param poll_interval: the time between two checks for the next wave, at least 5 seconds; without ``deferrable`` it
        grows to 5 minutes while nothing happens.
    :param deferrable: wait for the next wave in the triggerer, unless the plan is on the workers' disk.
    :param dry_run: only plan.
    :param task: arguments of all tasks: ``pool``, ``queue``, ``executor``, ``retries``, ``timeout`` ...

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
