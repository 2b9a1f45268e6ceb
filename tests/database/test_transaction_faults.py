"""Transactions that are killed, disconnected, in conflict, or run twice at once: applied exactly once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, OutcomeUnknown, Unavailable
from tests.contracts.dialect_transaction import transact
from tests.database.far_side import FarSide, PostgresFarSide
from tests.database.stage import commit_unanswered, two_at_once
from tests.database.test_faults import ENVIRONMENT, KILLS, through
from tests.database.test_faults import Scene as LoadScene
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import random_kills, sweep

pytestmark = pytest.mark.faults

STATEMENTS = [
    {"sql": "UPDATE {t} SET n = n - 3 WHERE id = ?", "params": [1], "expect_rows": 1},
    {"sql": "UPDATE {t} SET n = n + 3 WHERE id = ?", "params": [2], "expect_rows": 1},
]


@dataclass(frozen=True)
class Scene:
    far: FarSide

    def prepare(self) -> Scene:
        self.far.run(f"CREATE TABLE {self.far.name('stock')} (id integer PRIMARY KEY, n integer)")
        self.far.run(f"INSERT INTO {self.far.name('stock')} VALUES (1, 10), (2, 10)")
        return self


def play(scene: Scene) -> Any:
    os.environ[ENVIRONMENT] = scene.far.connection
    return transact(scene.far, *STATEMENTS)


def check(scene: Scene) -> None:
    assert scene.far.rows("stock") == [(1, 7), (2, 13)]
    assert scene.far.tables() == {"stock", "flowrunner_ledger"}
    assert scene.far.run(f"SELECT count(*) FROM {scene.far.name('flowrunner_ledger')}") == [(1,)]


@pytest.fixture
def make(make_real: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return make_real


def test_every_kill(make: Callable[[], FarSide]) -> None:
    assert sweep(lambda: Scene(make()).prepare(), play, check).kills > 7


def test_kills_at_random(make: Callable[[], FarSide]) -> None:
    random_kills(lambda: Scene(make()).prepare(), play, check, count=KILLS)


def test_two_at_once(make: Callable[[], FarSide]) -> None:
    scene = Scene(make()).prepare()
    two_at_once(play, scene)
    check(scene)


@pytest.mark.backend
def test_the_connection_is_cut_anywhere(
    make_server: Callable[[], FarSide], chaos: Callable[[str, int], ChaosProxy]
) -> None:
    scene = Scene(make_server()).prepare()
    far: Any = scene.far
    proxy = chaos(far.database.host, far.database.port)
    away = Scene(through(LoadScene(scene.far, "append"), proxy).far)
    play(away)
    seen = set()
    for direction in ("cut_up", "cut_down"):
        for cut in range(1, proxy.bytes["up"], 499):
            scene.far.run(f"UPDATE {scene.far.name('stock')} SET n = 10")
            scene.far.run(f"DELETE FROM {scene.far.name('flowrunner_ledger')}")
            scene.far.forget()
            proxy.toxics = Toxics(**{direction: cut}, rst=True, connections=1)
            try:
                play(away)
            except (ConnectionLost, OutcomeUnknown, Unavailable) as error:
                seen.add(type(error).__name__)
                proxy.reset()
                play(away)
            check(scene)
    assert "ConnectionLost" in seen


@pytest.mark.backend
@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_conflict_is_retried_in_place(
    make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    """Another transaction changes the row after our snapshot: 40001, and the second attempt succeeds."""
    from flowrunner_provider.database import transaction as module

    scene = Scene(make_postgres()).prepare()
    passed: list[str] = []

    def failpoint(name: str) -> None:
        passed.append(name)
        if name == "sql.transaction.after_ledger" and passed.count(name) == 1:
            scene.far.run(f"UPDATE {scene.far.name('stock')} SET n = n + 100 WHERE id = 1")

    monkeypatch.setattr(module, "failpoint", failpoint)
    monkeypatch.setenv(ENVIRONMENT, scene.far.connection)
    transact(scene.far, *STATEMENTS, isolation=isolation)
    assert passed.count("sql.transaction.after_ledger") == 2
    assert scene.far.rows("stock") == [(1, 107), (2, 13)]


@pytest.mark.backend
def test_a_real_deadlock_is_retried_in_place(
    make_server: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    """We hold row 1 and want row 2; the other session holds row 2 and wants row 1."""
    from flowrunner_provider.database import transaction as module

    scene = Scene(make_server()).prepare()
    far: Any = scene.far
    table = scene.far.name("stock")
    connection = far.database.connect()
    other = connection.cursor()
    if far.kind == "postgres":
        other.execute("SET deadlock_timeout = '10s'")
    other.execute("BEGIN")
    other.execute(f"UPDATE {table} SET n = n + 100 WHERE id = 2")
    ballast = ", ".join(f"({n}, 0)" for n in range(100, 120))  # InnoDB ends the transaction that has done less
    other.execute(f"INSERT INTO {table} VALUES {ballast}")
    waiting: list[threading.Thread] = []

    def rest() -> None:
        other.execute(f"UPDATE {table} SET n = n + 100 WHERE id = 1")
        other.execute("COMMIT")

    def failpoint(name: str) -> None:
        if name == "sql.transaction.after_statement" and not waiting:
            waiting.append(threading.Thread(target=rest))
            waiting[0].start()
            while not far.waits():
                pass

    monkeypatch.setattr(module, "failpoint", failpoint)
    play(scene)
    waiting[0].join()
    connection.close()
    assert scene.far.rows("stock")[:2] == [(1, 107), (2, 113)]


@pytest.mark.backend
def test_the_answer_to_commit_is_lost(
    make_server: Callable[[], FarSide],
    chaos: Callable[[str, int], ChaosProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flowrunner_provider.database import transaction as module

    scene = Scene(make_server()).prepare()
    far: Any = scene.far
    proxy = chaos(far.database.host, far.database.port)
    away = Scene(through(LoadScene(scene.far, "append"), proxy).far)
    asked = commit_unanswered(monkeypatch, module, "sql.transaction", proxy)
    assert play(away)["rows"] == 2
    assert asked()
    check(scene)
