"""One sync as several tasks: planned by one, copied by as many as there are shards, finished by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.results import ShardResult, SyncFinishResult, SyncPlanResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.options import SyncOptions
    from flowrunner_provider.files.shards.engine import Folder
    from flowrunner_provider.files.store import Store
    from flowrunner_provider.files.uri import Location

__all__ = ["FileSyncFinishOperator", "FileSyncPlanOperator", "FileSyncShardOperator"]


class _ShardedSync(FlowRunnerOperator):
    """What the tasks of one sync have in common; each is given the same.

    :param source: a folder, e.g. ``sftp://partner@/out/``. A path on the worker must be the same disk on all workers.
    :param dest: a folder in any store.
    :param plan_path: the folder for plans, in any store that all workers reach; by default ``.flowrunner`` in
        ``dest``, which no sync takes for a part of the tree. Each plan is in a folder of its own below it.
    :param plan_name: tells apart the syncs of one DAG.
    :param compare: a file is the same if size and time are (to the coarser of the two stores' precision), if its
        bytes are (both sides are read), or if the name is there.
    :param delete_extra: delete the files that only ``dest`` has, in the last task.
    :param max_deletes: more deletions are an error before the first; the plan says so already.
    :param backup_dir: a folder of the same store as ``dest`` and outside of it: what would be replaced is copied
        there first, what would be deleted is moved there.
    :param include: only files that match one of these globs; one without ``/`` is for the name in any folder.
    :param exclude: and none of these.
    :param concurrency: files at a time in each task, at most 64.
    """

    template_fields: Sequence[str] = ("source", "dest", "plan_path", "backup_dir", "include", "exclude")

    def __init__(
        self,
        *,
        source: str,
        dest: str,
        plan_path: str | None = None,
        plan_name: str = "sync",
        compare: Literal["size_mtime", "checksum", "name"] = "size_mtime",
        delete_extra: bool = False,
        max_deletes: int = 1000,
        backup_dir: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        concurrency: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.dest = source, dest
        self.plan_path, self.plan_name = plan_path, plan_name
        self.compare, self.delete_extra, self.max_deletes = compare, delete_extra, max_deletes
        self.backup_dir, self.include, self.exclude = backup_dir, include, exclude
        self.concurrency = concurrency


class _Scene:
    """The parameters of a task, read and checked."""

    def __init__(self, task: _ShardedSync, run: Run, *, dry_run: bool = False) -> None:
        from flowrunner_provider.core.checkpoint import fingerprint
        from flowrunner_provider.files.options import SyncOptions
        from flowrunner_provider.files.tree import OWN_FOLDER
        from flowrunner_provider.files.uri import apart, no_pattern

        self.source, self.dest = no_pattern(task.source, "source"), no_pattern(task.dest, "dest")
        apart(self.source, self.dest, "dest")
        backup = no_pattern(task.backup_dir, "backup_dir") if task.backup_dir else None
        if backup is not None:
            apart(self.source, backup, "backup_dir")
            apart(self.dest, backup, "backup_dir")
            if backup.root != self.dest.root:
                raise ConfigError(
                    "backup_dir is in another store than dest", field="backup_dir", remedy="name a folder beside dest"
                )
        where = task.plan_path or f"{task.dest.rstrip('/')}/{OWN_FOLDER}"
        self.plans = no_pattern(where, "plan_path")
        if task.plan_path:
            apart(self.source, self.plans, "plan_path")
            apart(self.dest, self.plans, "plan_path")
        self.name = fingerprint("plan", *run.scope[:2], task.plan_name)[:16]
        self.label = f"{where.rstrip('/')}/{self.name}"
        self.options: SyncOptions = SyncOptions(
            compare=task.compare, delete_extra=task.delete_extra, max_deletes=task.max_deletes,
            backup_dir="" if backup is None else backup.path.rstrip("/") or "/",
            include=list(task.include or []), exclude=list(task.exclude or []), concurrency=task.concurrency,
            dry_run=dry_run,
        )  # fmt: skip
        self.work = fingerprint(
            "sharded sync", task.source, task.dest, task.backup_dir, self.options.compare,
            self.options.include, self.options.exclude,
        )  # fmt: skip
        self._run = run

    async def open(self, stack: AsyncExitStack) -> tuple[tuple[Store, str], tuple[Store, str], Folder]:
        """Source and destination, each with its path, and the folder of the plan."""
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.shards.engine import Folder

        stores = await opened(self._run, stack, source=[self.source], dest=[self.dest], plan_path=[self.plans])

        def at(location: Location) -> tuple[Store, str]:
            return stores[location.root], location.path

        store = stores[self.plans.root]
        return at(self.source), at(self.dest), Folder(store, store.join(self.plans.path, self.name))


class FileSyncPlanOperator(_ShardedSync):
    """What has to be copied from the folder ``source`` to the folder ``dest`` is written down, dealt to ``shards``.

    Killed or retried, it lists again and replaces what it had written; nothing else is changed. Both listings are
    complete when it succeeds, too many deletions are refused here, and the shards differ by no more than one file:
    the largest are dealt first, each to the shard with the least to do, where a file counts 256 KiB besides its size.
    The listings are on the worker's disk (some 300 bytes per file), so memory does not grow with them; the plan has
    about 80 bytes per file and a name. See ``sync_task_group()`` for the tasks that follow.

    :param shards: how many tasks will copy, from 1 to 256.
    :param dry_run: only tell the counts and the first names, and write nothing.
    """

    action: ClassVar[str] = "files.sync_plan"

    def __init__(self, *, shards: int, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards = shards
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> SyncPlanResult:
        """List, compare, deal."""
        from flowrunner_provider.files.shards.engine import MOST_SHARDS
        from flowrunner_provider.files.shards.plan import plan_shards

        if isinstance(self.shards, bool) or not isinstance(self.shards, int) or not 1 <= self.shards <= MOST_SHARDS:
            raise ConfigError(
                f"shards is {self.shards!r}", field="shards", remedy=f"write a whole number from 1 to {MOST_SHARDS}"
            )
        scene = _Scene(self, run, dry_run=self.only_plan)
        async with AsyncExitStack() as stack:
            source, dest, folder = await scene.open(stack)
            return await plan_shards(
                source, dest, run, scene.options, shards=self.shards, work=scene.work, folder=folder, label=scene.label
            )


class FileSyncShardOperator(_ShardedSync):
    """Every file that ``files.sync_plan`` has dealt to this shard is in ``dest`` as it is in ``source`` now.

    Killed or retried, it goes on where it was, also within a file, and touches no other shard's files; readers of
    ``dest`` find the old file or the new one, never a part. A file that has changed since the plan was made is copied
    as it is now, one that is gone is left out. Nothing is listed and nothing deleted. Cleared after a success, it
    copies its shard once more.

    :param shard: which one, from 0.
    """

    action: ClassVar[str] = "files.sync_shard"

    def __init__(self, *, shard: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    async def perform(self, run: Run) -> ShardResult:
        """Copy."""
        from flowrunner_provider.files.shards.run import run_shard

        if isinstance(self.shard, bool) or not isinstance(self.shard, int):
            raise ConfigError(f"shard is {self.shard!r}", field="shard", remedy="write a whole number from 0")
        scene = _Scene(self, run)
        async with AsyncExitStack() as stack:
            source, dest, folder = await scene.open(stack)
            return await run_shard(source, dest, run, scene.options, number=self.shard, work=scene.work, folder=folder)


class FileSyncFinishOperator(_ShardedSync):
    """The folder ``dest`` holds every chosen file of ``source``, and with ``delete_extra`` no others; the plan is gone.

    Killed or retried, it lists again and goes on. It compares both complete listings, copies what has changed since
    the plan was made, and only then deletes what is extra: never if a listing fails or if it were more than
    ``max_deletes`` over all attempts. With ``compare="checksum"`` the shards have compared the bytes, so that sizes
    are compared here. It costs the two listings; the listings are on the worker's disk.
    """

    action: ClassVar[str] = "files.sync_finish"

    async def perform(self, run: Run) -> SyncFinishResult:
        """Compare, delete, tidy up."""
        from flowrunner_provider.files.shards.run import finish

        scene = _Scene(self, run)
        async with AsyncExitStack() as stack:
            source, dest, folder = await scene.open(stack)
            return await finish(
                source, dest, run, scene.options, work=scene.work, folder=folder, parent=scene.plans.path
            )
