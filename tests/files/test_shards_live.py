"""A sync in shards on a real Airflow: on CeleryExecutor with Redis and two workers, and on LocalExecutor."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.files.far import LONG_AGO, Disk, connection_of
from tests.files.test_sync import hashes
from tests.support.airflow_live import LiveAirflow, require_celery

pytestmark = [pytest.mark.slow, pytest.mark.backend, pytest.mark.faults, pytest.mark.timeout(300)]

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from flowrunner_provider.files.task_groups import sync_task_group

for name, executor, source, dest in {rows!r}:
    with DAG(name, schedule=None):
        sync_task_group(
            source=source, dest=dest, shards=4, delete_extra=True, executor=executor,
            retry_delay=timedelta(seconds=1),
        )
"""

IN_A_SHARD = ("files.copy.before_commit", 5)
PLACES = {
    "on_celery": [("files.sync_plan.before_commit", 3), IN_A_SHARD, ("files.sync.before_delete", 1)],
    "on_local": [IN_A_SHARD],
}


def rules(places: list[tuple[str, int]], folder: Path) -> list[dict[str, Any]]:
    """A kill at each place, once over all processes."""
    folder.mkdir()
    return [{"point": point, "action": "kill", "hit": hit, "once": str(folder / point)} for point, hit in places]


def planted(folder: Path) -> None:
    disk = Disk(folder)
    for number in range(48):
        name = f"{number % 5}/{number:02}"
        disk.put(name, os.urandom(40_000 if number % 7 else 2_000_000))
        os.utime(folder / name, (LONG_AGO, LONG_AGO))


def listening(airflow: LiveAirflow) -> set[str]:
    """The addresses that Airflow's processes listen on."""
    found: set[str] = set()
    for pid in airflow.processes.pids.values():
        with suppress(psutil.NoSuchProcess):
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    sockets = process.net_connections("inet")
                    found |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def test_the_shards_run_on_all_workers_and_what_is_killed_is_done_again(tmp_path, postgres, redis_server, sshd):
    require_celery()
    source = sshd.root()
    planted(source)
    dests = {name: tmp_path / name for name in ("on_celery", "on_local")}
    for dest in dests.values():
        Disk(dest).put("extra", b"x")
    rows = [
        (
            name,
            {"on_celery": "CeleryExecutor", "on_local": "LocalExecutor"}[name],
            f"sftp://partner@{source}",
            str(dest),
        )
        for name, dest in dests.items()
    ]
    airflow = LiveAirflow(
        tmp_path / "live",
        postgres.database(),
        executors="CeleryExecutor,LocalExecutor",
        redis=redis_server,
        connections={"partner": connection_of(sshd)},
    )
    airflow.dag("shards", DAG.format(rows=rows))
    with airflow:
        kills = {name: rules(PLACES[name], tmp_path / f"kills-{name}") for name in dests}
        airflow.start("api-server")
        airflow.start("dag-processor")
        airflow.start("scheduler", rules=kills["on_local"])
        workers = [
            airflow.start("worker", name, "--celery-hostname", f"{name}@localhost", rules=kills["on_celery"])
            for name in ("worker-1", "worker-2")
        ]
        airflow.until(lambda: airflow.api.healthy("scheduler", "dag_processor"), "starting Airflow")
        for name in dests:
            airflow.run(name, "run")
        for name, dest in dests.items():
            view = airflow.until(lambda name=name: airflow.finished(name, "run"), f"the run {name}")
            assert view.state == "success", airflow.logs()
            assert hashes(dest) == hashes(source)
            tasks = [(task.name, task.tries) for task in view.tasks]
            assert sorted({task for task, _ in tasks}) == ["sync.finish", "sync.plan", "sync.shard"]
            assert sum(tries - 1 for _, tries in tasks) == len(PLACES[name]), tasks
            assert len(list((tmp_path / f"kills-{name}").iterdir())) == len(PLACES[name])
        for worker in workers:
            assert "succeeded in" in airflow.processes.log(worker).read_text(), f"{worker} had nothing to do"
        airflow.processes.expect_alive("scheduler", *workers)
        assert listening(airflow) == {"127.0.0.1"}
