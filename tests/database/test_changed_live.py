"""sql.changed in a real Airflow: every row is in one range of the asset's events although the triggerer is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.database.far_side import FarSide, PostgresFarSide, SqliteFarSide
from tests.database.test_faults import KILLS
from tests.support.airflow_live import LiveAirflow
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.backend, pytest.mark.faults, pytest.mark.timeout(300)]

DAG = """
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow.providers.standard.operators.empty import EmptyOperator
from flowrunner_provider.database.triggers import SqlRowTrigger

def orders(name, table):
    trigger = SqlRowTrigger(
        conn_id=name, table=table, watermark="id", batch=4, start="existing", poll_interval=1, name=name
    )
    return Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])

with DAG("consumer", schedule=[orders("here", {here!r}), orders("there", {there!r})]):
    EmptyOperator(task_id="t")
"""


def test_each_row_is_reported_once_although_the_triggerer_is_killed(
    tmp_path: Path,
    postgres: Postgres,
    make_sqlite: Callable[[], SqliteFarSide],
    make_postgres: Callable[[], PostgresFarSide],
) -> None:
    fars: dict[str, FarSide] = {"here": make_sqlite(), "there": make_postgres()}
    for far in fars.values():
        far.run(f"CREATE TABLE {far.name('orders')} (id integer PRIMARY KEY, note text)")
    connections = {name: far.connection for name, far in fars.items()}
    airflow = LiveAirflow(tmp_path / "live", postgres.database(), connections=connections)
    airflow.dag("consumer", DAG.format(**{name: far.name("orders") for name, far in fars.items()}))

    def fill(numbers: range) -> None:
        for far in fars.values():
            far.run(f"INSERT INTO {far.name('orders')} VALUES " + ", ".join(f"({n}, 'canary')" for n in numbers))

    def told() -> dict[str, list[dict[str, Any]]]:
        events = "SELECT a.name, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id ORDER BY e.id"
        ranges: dict[str, list[dict[str, Any]]] = {"here": [], "there": []}
        for name, extra in airflow.query(events):
            assert "canary" not in str(extra)
            ranges[name].append((json.loads(extra) if isinstance(extra, str) else extra)["payload"])
        return ranges

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
        return len(settled) == 2 and all(
            ranges and int(ranges[-1]["until"]["id"]) >= count for ranges in told().values()
        )

    def each_row_is_in_one_range(count: int) -> None:
        """Ranges follow upon each other, from the first row to the last; one that was told twice has one id."""
        for ranges in told().values():
            once = list({one["id"]: one for one in ranges}.values())
            assert [one["after"] and one["after"]["id"] for one in once] == [
                None,
                *(one["until"]["id"] for one in once[:-1]),
            ]
            assert (sum(one["rows"] for one in once), once[-1]["until"]["id"]) == (count, str(count))

    with airflow:
        for part in ("dag-processor", "scheduler", "triggerer"):
            airflow.start(part)
        fill(range(1, 11))
        airflow.until(lambda: all_told(10), "telling the first rows")
        airflow.kill("triggerer")
        fill(range(11, 31))
        airflow.start("triggerer", "triggerer-2")
        airflow.until(lambda: all_told(30), "telling the rows that came without a triggerer")
        each_row_is_in_one_range(30)
        assert all(len({one["id"] for one in ranges}) == len(ranges) for ranges in told().values())
        if KILLS < 10:
            return
        # Nightly: it dies with events on their way, which are told again with the same ids, and none is lost.
        fill(range(31, 43))
        airflow.until(lambda: any("open" in record for record in records()), "being in the middle of telling")
        airflow.kill("triggerer-2")
        airflow.start("triggerer", "triggerer-3")
        airflow.until(lambda: all_told(42), "telling the rest")
        each_row_is_in_one_range(42)
