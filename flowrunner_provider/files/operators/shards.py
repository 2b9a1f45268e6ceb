"""The operators of a sync that is spread over several tasks: plan, copy in shards, finish."""

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
    from flowrunner_provider.files.shards.next_wave import Position
    from flowrunner_provider.files.shards.plan_folder import PlanFolder
    from flowrunner_provider.files.shards.waiting import WaveWait
    from flowrunner_provider.files.store import Store
    from flowrunner_provider.files.uri import Location

__all__ = ["FileSyncFinishOperator", "FileSyncPlanOperator", "FileSyncShardOperator"]


class _ShardedSync(FlowRunnerOperator):
    """The parameters that all tasks of one sync share; give each task the same values.

    :param source: the folder to copy from, e.g. ``sftp://partner@/out/``. A local path must be the same disk on all
        workers.
    :param dest: the folder to copy to, in any store.
    :param plan_path: the folder for plans, in any store that all workers reach. Default: ``.flowrunner`` in ``dest``,
        which syncs ignore. Each plan has its own subfolder.
    :param plan_name: distinguishes several syncs of one DAG.
    :param compare: when two files count as equal: ``size_mtime`` compares size and modification time (with the
        precision of the less precise store), ``checksum`` reads and compares both files, ``name`` compares names only.
    :param delete_extra: in the last task, delete the files that only ``dest`` has.
    :param max_deletes: fail before the first deletion if there are more; the plan already checks this.
    :param backup_dir: a folder in the store of ``dest``, outside of ``dest``. Files are copied there before they are
        replaced, and moved there instead of being deleted.
    :param include: copy only files that match one of these globs. A glob without ``/`` matches the file name in any
        folder.
    :param exclude: globs of files to leave out.
    :param concurrency: how many files each task copies at the same time, at most 64.
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


class _Settings:
    """The validated parameters of a task."""

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
                    "backup_dir is not in the store of dest", field="backup_dir", remedy="name a folder beside dest"
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
            include=task.include or [], exclude=task.exclude or [], concurrency=task.concurrency,
            dry_run=dry_run,
        )  # fmt: skip
        self.work = fingerprint(
            "sharded sync", task.source, task.dest, task.backup_dir, self.options.compare,
            self.options.include, self.options.exclude,
        )  # fmt: skip
        self._run = run

    async def open(self, stack: AsyncExitStack) -> tuple[tuple[Store, str], tuple[Store, str], PlanFolder]:
        """Open the stores; return source and destination, each with its path, and the folder of the plan."""
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.shards.plan_folder import PlanFolder

        stores = await open_stores(self._run, stack, source=[self.source], dest=[self.dest], plan_path=[self.plans])

        def at(location: Location) -> tuple[Store, str]:
            return stores[location.root], location.path

        store = stores[self.plans.root]
        return at(self.source), at(self.dest), PlanFolder(store, store.join(self.plans.path, self.name))


class FileSyncPlanOperator(_ShardedSync):
    """On success, the plan contains every file to copy from ``source`` to ``dest``, divided among ``shards`` tasks.

    A killed or retried task continues: published waves stay as they are, files that a new listing finds in addition
    are published in further waves, and no file is assigned twice.

    Both folders are listed completely, and the number of deletions is checked, before the task succeeds. A plan that
    fits into one wave is published only then. Longer plans are published in waves during the listing, so that shards
    can start: the first wave when ``dest`` and 10,000 files of ``source`` are listed, each further one when it has
    ``wave_size`` files or after 10 seconds. If ``dest`` is case-insensitive, nothing is published before both listings
    are complete.

    A wave is one file, with the name and about 80 bytes per file to copy. The shards get equal shares over all waves:
    the largest files of a wave are assigned first, each to the shard with the least work, where every file counts 256
    KiB in addition to its size. Listings are kept on the worker's disk (about 300 bytes per file), so memory does not
    grow with them. See ``sync_task_group()`` for the tasks that follow.

    :param shards: the number of tasks that copy, 1 to 256.
    :param wave_size: how many files a wave has, at most 100,000.
    :param dry_run: return the counts and the first names without writing a plan.
    """

    action: ClassVar[str] = "files.sync_plan"

    def __init__(self, *, shards: int, wave_size: int = 10_000, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards, self.wave_size = shards, wave_size
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> SyncPlanResult:
        from flowrunner_provider.files.shards.plan import MAX_FILES, plan_shards
        from flowrunner_provider.files.shards.plan_folder import MAX_SHARDS

        for field, value, most in (("shards", self.shards, MAX_SHARDS), ("wave_size", self.wave_size, MAX_FILES)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write a whole number from 1 to {most}")
        settings = _Settings(self, run, dry_run=self.only_plan)
        async with AsyncExitStack() as stack:
            source, dest, plan_folder = await settings.open(stack)
            return await plan_shards(
                source, dest, run, settings.options, shards=self.shards, wave_size=self.wave_size, work=settings.work,
                plan_folder=plan_folder, label=settings.label,
            )  # fmt: skip


class FileSyncShardOperator(_ShardedSync):
    """On success, every file that ``files.sync_plan`` assigned to this shard is in ``dest`` with its current content.

    A killed or retried task resumes where it stopped, also inside a file, and never touches files of other shards.
    Readers of ``dest`` see the old file or the new one, never a partial one. Cleared after a success, it copies its
    shard again.

    A file that changed after the plan was made is copied with its current content; a file that no longer exists is
    left out. The task lists and deletes nothing.

    With ``plan_task``, the shard starts while the plan is still being made, and copies wave after wave. It waits for
    the next wave on the worker for up to 20 seconds if the plan's task is running (else 5), and then without a slot:
    deferred to the triggerer if that can read ``plan_path``, otherwise by rescheduling itself. If the plan fails, the
    shard fails.

    :param shard: the number of this shard, from 0.
    :param plan_task: the id of the task that makes the plan, if this task may start before the plan is complete. None:
        the plan must be complete.
    :param plan_timeout: how long to wait for the next wave before failing.
    :param poll_interval: the time between two checks without a slot, at least 5 seconds. A shard that reschedules
        itself increases it gradually, up to 5 minutes.
    :param deferrable: wait in the triggerer. Has no effect if the plan is on the worker's disk.
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
        """Continue after the trigger fired."""
        from flowrunner_provider.runtime.trigger import outcome

        self._resume_after(True)

        def resume(run: Run) -> Any:
            outcome(event)
            return self.perform(run)

        return self.attempt(context, resume)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Handle a timeout in the triggerer like one on the worker."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self.execute_complete(context, {"status": "done"})

    def _resume_after(self, waited: bool) -> None:
        """Continue after a wait: that is not a new attempt, and ``resume=False`` already had its effect."""
        self.resume = self.resume or waited

    async def perform(self, run: Run) -> ShardResult:
        from flowrunner_provider.files.shards.engine import plan_is_complete, run_shard
        from flowrunner_provider.files.shards.waiting import WaveWait
        from flowrunner_provider.runtime.task_state import task_state

        if isinstance(self.shard, bool) or not isinstance(self.shard, int):
            raise ConfigError(f"shard is {self.shard!r}", field="shard", remedy="write a whole number from 0")
        interval = self._interval()
        wave_wait = WaveWait(run, parse_duration(self.plan_timeout, "plan_timeout"))
        settings = _Settings(self, run)

        async def wait(position: Position, state: str) -> None:
            if not await wave_wait.on_worker(position, state):
                self._give_up_slot(settings, run, position, state, wave_wait, interval)

        task = self.plan_task
        async with AsyncExitStack() as stack:
            source, dest, plan_folder = await settings.open(stack)
            return await run_shard(
                source, dest, run, settings.options, shard=self.shard, work=settings.work,
                plan_folder=plan_folder, wait=wait,
                state_of=partial(task_state, run.scope[0], run.scope[1], task) if task else plan_is_complete,
            )  # fmt: skip

    def _interval(self) -> timedelta:
        interval = parse_duration(self.poll_interval, "poll_interval")
        if interval < timedelta(seconds=5):
            raise ConfigError(
                f"poll_interval is {self.poll_interval!r}", field="poll_interval", remedy="write at least '5s'"
            )
        return interval

    def _give_up_slot(
        self, settings: _Settings, run: Run, position: Position, state: str, wave_wait: WaveWait, interval: timedelta
    ) -> None:
        """Defer or reschedule. A deferred task may keep its pool slot, which a plan that has not started may need, so
        the shard defers only while the plan runs."""
        from flowrunner_provider.files.shards.next_wave import RUNNING
        from flowrunner_provider.files.shards.triggers import WaveTrigger
        from flowrunner_provider.runtime.trigger import sealed

        remaining = wave_wait.remaining(position)
        failpoint("files.sync_shard.before_wait")
        if not self.deferrable or state != RUNNING or settings.plans.scheme == "file":
            start_at = run.clock.now() + wave_wait.pause(interval, remaining)
            raise AirflowRescheduleException(start_at)  # type: ignore[no-untyped-call]
        dag_id, run_id = run.scope[:2]
        trigger = WaveTrigger(
            plans=settings.where, name=settings.name, work=settings.work,
            generation=position.generation, wave=position.wave,
            dag_id=dag_id, run_id=run_id, plan_task=str(self.plan_task), poll_interval=interval.total_seconds(),
        )  # fmt: skip
        self.defer(trigger=sealed(trigger), method_name="execute_complete", timeout=remaining)


class FileSyncFinishOperator(_ShardedSync):
    """On success, the folder ``dest`` contains every selected file of ``source``, with ``delete_extra`` no other
    files, and the plan is removed.

    A killed or retried task lists both folders again and continues.

    The task starts its work only if every shard has copied every wave of the plan. It compares both complete listings,
    copies files that changed after the plan was made, and only then deletes extra files: never after a failed listing,
    and never more than ``max_deletes`` over all attempts. With ``compare="checksum"`` it compares sizes, because the
    shards have compared the content. It costs the two listings, which are kept on the worker's disk.
    """

    action: ClassVar[str] = "files.sync_finish"

    async def perform(self, run: Run) -> SyncFinishResult:
        from flowrunner_provider.files.shards.engine import finish

        settings = _Settings(self, run)
        async with AsyncExitStack() as stack:
            source, dest, plan_folder = await settings.open(stack)
            return await finish(
                source,
                dest,
                run,
                settings.options,
                work=settings.work,
                plan_folder=plan_folder,
                parent=settings.plans.path,
            )
