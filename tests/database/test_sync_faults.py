"""Syncs that are killed, cut, or run twice at once: the rows are there exactly once, and the watermark with them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, OutcomeUnknown, Rejected, Unavailable
from flowrunner_provider.database.operators.sync import SqlSyncOperator
from tests.database.far_side import FarSide, act
from tests.database.stage import commit_unanswered
from tests.database.test_faults import ENVIRONMENT, KILLS
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import Attempt, attempt, double_kill, random_kills, sweep

pytestmark = pytest.mark.faults

SOURCE_ENVIRONMENT = "AIRFLOW_CONN_SHOP"
ROWS = [(n, f"note {n}") for n in range(1, 41)]
GONE, KEPT = (900, "gone"), (1, "old")
CASES: dict[str, dict[str, Any]] = {
    "swap": {"replace_by": "swap"},
    "delete": {"replace_by": "delete"},
    "merge": {"mode": "merge", "keys": ["id"], "detect_deletes": True},
    "incremental": {
        "mode": "incremental",
        "keys": ["id"],
        "watermark": "id",
        "detect_deletes": True,
        "schema_drift": "add",
    },
}


@dataclass(frozen=True)
class Scene:
    source: FarSide
    dest: FarSide
    case: str

    def prepare(self) -> Scene:
        note = "body" if self.case == "incremental" else "note"
        self.source.run(f"CREATE TABLE {self.source.name('orders')} (id integer PRIMARY KEY, {note} text)")
        self.dest.run(f"CREATE TABLE {self.dest.name('orders')} (id integer PRIMARY KEY, note text)")
        values = ", ".join(f"({n}, '{text}')" for n, text in ROWS)
        self.source.run(f"INSERT INTO {self.source.name('orders')} VALUES {values}")
        self.dest.run(f"INSERT INTO {self.dest.name('orders')} VALUES {KEPT}, {GONE}")
        return self


def play(scene: Scene) -> Any:
    os.environ[ENVIRONMENT], os.environ[SOURCE_ENVIRONMENT] = scene.dest.connection, scene.source.connection
    tables = {"source_table": scene.source.name("orders"), "table": scene.dest.name("orders")}
    return act(scene.dest, SqlSyncOperator, source_conn_id="shop", batch_size=25, **tables, **CASES[scene.case])


def check(scene: Scene) -> None:
    found = scene.dest.rows()
    if scene.case == "incremental":
        assert [(row[0], row[2]) for row in found] == ROWS
        assert [row[1] for row in found] == ["old", *[None] * 39]
    else:
        assert [tuple(row) for row in found] == ROWS
    assert scene.dest.tables() == {"orders", "flowrunner_ledger"}
    ledger = scene.dest.name("flowrunner_ledger")
    kept = scene.dest.run(f"SELECT details FROM {ledger} WHERE effect_key LIKE 'sync:%'")
    assert kept == [('{"watermark": 40}' if scene.case == "incremental" else None,)]
    assert scene.dest.run(
        f"SELECT count(*) FROM {ledger} WHERE loaded_at IS NULL AND effect_key NOT LIKE 'sync:%'"
    ) == [(0,)]
    assert scene.source.tables() == {"orders"}


@pytest.fixture(params=["sqlite", "postgres", "mysql", "mssql"])
def make(request: pytest.FixtureRequest) -> Callable[[str], Scene]:
    """Makes scenes into each dialect."""
    dest, source = request.getfixturevalue(f"make_{request.param}"), request.getfixturevalue("make_postgres")
    return lambda case: Scene(source(), dest(), case).prepare()


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_kill(make: Callable[[str], Scene], case: str) -> None:
    assert sweep(lambda: make(case), play, check).kills > 7


def test_two_kills_in_a_row(make: Callable[[str], Scene]) -> None:
    double_kill(lambda: make("incremental"), play, check, limit=KILLS)


def test_kills_at_random(make: Callable[[str], Scene]) -> None:
    random_kills(lambda: make("merge"), play, check, count=KILLS)


def test_two_at_once(make: Callable[[str], Scene]) -> None:
    scene = make("incremental")
    outcomes = [running.wait() for running in [Attempt(play, scene, try_number=n) for n in (1, 2)]]
    assert any(outcome.ok for outcome in outcomes)
    assert all(outcome.ok or outcome.error_type == "Fenced" for outcome in outcomes)
    check(scene)


def another_run(scene: Scene, number: int) -> Any:
    """The same sync by another DAG run."""
    os.environ[ENVIRONMENT], os.environ[SOURCE_ENVIRONMENT] = scene.dest.connection, scene.source.connection
    tables = {"source_table": scene.source.name("orders"), "table": scene.dest.name("orders")}
    context = {"run_id": f"run-{number}"}
    return act(scene.dest, SqlSyncOperator, source_conn_id="shop", **tables, **CASES[scene.case], context=context)


def test_runs_of_one_sync_take_turns(make: Callable[[str], Scene]) -> None:
    scene = make("incremental")
    outcomes = [running.wait() for running in [Attempt(another_run, scene, number) for number in (1, 2, 3)]]
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert sorted((outcome.result["since"] or "") for outcome in outcomes) == ["", "40", "40"]
    check(scene)


# -- the network ---------------------------------------------------------------------------------------------


def away(far: Any, proxy: ChaosProxy) -> Any:
    return replace(far, database=far.database.at(proxy.host, proxy.port))


@pytest.fixture(params=["postgres", "mysql"])
def make_remote(request: pytest.FixtureRequest) -> Callable[[str], Scene]:
    """Makes scenes with servers on both sides."""
    dest, source = request.getfixturevalue(f"make_{request.param}"), request.getfixturevalue("make_postgres")
    return lambda case: Scene(source(), dest(), case).prepare()


@pytest.mark.backend
@pytest.mark.parametrize("side", ["source", "dest"])
def test_the_connection_is_cut_anywhere(
    make_remote: Callable[[str], Scene], chaos: Callable[[str, int], ChaosProxy], side: str
) -> None:
    first = make_remote("merge")
    far: Any = getattr(first, side)
    proxy = chaos(far.database.host, far.database.port)
    play(replace(first, **{side: away(far, proxy)}))
    check(first)
    seen = set()
    for direction, name in (("cut_up", "up"), ("cut_down", "down")):
        for cut in range(1, proxy.bytes[name], max(499, proxy.bytes[name] // (2 * KILLS))):
            scene = make_remote("merge")
            remote = replace(scene, **{side: away(getattr(scene, side), proxy)})
            proxy.toxics = Toxics(**{direction: cut}, rst=True, connections=1)
            try:
                play(remote)
            except (ConnectionLost, OutcomeUnknown, Unavailable) as error:
                seen.add(type(error).__name__)
                proxy.reset()
                play(remote)
            proxy.reset()
            check(scene)
    assert "ConnectionLost" in seen


@pytest.mark.backend
@pytest.mark.parametrize("case", ["swap", "incremental"])
def test_the_answer_to_commit_is_lost(
    make_remote: Callable[[str], Scene],
    chaos: Callable[[str, int], ChaosProxy],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    from flowrunner_provider.database.sync import engine as module

    scene = make_remote(case)
    far: Any = scene.dest
    proxy = chaos(far.database.host, far.database.port)
    asked = commit_unanswered(monkeypatch, module, "sql.sync", proxy)
    assert play(replace(scene, dest=away(far, proxy)))["rows"] == 40
    assert asked()
    check(scene)


@pytest.mark.backend
def test_a_destination_that_fails_does_not_wait_for_the_source(
    make_sqlite: Callable[[], FarSide], make_postgres: Callable[[], FarSide]
) -> None:
    """The source would go on for minutes."""
    scene = Scene(make_postgres(), make_sqlite(), "merge").prepare()
    os.environ[ENVIRONMENT], os.environ[SOURCE_ENVIRONMENT] = scene.dest.connection, scene.source.connection
    scene.dest.run("ALTER TABLE orders ADD COLUMN n integer NOT NULL DEFAULT 1 CHECK (n > 0)")
    slow = "SELECT g AS id, 'x' AS note, 0 AS n FROM generate_series(1, 100) AS g WHERE g < 50 OR pg_sleep(60) IS NULL"
    with pytest.raises(Rejected, match="SQLITE_CONSTRAINT"):
        act(
            scene.dest,
            SqlSyncOperator,
            source_conn_id="shop",
            sql=slow,
            table="orders",
            replace_by="delete",
            batch_size=10,
            timeout="20s",
        )


# -- memory --------------------------------------------------------------------------------------------------


def large(scene: Scene, rows: int) -> int:
    """Sync 2 KB rows; how much the process has grown, in KiB."""
    os.environ[ENVIRONMENT], os.environ[SOURCE_ENVIRONMENT] = scene.dest.connection, scene.source.connection
    grown = 0
    for count, run_id in ((10, "warm"), (rows, "large")):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sql = f"SELECT g AS id, repeat('x', 2000) AS note FROM generate_series(1, {count}) AS g"
        arguments = {"source_conn_id": "shop", "sql": sql, "table": scene.dest.name("orders"), "batch_size": 1_000}
        result = act(scene.dest, SqlSyncOperator, **arguments, context={"run_id": run_id})
        assert result["rows"] == count
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown


def test_200_mb_in_constant_memory(make: Callable[[str], Scene]) -> None:
    outcome = attempt(large, make("swap"), 100_000, timeout=120)
    assert outcome.ok, outcome.error
    assert outcome.result < 60 * 1024
