"""Kills, zombies, lost connections: the rows are stored exactly once, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    Fenced,
    FlowRunnerError,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    Rejected,
    TimedOut,
    Unavailable,
)
from tests.database.far_side import CONN_ID, FarSide, MysqlFarSide, PostgresFarSide, SqliteFarSide, load_rows
from tests.database.mssql_far_side import FakeFarSide, LiveFarSide
from tests.database.stage import commit_unanswered, two_at_once
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import double_kill, random_kills, sweep

pytestmark = pytest.mark.faults

ENVIRONMENT = f"AIRFLOW_CONN_{CONN_ID.upper()}"
KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "4"))
OLD = [(1, "old"), (900, "old")]
NEW = [(n, f"new {n}") for n in range(1, 41)]
EXPECTED = {
    "append": sorted([*NEW[1:], *OLD]),
    "truncate": NEW,
    "replace": NEW,
    "upsert": [*NEW, (900, "old")],
    "reject": sorted([*NEW[1:], *OLD]),
    "create": NEW,
}


@dataclass(frozen=True)
class Scene:
    """One load into one database.

    :param case: a mode, ``create``, or ``reject``.
    """

    far: FarSide
    case: str

    def arguments(self) -> dict[str, Any]:
        rejects = {"on_bad_row": "reject", "reject_path": str(self.far.folder / "rejected.jsonl")}
        return {
            "append": {},
            "truncate": {"mode": "truncate"},
            "replace": {"mode": "replace"},
            "upsert": {"mode": "upsert", "keys": ["id"]},
            "create": {"create_table": True},
            "reject": rejects,
        }[self.case]

    def prepare(self) -> Scene:
        rows = NEW[1:] if self.case == "append" else NEW
        self.far.write("source.csv", "id,note\n" + "".join(f"{a},{b}\n" for a, b in rows))
        if self.case != "create":
            self.far.run(f"CREATE TABLE {self.far.name('orders')} (id integer PRIMARY KEY, note text)")
            self.far.run(f"INSERT INTO {self.far.name('orders')} VALUES (1, 'old'), (900, 'old')")
        return self


def play(scene: Scene) -> Any:
    os.environ[ENVIRONMENT] = scene.far.connection
    return load_rows(scene.far, str(scene.far.folder / "source.csv"), batch_size=25, **scene.arguments())


def check(scene: Scene) -> None:
    wanted = EXPECTED[scene.case]
    found = [(int(row[0]), row[1]) for row in scene.far.rows()]
    assert sorted(found) == wanted
    assert scene.far.tables() == {"orders", "flowrunner_ledger"}
    assert scene.far.run(f"SELECT count(*) FROM {scene.far.name('flowrunner_ledger')}") == [(1,)]
    left = {path.name for path in scene.far.folder.iterdir()} - {"far.db"}
    assert left == {"source.csv", "state"} | ({"rejected.jsonl"} if scene.case == "reject" else set())
    if scene.case == "reject":
        assert len((scene.far.folder / "rejected.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_every_kill(make: Callable[[], FarSide], case: str) -> None:
    report = sweep(lambda: Scene(make(), case).prepare(), play, check)
    assert report.kills > 7


def test_two_kills_in_a_row(make: Callable[[], FarSide]) -> None:
    double_kill(lambda: Scene(make(), "replace").prepare(), play, check, limit=2 * KILLS)


def test_kills_at_random(make: Callable[[], FarSide]) -> None:
    random_kills(lambda: Scene(make(), "upsert").prepare(), play, check, count=KILLS)


def test_two_at_once(make: Callable[[], FarSide]) -> None:
    scene = Scene(make(), "append").prepare()
    two_at_once(play, scene)
    check(scene)


# -- the network ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(make_server: Callable[[], FarSide], chaos: Callable[[str, int], ChaosProxy]) -> tuple[Scene, ChaosProxy]:
    """A scene whose connection goes through a proxy; ``check`` connects to the server directly."""
    scene = Scene(make_server(), "append").prepare()
    database = scene.far.database  # type: ignore[attr-defined]
    return scene, chaos(database.host, database.port)


def through(scene: Scene, proxy: ChaosProxy) -> Scene:
    far: Any = scene.far
    return replace(scene, far=replace(far, database=far.database.at(proxy.host, proxy.port)))


@pytest.mark.backend
@pytest.mark.parametrize("rst", [False, True])
def test_the_connection_is_cut_anywhere(proxied: tuple[Scene, ChaosProxy], rst: bool) -> None:
    """Cut after every 997th byte, in both directions: also in COPY and at COMMIT."""
    scene, proxy = proxied
    away = through(scene, proxy)
    play(away)
    check(scene)
    total, step = proxy.bytes["up"], 997
    seen = set()
    for cut in range(1, total, step):
        for direction in ("cut_up", "cut_down"):
            scene.far.run(f"DELETE FROM {scene.far.name('orders')} WHERE note <> 'old'")
            scene.far.run(f"DELETE FROM {scene.far.name('flowrunner_ledger')}")
            scene.far.forget()
            proxy.toxics = Toxics(**{direction: cut}, rst=rst, connections=1)
            try:
                play(away)
                seen.add("ok")
            except (ConnectionLost, OutcomeUnknown, Unavailable) as error:
                seen.add(type(error).__name__)
                proxy.reset()
                play(away)
            check(scene)
    assert "ConnectionLost" in seen


@pytest.mark.backend
def test_the_answer_to_commit_is_lost(proxied: tuple[Scene, ChaosProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMIT arrives, its reply does not: the attempt reads the ledger at once and succeeds."""
    from flowrunner_provider.database import load as module

    scene, proxy = proxied
    asked = commit_unanswered(monkeypatch, module, "sql.load", proxy)
    assert play(through(scene, proxy))["rows"] == len(NEW) - 1
    assert asked()
    check(scene)


@pytest.mark.backend
def test_the_server_is_gone_at_commit_and_stays_away(
    proxied: tuple[Scene, ChaosProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is unknown: OutcomeUnknown, and the retry finds out."""
    from flowrunner_provider.database import load as module

    scene, proxy = proxied

    def failpoint(name: str) -> None:
        if name == "sql.load.before_commit":
            proxy.refuse()
            proxy.toxics = Toxics(cut_up=0, rst=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "failpoint", failpoint)
        with pytest.raises(OutcomeUnknown) as caught:
            play(through(scene, proxy))
    assert len(caught.value.effect_key) == 40
    assert caught.value.reconcilable
    proxy.reset()
    play(through(scene, proxy))
    check(scene)


@pytest.mark.backend
def test_a_backend_is_terminated_during_copy(
    make_server: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrunner_provider.database import load as module

    scene = Scene(make_server(), "append").prepare()

    def failpoint(name: str) -> None:
        if name == "sql.load.after_batch":
            scene.far.terminate()

    with monkeypatch.context() as patch:
        patch.setattr(module, "failpoint", failpoint)
        with pytest.raises(ConnectionLost, match=r"57P01|broke"):
            play(scene)
    play(scene)
    check(scene)


@pytest.mark.backend
def test_a_silent_server_ends_with_the_deadline(
    proxied: tuple[Scene, ChaosProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrunner_provider.database.dialects import remote

    scene, proxy = proxied
    monkeypatch.setattr(remote, "GRACE", 0.1)
    away = through(scene, proxy)
    monkeypatch.setenv(ENVIRONMENT, away.far.connection)

    from flowrunner_provider.database import load as loading

    def failpoint(name: str) -> None:
        if name == "sql.load.after_ledger":
            proxy.toxics = Toxics(blackhole_down=True, blackhole_up=True)

    monkeypatch.setattr(loading, "failpoint", failpoint)
    with pytest.raises(TimedOut):
        load_rows(away.far, str(away.far.folder / "source.csv"), timeout=1.0)


# -- other transactions --------------------------------------------------------------------------------------


def test_a_lock_of_another_session(make: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(make(), "truncate").prepare()
    play(replace(scene, case="upsert"))  # the ledger is there, the rows too
    options = '{"flowrunner": {"lock_timeout": 0.2}}'
    busy = '{"flowrunner": {"busy_timeout": 0.2}}'
    import json
    import sqlite3

    extra = json.loads(busy if scene.far.kind == "sqlite" else options)
    if scene.far.kind == "mssql":
        extra["flowrunner"] |= json.loads(scene.far.connection)["extra"]["flowrunner"]
    monkeypatch.setenv(ENVIRONMENT, json.dumps({**json.loads(scene.far.connection), "extra": extra}))
    if isinstance(scene.far, SqliteFarSide | FakeFarSide):
        other: Any = sqlite3.connect(scene.far.file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    elif isinstance(scene.far, LiveFarSide):
        other = scene.far.connect().cursor()
        other.execute("BEGIN TRANSACTION")
        other.execute(f"SELECT * FROM {scene.far.name('orders')} WITH (UPDLOCK, HOLDLOCK)")
    else:
        assert isinstance(scene.far, PostgresFarSide | MysqlFarSide)
        other = scene.far.database.connect().cursor()
        other.execute("BEGIN")
        other.execute(f"SELECT * FROM {scene.far.name('orders')} FOR UPDATE")
    with pytest.raises(Unavailable, match=r"55P03|SQLITE_BUSY|1205|1222"):
        load_rows(
            scene.far,
            str(scene.far.folder / "source.csv"),
            mode="truncate",
            context={"run_id": "second"},
        )
    other.execute("ROLLBACK")
    other.close()
    assert len(scene.far.rows()) == 41


@pytest.mark.backend
@pytest.mark.parametrize("code", ["40001", "40P01", "53300"])
def test_serialization_failure_and_deadlock(make_postgres: Callable[[], PostgresFarSide], code: str) -> None:
    """Raised by a trigger on the last row; gone at the retry."""
    scene = Scene(make_postgres(), "append").prepare()
    far = scene.far
    far.run(
        f"CREATE FUNCTION {far.name('fail')}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF NEW.id = 40 THEN RAISE 'no' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
    )
    far.run(
        f"CREATE TRIGGER t BEFORE INSERT ON {far.name('orders')} FOR EACH ROW EXECUTE FUNCTION {far.name('fail')}()"
    )
    with pytest.raises(Unavailable, match=code):
        play(scene)
    far.run(f"DROP TRIGGER t ON {far.name('orders')}")
    play(scene)
    check(scene)


@pytest.mark.backend
def test_a_real_deadlock(make_postgres: Callable[[], PostgresFarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    """We hold row 1 and want row 900; the other session holds row 900 and wants row 1. The load is retried in place."""
    from flowrunner_provider.database import load as module

    scene = Scene(make_postgres(), "upsert").prepare()
    table = scene.far.name("orders")
    other = scene.far.database.connect()  # type: ignore[attr-defined]
    other.execute("SET deadlock_timeout = '10s'")
    other.execute("BEGIN")
    other.execute(f"UPDATE {table} SET note = 'old' WHERE id = 900".encode())
    waiting: list[threading.Thread] = []
    passed: list[str] = []

    def rest() -> None:
        other.execute(f"UPDATE {table} SET note = 'mine' WHERE id = 1".encode())
        other.execute("COMMIT")

    def failpoint(name: str) -> None:
        passed.append(name)
        if name == "sql.load.after_merge" and not waiting:
            # our transaction has row 1 now: let the other one wait for it
            waiting.append(threading.Thread(target=rest))
            waiting[0].start()
            seen = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not scene.far.run(seen):
                pass

    def swallow(session: Any) -> None:
        if passed.count("sql.load.after_merge") == 1:
            session.run(f"UPDATE {table} SET note = 'ours' WHERE id = 900")

    from flowrunner_provider.database.dialects.postgres import PostgresSession

    monkeypatch.setattr(module, "failpoint", failpoint)
    monkeypatch.setattr(PostgresSession, "check_constraints", swallow)
    play(scene)
    waiting[0].join()
    other.close()
    assert passed.count("sql.load.after_merge") == 2
    check(scene)


@pytest.mark.backend
def test_deferred_constraints_are_checked_before_the_commit(make_postgres: Callable[[], PostgresFarSide]) -> None:
    far = make_postgres()
    far.run(f"CREATE TABLE {far.name('parents')} (id integer PRIMARY KEY)")
    far.run(
        f"CREATE TABLE {far.name('orders')} (id integer REFERENCES {far.name('parents')} DEFERRABLE INITIALLY DEFERRED)"
    )
    os.environ[ENVIRONMENT] = far.connection
    with pytest.raises(Rejected, match="23503"):
        load_rows(far, far.jsonl([{"id": 1}]))
    reject = {"on_bad_row": "reject", "reject_path": str(far.folder / "r.jsonl")}
    assert load_rows(far, far.jsonl([{"id": 1}]), **reject)["rejected"] == 1


@pytest.mark.backend
def test_a_trigger_that_drops_rows_fails_the_load(make_postgres: Callable[[], PostgresFarSide]) -> None:
    from flowrunner_provider.core.errors import IntegrityError

    scene = Scene(make_postgres(), "append").prepare()
    far = scene.far
    far.run(
        f"CREATE FUNCTION {far.name('drop')}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    far.run(
        f"CREATE TRIGGER t BEFORE INSERT ON {far.name('orders')} FOR EACH ROW EXECUTE FUNCTION {far.name('drop')}()"
    )
    with pytest.raises(IntegrityError, match="stored 38 of 39"):
        play(scene)
    assert sorted(far.rows()) == OLD


def test_a_newer_attempt_fences_this_one(make: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    from flowrunner_provider.core.lease import Lease, Owner
    from flowrunner_provider.database import load as module
    from flowrunner_provider.runtime.checkpoint_store import TaskStateStore
    from tests.support.context import FileStateStore

    scene = Scene(make(), "append").prepare()

    def failpoint(name: str) -> None:
        if name == "sql.load.before_commit":
            Lease(TaskStateStore(FileStateStore(scene.far.state / "run")), Owner.me()).take()

    with monkeypatch.context() as patch:
        patch.setattr(module, "failpoint", failpoint)
        with pytest.raises(Fenced):
            play(scene)
    assert sorted(scene.far.rows()) == OLD
    play(scene)
    check(scene)


# -- bad input -----------------------------------------------------------------------------------------------

BAD = [
    ({"conn_type": "http", "host": "x"}, ConfigError, "postgres, sqlite"),
    ({"conn_type": "sqlite", "host": ":memory:"}, ConfigError, "memory"),
    ({"conn_type": "sqlite"}, ConfigError, "no database file"),
    ({"conn_type": "sqlite", "host": "/nowhere/a.db"}, NotFound, "CANTOPEN"),
    ({"conn_type": "sqlite", "host": "/tmp/a.db", "extra": {"vfs": "x"}}, ConfigError, "'vfs' is not allowed"),
    ({"conn_type": "sqlite", "host": "/tmp/a.db?mode=memory"}, ConfigError, "mode"),
    ({"conn_type": "postgres", "host": "127.0.0.1", "port": 1}, ConnectionLost, "cannot be reached"),
    ({"conn_type": "postgres", "host": "h", "extra": {"options": "-c x=y"}}, ConfigError, "'options' is not"),
    ({"conn_type": "postgres", "host": "h", "extra": {"service": "x"}}, ConfigError, "'service' is not"),
    ({"conn_type": "postgres", "host": "h", "extra": {"host": "evil"}}, ConfigError, "'host' is not"),
    ({"conn_type": "postgres", "host": "h", "extra": {"sslmode": "none"}}, ConfigError, "sslmode is 'none'"),
    ({"conn_type": "postgres", "host": "h", "extra": {"flowrunner": {"driver": {}}}}, ConfigError, "driver"),
    ({"conn_type": "postgres", "host": "h", "extra": {"flowrunner": {"nope": 1}}}, ConfigError, "nope"),
]


@pytest.mark.parametrize(("connection", "error", "says"), BAD)
def test_bad_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connection: Any, error: type[FlowRunnerError], says: str
) -> None:
    import json

    monkeypatch.setenv(ENVIRONMENT, json.dumps(connection))
    far = SqliteFarSide(tmp_path)
    with pytest.raises(error, match=says):
        load_rows(far, far.jsonl([{"id": 1}]))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"mode": "merge"}, "mode"),
        ({"mode": "upsert"}, "keys"),
        ({"keys": ["id"]}, "keys"),
        ({"mode": "upsert", "keys": "id"}, "keys"),
        ({"mode": "upsert", "keys": ["id", "id"]}, "keys"),
        ({"keep": "last"}, "keep"),
        ({"expected_rows": "many"}, "expected_rows"),
        ({"min_rows": -1}, "min_rows"),
        ({"on_bad_row": "reject"}, "reject_path"),
        ({"reject_path": "/x"}, "reject_path"),
        ({"on_bad_row": "reject", "reject_path": "/x", "mode": "upsert", "keys": ["id"]}, "on_bad_row"),
        ({"table": "a.b.c"}, "table"),
        ({"table": "orders; DROP TABLE x"}, "table"),
        ({"source": 7}, "source"),
        ({"source": "/x/y.txt"}, "source"),
        ({"source": "/x/y.csv", "delimiter": ""}, "delimiter"),
    ],
)
def test_bad_arguments_have_no_effect(tmp_path: Path, arguments: dict[str, Any], field: str) -> None:
    far = SqliteFarSide(tmp_path)
    os.environ[ENVIRONMENT] = far.connection
    given = {"source": far.jsonl([{"id": 1}]), "table": "orders", "create_table": True, **arguments}
    with pytest.raises(ConfigError) as caught:
        load_rows(far, **given)
    assert caught.value.field == field
    assert not far.file.exists()


def test_unknown_connection(tmp_path: Path) -> None:
    far = SqliteFarSide(tmp_path)
    with pytest.raises(ConfigError, match="not defined"):
        load_rows(far, far.jsonl([{"id": 1}]))


def test_the_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv(ENVIRONMENT, '{"conn_type": "postgres", "host": "127.0.0.1"}')
    far = SqliteFarSide(tmp_path)
    with pytest.raises(MissingExtra, match="postgres"):
        load_rows(far, far.jsonl([{"id": 1}]))


@pytest.mark.backend
def test_wrong_password_and_missing_rights(make_postgres: Callable[[], PostgresFarSide]) -> None:
    far = make_postgres()
    source = far.jsonl([{"id": 1}])
    wrong = replace(far, database=replace(far.database, password="wrong-canary"))
    os.environ[ENVIRONMENT] = wrong.connection
    with pytest.raises(AccessDenied, match="refused the login") as caught:
        load_rows(wrong, source)
    assert "wrong-canary" not in str(caught.value)
    far.run(f"CREATE ROLE reader_{far.schema} LOGIN PASSWORD 'reader'")
    far.run(f"CREATE TABLE {far.name('orders')} (id integer)")
    far.run(f"GRANT USAGE ON SCHEMA {far.schema} TO reader_{far.schema}")
    reader = replace(far, database=replace(far.database, user=f"reader_{far.schema}", password="reader"))
    os.environ[ENVIRONMENT] = reader.connection
    with pytest.raises(AccessDenied, match="flowrunner_ledger"):
        load_rows(reader, source)
    os.environ[ENVIRONMENT] = replace(far, database=replace(far.database, name="nope")).connection
    with pytest.raises(NotFound, match="no such database"):
        load_rows(far, source)
