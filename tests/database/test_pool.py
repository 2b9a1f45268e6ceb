"""Connection pools: limits, reset connections, forks, new credentials, and an external pooler."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, Unavailable
from flowrunner_provider.database.hook import hook_for
from tests.contracts.dialect_transaction import transact
from tests.database.far_side import CONN_ID, FarSide, PostgresFarSide, load_rows
from tests.database.test_sigterm import wait_until
from tests.support.kill import attempt
from tests.support.pgbouncer import pgbouncer

pytestmark = pytest.mark.backend

ENVIRONMENT = f"AIRFLOW_CONN_{CONN_ID.upper()}"
NUMBER = {"postgres": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}


@pytest.fixture
def far(make_server: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = make_server()
    made = replace(made, extra={"flowrunner": {"max_connections": 2}})
    monkeypatch.setenv(ENVIRONMENT, made.connection)
    return made


def number(far: FarSide, session: Any) -> int:
    return int(session.run(NUMBER[far.kind])[0][0])


def test_the_limit_holds_under_threads(far: Any) -> None:
    lock = threading.Lock()
    now, most, seen = 0, 0, set()
    both = threading.Barrier(2)

    def one(first: bool) -> None:
        nonlocal now, most
        with hook_for(CONN_ID).open(Deadline(30)) as session:
            with lock:
                now += 1
                most = max(most, now)
                seen.add(number(far, session))
            if first:
                both.wait(20)
            with lock:
                now -= 1

    threads = [threading.Thread(target=one, args=(n < 2,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(seen)) == (2, 2)


def test_waiting_too_long_for_a_connection(far: Any) -> None:
    with (
        hook_for(CONN_ID).open(Deadline(30)),
        hook_for(CONN_ID).open(Deadline(30)),
        pytest.raises(Unavailable, match="all 2 connections"),
    ):
        hook_for(CONN_ID).open(Deadline(0.1))
    hook_for(CONN_ID).open(Deadline(30)).close()


def test_a_connection_is_reset_before_reuse(far: Any) -> None:
    far.run(f"CREATE TABLE {far.name('t')} (id integer)")
    setting = {"postgres": "SHOW search_path", "mysql": "SELECT @@sql_mode, @@autocommit"}[far.kind]
    dirty = {"postgres": "SET search_path = nowhere", "mysql": "SET sql_mode = '', autocommit = 0"}[far.kind]
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        first, clean = number(far, session), session.run(setting)
        session.begin()
        session.run(f"INSERT INTO {far.name('t')} VALUES (1)")
        session.run("CREATE TEMPORARY TABLE mine (id integer)")
        session.run(dirty)
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        assert number(far, session) == first
        assert session.run(setting) == clean
        session.run("CREATE TEMPORARY TABLE mine (id integer)")
    assert far.rows("t") == []


def test_a_closed_connection_is_replaced(far: Any) -> None:
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        first = number(far, session)
    far.terminate()
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        assert number(far, session) != first


def forked(far: Any) -> tuple[int, int, int]:
    os.environ[ENVIRONMENT] = far.connection
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        before = number(far, session)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        with hook_for(CONN_ID).open(Deadline(30)) as session:
            os.write(write, str(number(far, session)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(read, 20))
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        return before, theirs, number(far, session)


def test_a_forked_child_opens_new_connections(far: Any) -> None:
    outcome = attempt(forked, far)
    assert outcome.ok, outcome.error
    before, theirs, after = outcome.result
    assert theirs != before == after


LISTED = {
    "postgres": "SELECT pid FROM pg_stat_activity",
    "mysql": "SELECT id FROM information_schema.PROCESSLIST",
}


def test_new_credentials_end_the_idle_connections(far: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IAM token differs each time: connections with old tokens do not accumulate."""
    numbers = set()
    held = hook_for(CONN_ID).open(Deadline(30))
    numbers.add(number(far, held))
    for seconds in range(10, 15):
        options = {"max_connections": 2, "connect_timeout": seconds}
        monkeypatch.setenv(ENVIRONMENT, replace(far, extra={"flowrunner": options}).connection)
        with hook_for(CONN_ID).open(Deadline(30)) as session:
            numbers.add(number(far, session))
    held.close()
    assert len(numbers) == 6
    wait_until(lambda: len(numbers & {row[0] for row in far.run(LISTED[far.kind])}) <= 1)
    with hook_for(CONN_ID).open(Deadline(30)) as session:
        assert number(far, session) in numbers


def test_a_limit_of_zero(far: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, replace(far, extra={"flowrunner": {"max_connections": 0}}).connection)
    with pytest.raises(ConfigError) as caught:
        hook_for(CONN_ID).open(Deadline(10))
    assert caught.value.field == "max_connections"


def test_behind_a_pooler(make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction may use another server connection: no prepared statements and no leftover settings."""
    far = make_postgres()
    far.run(f"CREATE TABLE {far.name('stock')} (id integer PRIMARY KEY, n integer)")
    far.run(f"INSERT INTO {far.name('stock')} SELECT g, 10 FROM generate_series(1, 20) AS g")
    with pgbouncer(far.database) as pooled:
        away = replace(far, database=pooled)
        monkeypatch.setenv(ENVIRONMENT, away.connection)
        source = far.jsonl([{"id": n, "n": n} for n in range(30)])
        load_rows(away, source, "stock", mode="upsert", keys=["id"])
        threads = [
            threading.Thread(
                target=transact,
                args=(away, *[{"sql": "UPDATE {t} SET n = n + 1 WHERE id = ?", "params": [n]} for n in range(1, 9)]),
                kwargs={"context": {"run_id": f"run{number}"}},
            )
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pooled.connect() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
            assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert [row[1] for row in far.rows("stock")] == [n + 4 * (1 <= n <= 8) for n in range(30)]
