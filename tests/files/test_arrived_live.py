"""files.arrived in a real Airflow: N files make N asset events although the triggerer is killed in the middle."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.files.far import connection_of
from tests.files.stage import KILLS
from tests.support.airflow_live import LiveAirflow

pytestmark = [pytest.mark.slow, pytest.mark.backend, pytest.mark.faults, pytest.mark.timeout(300)]

DAG = """
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow.providers.standard.operators.empty import EmptyOperator
from flowrunner_provider.files.triggers import FileArrivedTrigger

def inbox(name, path):
    trigger = FileArrivedTrigger(path=path, poll_interval=1, start="beginning", name=name)
    return Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])

with DAG("consumer", schedule=[inbox("near", {near!r}), inbox("far", {far!r})]):
    EmptyOperator(task_id="t")
"""


def test_each_file_makes_one_event_although_the_triggerer_is_killed(tmp_path, postgres, sshd):
    near, far = tmp_path / "near", sshd.root()
    near.mkdir()
    airflow = LiveAirflow(tmp_path / "live", postgres.database(), connections={"partner": connection_of(sshd)})
    airflow.dag("consumer", DAG.format(near=f"{near}/*.csv", far=f"sftp://partner@{far}/*.csv"))

    def drop(numbers: range) -> None:
        for number in numbers:
            for folder in (near, far):
                (folder / f"{number:02}.csv").write_text(str(number))

    def told() -> dict[str, list[str]]:
        rows = airflow.query("SELECT a.name, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id")
        names: dict[str, list[str]] = {"near": [], "far": []}
        for name, extra in rows:
            payload = (json.loads(extra) if isinstance(extra, str) else extra)["payload"]
            names[name] += [file["name"] for file in payload["files"]]
        return {name: sorted(files) for name, files in names.items()}

    def records() -> list[Any]:
        """The newest one of each watcher."""
        newest: dict[int, Any] = {}
        for asset, value in airflow.query("SELECT asset_id, value FROM asset_state_store"):
            record = json.loads(value)
            if "cursor" in record and record["epoch"] > newest.get(asset, {"epoch": 0})["epoch"]:
                newest[asset] = record
        return list(newest.values())

    def all_told(count: int) -> bool:
        """... and settled, so that nothing is told again."""
        settled = [record for record in records() if "open" not in record]
        return all(len(set(files)) >= count for files in told().values()) and len(settled) == 2

    with airflow:
        for part in ("dag-processor", "scheduler", "triggerer"):
            airflow.start(part)
        drop(range(10))
        airflow.until(lambda: all_told(10), "telling the first files")
        airflow.kill("triggerer")
        drop(range(10, 20))
        airflow.start("triggerer", "triggerer-2")
        airflow.until(lambda: all_told(20), "telling the files that came without a triggerer")
        expected = [f"{number:02}.csv" for number in range(20)]
        assert told() == {"near": expected, "far": expected}
        ids = airflow.query("SELECT count(DISTINCT extra->'payload'->>'id') FROM asset_event")
        assert ids == [(40,)]
        if KILLS <= 3:
            return
        # Nightly: it dies with events on their way, which are told again with the same ids, and none is lost.
        drop(range(20, 23))
        airflow.until(lambda: any("open" in record for record in records()), "being in the middle of telling")
        airflow.kill("triggerer-2")
        airflow.start("triggerer", "triggerer-3")
        airflow.until(lambda: all_told(23), "telling the rest")
        for files in told().values():
            assert sorted(set(files)) == [f"{number:02}.csv" for number in range(23)]
        ids = airflow.query("SELECT count(DISTINCT extra->'payload'->>'id') FROM asset_event")
        assert ids == [(46,)]
