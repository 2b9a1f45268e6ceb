"""One sync as several tasks: planned by one, copied by as many as there are shards, finished by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferralTimeout

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import ShardResult, SyncFinishResult, SyncPlanResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.options import SyncOptions
    from flowrunner_provider.files.shards.book import Book
    from flowrunner_provider.files.shards.look import Place
    from flowrunner_provider.files.shards.patience import Patience
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
        self.where, self.label = where, f"{where.rstrip('/')}/{self.name}"
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

    async def open(self, stack: AsyncExitStack) -> tuple[tuple[Store, str], tuple[Store, str], Book]:
        """Source and destination, each with its path, and the folder of the plan."""
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.shards.book import Book

        stores = await opened(self._run, stack, source=[self.source], dest=[self.dest], plan_path=[self.plans])

        def at(location: Location) -> tuple[Store, str]:
            return stores[location.root], location.path

        store = stores[self.plans.root]
        return at(self.source), at(self.dest), Book(store, store.join(self.plans.path, self.name))


class FileSyncPlanOperator(_ShardedSync):
    """What has to be copied from the folder ``source`` to the folder ``dest`` is written down, dealt to ``shards``.

    Killed or retried, it goes on: what it has published stays as it is, what its new listing shows besides is
    published behind that, and no file is dealt twice. Both listings are complete when it succeeds, and not too many
    deletions are ahead; a plan of less than one wave is not published before.

    The plan is published in waves while the listings go on: the first when ``dest`` is listed and 10,000 files of
    ``source`` are, each when it has ``wave_size`` files, or 10 seconds after the last one; not before both listings
    are complete if ``dest`` takes two spellings of a name for one file. A wave is one file, with about 80 bytes
    per file to copy and its name. The shards get equal shares, counted over all waves: the largest files of a wave
    are dealt first, each to the shard with the least to do, where a file counts 256 KiB besides its size. Long
    listings are on the worker's disk (some 300 bytes per file), so memory does not grow with them. See
    ``sync_task_group()`` for the tasks that follow.

    :param shards: how many tasks will copy, from 1 to 256.
    :param wave_size: how many files are published at a time, at most 100,000.
    :param dry_run: only tell the counts and the first names, and write nothing.
    """

    action: ClassVar[str] = "files.sync_plan"

    def __init__(self, *, shards: int, wave_size: int = 10_000, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards, self.wave_size = shards, wave_size
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> SyncPlanResult:
        """List, compare, deal."""
        from flowrunner_provider.files.shards.book import MOST_SHARDS
        from flowrunner_provider.files.shards.plan import MOST_FILES, plan_shards

        for field, value, most in (("shards", self.shards, MOST_SHARDS), ("wave_size", self.wave_size, MOST_FILES)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write a whole number from 1 to {most}")
        scene = _Scene(self, run, dry_run=self.only_plan)
        async with AsyncExitStack() as stack:
            source, dest, book = await scene.open(stack)
            return await plan_shards(
                source, dest, run, scene.options, shards=self.shards, wave_size=self.wave_size, work=scene.work,
                book=book, label=scene.label,
            )  # fmt: skip


class FileSyncShardOperator(_ShardedSync):
    """Every file that ``files.sync_plan`` has dealt to this shard is in ``dest`` as it is in ``source`` now.

    Killed or retried, it goes on where it was, also within a file, and touches no other shard's files; readers of
    ``dest`` find the old file or the new one, never a part. A file that has changed since the plan was made is copied
    as it is now, one that is gone is left out. Nothing is listed and nothing deleted. Cleared after a success, it
    copies its shard once more.

    With ``plan_task`` it begins while the plan is being made, and works off wave after wave. For the next one it
    waits on the worker for up to 20 seconds while the plan's task runs (5 if it does not), then without a slot: in
    the triggerer where that may look at ``plan_path``, else by being started again. If the plan fails, so does the
    shard.

    :param shard: which one, from 0.
    :param plan_task: the task that makes the plan, if this one may start beside it; else the plan must be complete.
    :param plan_timeout: how long to wait for the next wave.
    :param poll_interval: the time between two looks without a slot, at least 5 seconds. A shard that has to be
        started again for each waits longer by and by, up to 5 minutes.
    :param deferrable: wait in the triggerer, if the plan is in a store and not on the worker's disk.
    """

    action: ClassVar[str] = "files.sync_shard"

    def __init__(
        self,
        *,
        shard: int,
        plan_task: str | None = None,
        plan_timeout: str | float | timedelta = "12h",
        poll_interval: str | float | timedelta = "20s",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shard, self.plan_task, self.plan_timeout = shard, plan_task, plan_timeout
        self.poll_interval, self.deferrable = poll_interval, deferrable

    def execute(self, context: Any) -> Any:
        self._resume_after(bool(context.get("task_reschedule_count")))
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """The triggerer saw something new: look from here, and go on."""
        from flowrunner_provider.runtime.trigger import outcome

        self._resume_after(True)

        def go_on(run: Run) -> Any:
            outcome(event)
            return self.perform(run)

        return self.attempt(context, go_on)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """A wait in the triggerer that took too long ends as one on the worker does."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self.execute_complete(context, {"status": "done"})

    def _resume_after(self, waited: bool) -> None:
        """Going on after a wait is no new attempt, so that ``resume=False`` was heeded before."""
        self.resume = self.resume or waited

    async def perform(self, run: Run) -> ShardResult:
        """Copy."""
        from flowrunner_provider.files.shards.patience import Patience
        from flowrunner_provider.files.shards.run import planned_before, run_shard
        from flowrunner_provider.runtime.task_state import task_state

        if isinstance(self.shard, bool) or not isinstance(self.shard, int):
            raise ConfigError(f"shard is {self.shard!r}", field="shard", remedy="write a whole number from 0")
        interval = self._interval()
        patience = Patience(run, parse_duration(self.plan_timeout, "plan_timeout"))
        scene = _Scene(self, run)

        async def wait(place: Place, state: str) -> None:
            if not await patience.in_place(place, state):
                self._give_up_slot(scene, run, place, state, patience, interval)

        task = self.plan_task
        async with AsyncExitStack() as stack:
            source, dest, book = await scene.open(stack)
            return await run_shard(
                source, dest, run, scene.options, shard=self.shard, work=scene.work, book=book, wait=wait,
                state_of=partial(task_state, run.scope[0], run.scope[1], task) if task else planned_before,
            )  # fmt: skip

    def _interval(self) -> timedelta:
        interval = parse_duration(self.poll_interval, "poll_interval")
        if interval < timedelta(seconds=5):
            raise ConfigError(
                f"poll_interval is {self.poll_interval!r}", field="poll_interval", remedy="write at least '5s'"
            )
        return interval

    def _give_up_slot(
        self, scene: _Scene, run: Run, place: Place, state: str, patience: Patience, interval: timedelta
    ) -> None:
        """Wait elsewhere. In the triggerer only while the plan runs: what is deferred may keep a pool's slot, and a
        plan that is to begin may need that one."""
        from flowrunner_provider.files.shards.look import RUNNING
        from flowrunner_provider.files.shards.triggers import WaveTrigger
        from flowrunner_provider.runtime.trigger import sealed

        left = patience.left(place)
        failpoint("files.sync_shard.before_wait")
        if not self.deferrable or state != RUNNING or scene.plans.scheme == "file":
            again = run.clock.now() + patience.pause(interval, left)
            raise AirflowRescheduleException(again)  # type: ignore[no-untyped-call]
        dag_id, run_id = run.scope[:2]
        trigger = WaveTrigger(
            plans=scene.where, name=scene.name, work=scene.work, generation=place.generation, wave=place.wave,
            dag_id=dag_id, run_id=run_id, plan_task=str(self.plan_task), poll_interval=interval.total_seconds(),
        )  # fmt: skip
        self.defer(trigger=sealed(trigger), method_name="execute_complete", timeout=left)


class FileSyncFinishOperator(_ShardedSync):
    """The folder ``dest`` holds every chosen file of ``source``, and with ``delete_extra`` no others; the plan is gone.

    Killed or retried, it lists again and goes on. It begins only if every shard has worked off every wave of the plan.
    It compares both complete listings, copies what has changed since
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
            source, dest, book = await scene.open(stack)
            return await finish(source, dest, run, scene.options, work=scene.work, book=book, parent=scene.plans.path)
