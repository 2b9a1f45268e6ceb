"""SIGTERM ends database work in time, and the next attempt does what was not stored."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.contracts.dialect_transaction import transact
from tests.database import test_faults as loads
from tests.database import test_sync_faults as syncs
from tests.database import test_transaction_faults as transactions
from tests.database.far_side import FarSide
from tests.support.kill import Attempt
from tests.support.sigterm import GRACE, ended_at

pytestmark = [pytest.mark.faults, pytest.mark.backend]


@pytest.fixture
def make(make_real: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return make_real


@pytest.mark.parametrize("case", ["append", "replace"])
def test_a_load(make: Callable[[], FarSide], case: str) -> None:
    ended = ended_at(lambda: loads.Scene(make(), case).prepare(), loads.play, loads.check, places=5)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


def test_a_transaction(make: Callable[[], FarSide]) -> None:
    ended = ended_at(lambda: transactions.Scene(make()).prepare(), transactions.play, transactions.check, places=5)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


@pytest.mark.parametrize("case", ["merge", "incremental"])
def test_a_sync(make: Callable[[], FarSide], make_postgres: Callable[[], FarSide], case: str) -> None:
    ended = ended_at(lambda: syncs.Scene(make_postgres(), make(), case).prepare(), syncs.play, syncs.check, places=5)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


SLEEPING = {
    "postgres": "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    "mysql": "SELECT 1 FROM information_schema.PROCESSLIST WHERE state = 'User sleep'",
}


def sleep(scene: transactions.Scene) -> Any:
    os.environ[loads.ENVIRONMENT] = scene.far.connection
    slow = {"postgres": "UPDATE {t} SET n = 0 WHERE pg_sleep(60) IS NULL", "mysql": "UPDATE {t} SET n = SLEEP(60)"}
    return transact(scene.far, {"sql": slow[scene.far.kind]})


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_long_statement_is_cancelled(make_server: Callable[[], FarSide]) -> None:
    scene = transactions.Scene(make_server()).prepare()
    sleeping = SLEEPING[scene.far.kind]
    running = Attempt(sleep, scene)
    wait_until(lambda: scene.far.run(sleeping))
    running.kill(signal.SIGTERM)
    assert running.join(GRACE), running.wait(1).output
    ended = running.wait()
    assert ended.error_type == "TransientError", ended.error
    assert "the next attempt goes on" in (ended.error or "")
    if scene.far.kind == "postgres":  # its driver cancels the statement; MariaDB looks for dead clients now and then
        wait_until(lambda: not scene.far.run(sleeping))
    assert scene.far.rows("stock") == [(1, 10), (2, 10)]
