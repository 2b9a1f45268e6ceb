"""Kills, two runs at once, lost connections: every script once, or a run that says what stopped half way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, OutcomeUnknown, Unavailable
from tests.database.far_side import FarSide, PostgresFarSide
from tests.database.test_faults import ENVIRONMENT, KILLS, through
from tests.database.test_faults import Scene as LoadScene
from tests.database.test_migrate import V1, history, migrate, write
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import Attempt, Outcome, random_kills, sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SCRIPTS = {
    "V1__a.sql": V1,
    "V2__b.sql": "CREATE TABLE {b} (id integer); INSERT INTO {b} VALUES (1); UPDATE {a} SET note = 'one' WHERE id = 1;",
    "R__r.sql": "INSERT INTO {b} VALUES (2);",
}


@dataclass(frozen=True)
class Scene:
    far: FarSide

    def prepare(self, scripts: dict[str, str] = SCRIPTS) -> Scene:
        write(self.far, dict(scripts))
        return self


def play(scene: Scene, run_id: str = "r1", **more: Any) -> Any:
    os.environ[ENVIRONMENT] = scene.far.connection
    return migrate(scene.far, run_id=run_id, **more)


def check(scene: Scene) -> None:
    far = scene.far
    assert far.rows("a") == [(1, "one")]
    assert sorted(far.run(f"SELECT id FROM {far.name('b')}")) == [(1,), (2,)]
    assert [row[2:] for row in history(far)] == [
        ("V1__a.sql", "done"), ("V2__b.sql", "done"), ("R__r.sql", "done"),
    ]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres", "mssql"])
def make(request: pytest.FixtureRequest) -> Callable[[], FarSide]:
    found: Callable[[], FarSide] = request.getfixturevalue(f"make_{request.param}")
    return found


def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(lambda: Scene(make()).prepare(), play, check).kills > 12


def test_kills_at_random(make: Callable[[], FarSide]) -> None:
    random_kills(lambda: Scene(make()).prepare(), play, check, count=KILLS)


def settled(outcome: Outcome) -> bool:
    """Done, or stopped because of a half state."""
    return outcome.ok or outcome.error_type == "IntegrityError"


@pytest.mark.backend
def test_every_kill_where_structures_commit(make_mysql: Callable[[], FarSide]) -> None:
    """Each script has happened with its record, or its record says that it may have stopped half way."""

    def honest(scene: Scene) -> None:
        found = history(scene.far)
        done = [row[2] for row in found if row[3] == "done"]
        assert done == list(SCRIPTS)[: len(done)]
        assert len(done) == 3 or [row[3] for row in found[len(done) :]] == ["running"]
        if len(done) == 3:
            check(scene)

    report = sweep(lambda: Scene(make_mysql()).prepare(), play, honest, done=settled, at=lambda p: "script" in p)
    assert report.kills == 6


ALONE = {"V1__a.sql": V1, "V2__i.sql": "-- flowrunner:no-transaction\nCREATE INDEX CONCURRENTLY i ON {a} (note)"}


@pytest.mark.backend
def test_every_kill_of_a_statement_that_runs_alone(make_postgres: Callable[[], FarSide]) -> None:
    def honest(scene: Scene) -> None:
        assert [row[3] for row in history(scene.far)] in (["done", "running"], ["done", "done"])

    sweep(
        lambda: Scene(make_postgres()).prepare(ALONE), play, honest, done=settled, at=lambda p: p.endswith("statement")
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql", "mssql"])
def test_two_runs_at_once(request: pytest.FixtureRequest, kind: str) -> None:
    more = {f"V{n}__n.sql": f"INSERT INTO {{b}} VALUES ({n})" for n in range(10, 18)}
    scene = Scene(request.getfixturevalue(f"make_{kind}")()).prepare({**SCRIPTS, **more})
    outcomes = [attempt.wait() for attempt in [Attempt(play, scene, f"r{n}") for n in range(3)]]
    assert [outcome.error for outcome in outcomes] == [None] * 3
    done = [script for outcome in outcomes for script in outcome.result["done"]]
    assert sorted(done) == sorted([*SCRIPTS, *more])
    numbers = sorted(row[0] for row in scene.far.run(f"SELECT id FROM {scene.far.name('b')}"))
    assert numbers == [1, 2, *range(10, 18)]


@pytest.mark.backend
def test_an_index_is_built_while_another_run_waits(make_postgres: Callable[[], PostgresFarSide]) -> None:
    """Who waits holds no snapshot: CREATE INDEX CONCURRENTLY would wait for it, and it for the lock."""
    scene = Scene(make_postgres()).prepare(ALONE)
    outcomes = [attempt.wait() for attempt in [Attempt(play, scene, f"r{n}") for n in range(3)]]
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [row[3] for row in history(scene.far)] == ["done", "done"]


@pytest.mark.backend
def test_the_connection_is_cut_anywhere(
    make_postgres: Callable[[], PostgresFarSide], chaos: Callable[[str, int], ChaosProxy]
) -> None:
    far = make_postgres()
    proxy = chaos(far.database.host, far.database.port)
    away = Scene(through(LoadScene(far, "append"), proxy).far).prepare()
    play(away)
    seen = set()
    for direction in ("cut_up", "cut_down"):
        for cut in range(200, 2600, 800):
            far.run("; ".join(f"DROP TABLE {far.name(table)}" for table in ("a", "b", "history")))
            far.forget()
            proxy.toxics = Toxics(**{direction: cut}, rst=True, connections=1)
            try:
                play(away)
            except (ConnectionLost, OutcomeUnknown, Unavailable) as error:
                seen.add(type(error).__name__)
            proxy.reset()
            play(away)
            check(Scene(far))
    assert seen


@pytest.mark.backend
def test_another_run_is_waited_for_no_longer_than_allowed(
    make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = make_postgres()
    scene = Scene(far).prepare()
    with far.database.connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtext('flowrunner:migrations'))")
        monkeypatch.setitem(far.extra, "flowrunner", {"lock_timeout": "1s"})
        with pytest.raises(Unavailable, match="another run"):
            play(scene)
    assert far.tables() == {"history"}
    play(scene)
    check(scene)
