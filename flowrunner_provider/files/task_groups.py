"""Several actions that belong together, as one task group."""

from __future__ import annotations

from typing import Any, Literal

from airflow.sdk import TaskGroup

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
    dry_run: bool = False,
    **task: Any,
) -> TaskGroup:
    """``files.sync`` spread over workers: when the group has succeeded, ``dest`` is what ``source`` is.

    Any of its tasks may be killed and retried alone. The tasks are ``plan``, which lists and deals out; ``shard``,
    mapped ``shards`` times, on whatever workers the executor has; and ``finish``, which compares the whole, deletes
    what is extra, and removes the plan. With ``dry_run`` there is only ``plan``, which tells what would be done.
    The shards begin when both folders are listed to their end, for only then are they even, and no task waits for
    another one on a worker's slot. One worker that is not busy is better served by ``files.sync``, which begins to
    copy when ``dest`` is listed and 10,000 files of ``source`` are.

    :param source: a folder; a path on the worker must be the same disk on all workers.
    :param dest: a folder in any store.
    :param shards: how many tasks copy, from 1 to 256; those that run at once are limited by pools and workers.
    :param plan_path: the folder for plans, in any store; by default ``.flowrunner`` in ``dest``.
    :param concurrency: files at a time in each task.
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
        plan = FileSyncPlanOperator(task_id="plan", shards=shards, dry_run=dry_run, **common)
        if not dry_run:
            copies = FileSyncShardOperator.partial(task_id="shard", **common).expand(shard=list(range(shards)))
            plan >> copies >> FileSyncFinishOperator(task_id="finish", **common)
    return group
