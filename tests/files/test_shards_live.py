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

pytestmark = [pytest.mark.slow, pytest.mark.backend, pytest.mark.faults, pytest.mark.timeout(420)]

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from flowrunner_provider.files.task_groups import sync_task_group

for name, executor, source, dest in {rows!r}:
    with DAG(name, schedule=None):
        sync_task_group(
            source=source, dest=dest, shards=4, delete_extra=True, executor=executor,
            retry_delay=timedelta(seconds=1), poll_interval="5s",
        )
"""

IN_A_SHARD = ("files.copy.before_commit", 5)
PLACES = {
    "on_celery": [("files.sync_plan.after_wave", 1), IN_A_SHARD, ("files.sync.before_delete", 1)],
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


BESIDE = """
from airflow.sdk import DAG
from flowrunner_provider.files.task_groups import sync_task_group

for name, executor, source, dest, plans in {rows!r}:
    with DAG(name, schedule=None):
        sync_task_group(
            source=source, dest=dest, plan_path=plans, shards=2, executor=executor, wave_size=100,
            poll_interval="5s", deferrable=True,
        )
"""
GATE = "files.sync_plan.after_wave"


def nearly_the_same(one: Path, two: Path) -> None:
    """Two folders of 10,400 files, of which the second lacks each thirtieth."""
    one.mkdir()
    two.mkdir()
    for number in range(10_400):
        path = one / f"{number:05}"
        path.touch()
        os.utime(path, (LONG_AGO, LONG_AGO))
        if number % 30:
            os.link(path, two / path.name)


def states(airflow: LiveAirflow, dag_id: str) -> dict[str, str]:
    rows = airflow.query(f"SELECT task_id, map_index, state FROM task_instance WHERE dag_id = '{dag_id}'")
    return {task if index < 0 else f"{task}[{index}]": state for task, index, state in rows}


def test_shards_copy_before_the_plan_has_ended(tmp_path, postgres, redis_server, sshd):
    """The plan is held when it has published a wave: its shards copy that, and wait without a slot.

    One slot is enough for all, too; and nobody waits for a plan that has failed.
    """
    require_celery()
    plans = sshd.root()
    dests = {name: tmp_path / name for name in ("on_celery", "on_local", "one_slot", "no_source")}
    executors = dict.fromkeys(dests, "LocalExecutor") | {"on_celery": "CeleryExecutor"}
    gates = {name: tmp_path / f"gate-{name}" for name in ("on_celery", "on_local")}
    for name, dest in dests.items():
        if name in gates:
            nearly_the_same(tmp_path / f"source-{name}", dest)
            os.mkfifo(gates[name])
    planted(tmp_path / "source-one_slot")
    rows = [
        (name, executors[name], str(tmp_path / f"source-{name}"), str(dest), f"sftp://partner@{plans}/{name}")
        for name, dest in dests.items()
    ]
    airflow = LiveAirflow(
        tmp_path / "live",
        postgres.database(),
        executors="CeleryExecutor,LocalExecutor",
        redis=redis_server,
        connections={"partner": connection_of(sshd)},
    )
    airflow.env["AIRFLOW__CORE__PARALLELISM"] = "3"
    airflow.dag("beside", BESIDE.format(rows=rows))
    held = {
        name: [{"point": GATE, "action": "trace", "to": str(gate), "once": f"{gate}-was-reached"}]
        for name, gate in gates.items()
    }

    def copied(name: str) -> bool:
        """The first wave is in dest, the plan still runs, and no shard holds a slot."""
        found = states(airflow, name)
        shards = {found.get(f"sync.shard[{number}]") for number in range(2)}
        return len(list(dests[name].iterdir())) == 10_400 - 347 + 100 and (found["sync.plan"], shards) == (
            "running",
            {"deferred"},
        )

    with airflow:
        for component in ("api-server", "dag-processor", "triggerer"):
            airflow.start(component)
        airflow.start("scheduler", rules=held["on_local"])
        for name in ("worker-1", "worker-2"):
            airflow.start("worker", name, "--celery-hostname", f"{name}@localhost", rules=held["on_celery"])
        airflow.until(lambda: airflow.api.healthy("scheduler", "dag_processor", "triggerer"), "starting Airflow")
        for name in gates:
            airflow.run(name, "run")
        for name, gate in gates.items():
            airflow.until(lambda name=name: copied(name), f"the first wave of {name}", 180)
            assert [*(Path(plans) / name).glob("*/plan.json")]
            assert not [*(Path(plans) / name).glob("*/*-end.json")]
            assert gate.read_text() == f"{GATE}\n"
        for name in gates:
            view = airflow.until(lambda name=name: airflow.finished(name, "run"), f"the run {name}")
            assert view.state == "success", airflow.logs()
            assert hashes(dests[name]) == hashes(tmp_path / f"source-{name}")
            assert {task.tries for task in view.tasks} == {1}
        airflow.kill("scheduler")
        airflow.env["AIRFLOW__CORE__PARALLELISM"] = "1"
        airflow.start("scheduler", "scheduler-of-one-slot")
        airflow.run("one_slot", "run")
        view = airflow.until(lambda: airflow.finished("one_slot", "run"), "the run one_slot")
        assert view.state == "success", airflow.logs()
        assert hashes(dests["one_slot"]) == hashes(tmp_path / "source-one_slot")
        assert not any(Path(plans).iterdir())
        airflow.run("no_source", "run")
        view = airflow.until(lambda: airflow.finished("no_source", "run"), "the run no_source")
        assert view.state == "failed"
        failed = dict.fromkeys(("sync.plan", "sync.shard[0]", "sync.shard[1]"), "failed")
        assert states(airflow, "no_source") == {**failed, "sync.finish": "upstream_failed"}
