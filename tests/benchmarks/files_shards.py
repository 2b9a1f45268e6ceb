"""A sync in shards, by one worker and by two, beside files.sync in one task; each worker is a process.

What Airflow adds (about two seconds of scheduling and starting for each of the tasks in turn) is not in it. ``plan``
is the planning alone, of a million objects that are made up: seconds, memory, and when the first wave is there.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.shards.plan import plan_shards
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Wave
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.local import LocalStore
from tests.benchmarks.files_plan import FILES, MadeUp
from tests.benchmarks.harness import Contender, Workload
from tests.benchmarks.sftp import ours, scene, target, whole

SHARDS = 4


def _task(kind: str, folder: str, paths: dict[str, str], **more: Any) -> None:
    """One task, as a worker runs it."""
    from flowrunner_provider.files import operators
    from tests.support.context import FileStateStore, execute, make_context

    operator = getattr(operators, kind)(task_id=kind, **paths, **more)
    state = FileStateStore(Path(folder) / f"state-{os.getppid()}-{kind}-{more.get('shard')}")
    execute(operator, make_context(operator, state=state))


def _ready() -> None:
    import asyncssh  # noqa: F401 - what a worker pays once is not the sync's cost

    import flowrunner_provider.files.operators  # noqa: F401


def _shards(scene: dict[str, Any], *, workers: int) -> Iterator[None]:
    os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps({
        "conn_type": "sftp", "host": "127.0.0.1", "port": scene["port"], "login": scene["user"],
        "extra": scene["extra"],
    })  # fmt: skip
    paths = {"source": f"sftp://partner@{scene['folder']}/source", "dest": str(target(scene))}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_ready) as pool:
        for started in [pool.submit(_ready) for _ in range(workers)]:
            started.result()
        yield
        pool.submit(_task, "FileSyncPlanOperator", scene["folder"], paths, shards=SHARDS).result()
        shards = [
            pool.submit(_task, "FileSyncShardOperator", scene["folder"], paths, shard=number)
            for number in range(SHARDS)
        ]
        for shard in shards:
            shard.result()
        pool.submit(_task, "FileSyncFinishOperator", scene["folder"], paths).result()
        yield
    whole(scene)


class Nothing(MadeUp):
    """A store with an empty folder."""

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        for entry in ():
            yield entry


class Watched(PlanFolder):
    """Knows when the first wave was published, and how many files were listed by then."""

    source: MadeUp
    first: tuple[float, int] | None = None

    async def publish(self, wave: Wave, *more: Any) -> bool:
        published = await super().publish(wave, *more)
        self.first = self.first or (time.perf_counter(), self.source.listed)
        return published


def _plan(scene: dict[str, Any], *, dest: MadeUp, copies: int) -> Iterator[None]:
    run, source, folder = Run.alone(), MadeUp(changed=10), tempfile.mkdtemp()
    plan_folder = Watched(LocalStore(), f"{folder}/plan")
    plan_folder.source = source
    yield
    began = time.perf_counter()
    work = plan_shards(
        (source, "/one"), (dest, "/two"), run, SyncOptions(delete_extra=True), shards=8, wave_size=10_000,
        work="work", plan_folder=plan_folder, label="plan",
    )  # fmt: skip
    result = asyncio.run(work)
    yield
    size = sum(path.stat().st_size for path in Path(plan_folder.path).iterdir())
    shutil.rmtree(folder)
    if result.files != copies or plan_folder.first is None:
        raise AssertionError(f"{result.files} copies planned")
    told = {"first_wave_after_s": round(plan_folder.first[0] - began, 1), "listed_by_then": plan_folder.first[1]}
    sys.stderr.write(json.dumps({**told, "waves": result.waves, "plan_bytes": size}) + "\n")


def _workload(title: str, what: str, milliseconds: int) -> Workload:
    contenders: dict[str, Contender] = {
        "files.sync": partial(ours, sync=True),
        f"{SHARDS} shards, 1 worker": partial(_shards, workers=1),
        f"{SHARDS} shards, 2 workers": partial(_shards, workers=2),
    }
    return Workload(
        title=title, contenders=contenders, reference="files.sync", scene=partial(scene, what, milliseconds)
    )


WORKLOADS = {
    "plan": Workload(
        title=f"plan {FILES:,} objects in shards (both sides made up)",
        contenders={
            "1 % of them changed": partial(_plan, dest=MadeUp(), copies=FILES // 100),
            "all of them new": partial(_plan, dest=Nothing(), copies=FILES),
        },
        reference="1 % of them changed",
    ),
    "tree": _workload("sync of 5000 files of 8 KiB over SFTP", "tree", 0),
    "tree_far": _workload("sync of 500 files of 8 KiB over SFTP, 20 ms of round trip", "tree", 20),
}
