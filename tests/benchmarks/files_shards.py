"""A sync in shards, by one worker and by two, beside files.sync in one task; each worker is a process.

What Airflow adds (about two seconds of scheduling and starting for each of the tasks in turn) is not in it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

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
    "tree": _workload("sync of 5000 files of 8 KiB over SFTP", "tree", 0),
    "tree_far": _workload("sync of 500 files of 8 KiB over SFTP, 20 ms of round trip", "tree", 20),
}
