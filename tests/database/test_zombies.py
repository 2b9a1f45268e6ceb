"""Zombies: an attempt that was presumed dead resumes at every failpoint; one effect, and no leftovers.

A zombie stops with its connection open, so the next attempt waits for what it holds (a row of the ledger, a named
lock, SQLite's file), no longer than the connection's ``lock_timeout`` or ``busy_timeout``. A few places of each action
on one database in turn; with ``FLOWRUNNER_KILLS`` every place on all of them.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.dialect_export import read
from tests.database import test_create_table as tables
from tests.database import test_export_faults as exports
from tests.database import test_export_store as stores
from tests.database import test_export_xlsx as workbooks
from tests.database import test_faults as loads
from tests.database import test_maintain as maintenance
from tests.database import test_migrate_alembic as alembic
from tests.database import test_migrate_faults as migrations
from tests.database import test_modify as modifies
from tests.database import test_procedure as procedures
from tests.database import test_reconcile as comparisons
from tests.database import test_sync_faults as syncs
from tests.database import test_transaction_faults as transactions
from tests.database import test_upsert as upserts
from tests.database.far_side import FarSide, load_rows
from tests.database.test_migrate import history, migrate
from tests.files.far import connection_of
from tests.support.kill import TRY_NUMBER, Attempt, Report, attempt, kill_at, zombies
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EVERY = "FLOWRUNNER_KILLS" in os.environ
PATIENCE = 0.8
ENOUGH = 30.0  # for an attempt that waits for nobody
KINDS = ("sqlite", "postgres", "mysql", "mssql")
Make = Callable[[str], Any]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Make:
    """Return a factory of far sides of any dialect."""
    return lambda kind: request.getfixturevalue(f"make_{kind}")()


def in_turn(names: Iterable[str], kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pair every name with every kind, or each with one of them."""
    if EVERY:
        return [(name, kind) for name in names for kind in kinds]
    return [(name, kinds[zlib.crc32(name.encode()) % len(kinds)]) for name in names]


def swept(make: Callable[[], Any], play: Any, check: Any, *places: str, patience: float = PATIENCE) -> Report:
    """Sweep every failpoint, or only those named and the action's last one before the commit."""
    few = (*places, "before_commit")
    chosen = (lambda point: True) if EVERY else (lambda point: point.startswith("sql.") and point.endswith(few))
    return zombies(make, play, check, patience=patience, at=chosen)


# -- in one transaction with the ledger, or with a history ---------------------------------------------------------


def load(case: str) -> tuple[Any, Any, Any]:
    return lambda far: loads.Scene(far, case).prepare(), loads.play, loads.check


PLAYS: dict[str, tuple[Any, Any, Any]] = {
    **{f"load {case}": load(case) for case in sorted(loads.EXPECTED)},
    "upsert": (upserts.prepared, upserts.play, upserts.check),
    "modify": (modifies.prepared, modifies.play, modifies.check),
    "transaction": (lambda far: transactions.Scene(far).prepare(), transactions.play, transactions.check),
    "create": (lambda far: far, tables.made_new, tables.check),
    "create and replace": (tables.old, tables.replaced, tables.check),
    "truncate": (maintenance.prepared, maintenance.truncate, maintenance.truncated),
    "drop": (maintenance.prepared, maintenance.drop, maintenance.dropped),
}
CALLS: dict[str, tuple[Any, Any, Any]] = {
    "outputs": (procedures.prepared, procedures.play, procedures.check),
    "file": (procedures.prepared, procedures.save, procedures.saved),
}


@pytest.mark.parametrize(("name", "kind"), in_turn(PLAYS, KINDS))
def test_work_with_a_ledger(make: Make, name: str, kind: str) -> None:
    prepare, play, check = PLAYS[name]
    swept(lambda: prepare(make(kind)), play, check, "after_swap")


@pytest.mark.parametrize(("name", "kind"), in_turn(CALLS, KINDS[1:]))
def test_procedures(make: Make, name: str, kind: str) -> None:
    prepare, play, check = CALLS[name]
    swept(lambda: prepare(make(kind)), play, check)


@pytest.mark.parametrize(("case", "kind"), in_turn(sorted(syncs.CASES), KINDS))
def test_syncs(make: Make, case: str, kind: str) -> None:
    swept(lambda: syncs.Scene(make("postgres"), make(kind), case).prepare(), syncs.play, syncs.check, "after_swap")


@pytest.mark.backend
def test_partition_swaps(make: Make) -> None:
    swept(lambda: maintenance.partitioned(make("postgres")), maintenance.swap, maintenance.swapped, "after_swap")


@pytest.mark.parametrize("kind", KINDS if EVERY else ["postgres", "mysql"])
def test_migrations(make: Make, kind: str) -> None:
    """Also where DDL commits implicitly: an attempt waits for a running script before it calls it interrupted."""
    swept(lambda: migrations.Scene(make(kind)).prepare(), migrations.play, migrations.check, "after_script")


@pytest.mark.backend
def test_a_script_without_transaction(make: Make) -> None:
    def check(scene: migrations.Scene) -> None:
        assert [row[3] for row in history(scene.far)] == ["done", "done"]

    swept(
        lambda: migrations.Scene(make("postgres")).prepare(migrations.ALONE), migrations.play, check, "after_statement"
    )


UNDO = {"U1__a.sql": "DROP TABLE {a};", "U2__b.sql": "DROP TABLE {b};"}


def migrated(far: FarSide) -> FarSide:
    migrations.play(migrations.Scene(far).prepare({**migrations.SCRIPTS, **UNDO}))
    return far


def undo(far: FarSide) -> Any:
    os.environ[loads.ENVIRONMENT] = far.connection
    return migrate(far, "undo", "u", target="0")


def undone(far: FarSide) -> None:
    assert far.tables() == {"history"}


@pytest.mark.parametrize("kind", KINDS if EVERY else ["mysql"])
def test_undone_migrations(make: Make, kind: str) -> None:
    swept(lambda: migrated(make(kind)), undo, undone)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"] if EVERY else ["postgres"])
def test_alembic(make: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loads.ENVIRONMENT, "")
    swept(lambda: alembic.prepared(make(kind)), alembic.migrate, alembic.check)


# -- what is not waited for ----------------------------------------------------------------------------------------

BOUNDS = {"sqlite": "busy_timeout", "postgres": "lock_timeout", "mysql": "lock_timeout", "mssql": "lock_timeout"}


def impatient(scene: loads.Scene) -> Any:
    """Load with a lock timeout of one second."""
    connection = json.loads(scene.far.connection)
    options = connection.setdefault("extra", {}).setdefault("flowrunner", {})
    options[BOUNDS[scene.far.kind]] = 1
    os.environ[loads.ENVIRONMENT] = json.dumps(connection)
    return load_rows(scene.far, str(scene.far.folder / "source.csv"), **scene.arguments())


@pytest.mark.parametrize("kind", KINDS)
def test_the_wait_for_a_zombie_has_an_end(make: Make, kind: str) -> None:
    """The next attempt reports the lock and asks for a retry; the zombie finishes or is fenced."""
    scene = loads.Scene(make(kind), "append").prepare()
    zombie = Attempt(loads.play, scene, rules=[kill_at("sql.load.after_ledger") | {"action": "stop"}])
    assert zombie.stopped()
    waited = attempt(impatient, scene, try_number=2)
    assert waited.error_type == "Unavailable", waited.error
    assert "retry" in (waited.error or "")
    zombie.thaw()
    assert zombie.wait().error_type == "Fenced"
    assert attempt(loads.play, scene, try_number=3).ok
    loads.check(scene)


def short(scene: loads.Scene) -> Any:
    """Load with a timeout of two seconds, which the server enforces."""
    from flowrunner_provider.database.dialects import remote

    remote.GRACE = 0.0
    os.environ[loads.ENVIRONMENT] = scene.far.connection
    return load_rows(scene.far, str(scene.far.folder / "source.csv"), timeout=2.0, **scene.arguments())


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_zombie_that_never_wakes_is_ended_by_the_server(make: Make, kind: str) -> None:
    """The server ends it when its timeout has passed."""
    scene = loads.Scene(make(kind), "append").prepare()
    zombie = Attempt(short, scene, rules=[kill_at("sql.load.after_ledger") | {"action": "stop"}])
    assert zombie.stopped()
    assert attempt(loads.play, scene, try_number=2).ok
    loads.check(scene)
    zombie.thaw()
    ended = zombie.wait()
    assert ended.error_type == "Fenced", ended.error
    loads.check(scene)


# -- files ---------------------------------------------------------------------------------------------------------

CHANGES = {"rows come": "INSERT INTO {} VALUES " + ", ".join(f"({n}, 'note {n}')" for n in range(41, 61)),
           "rows go": "DELETE FROM {} WHERE id > 20"}  # fmt: skip


@dataclass(frozen=True)
class Changing(exports.Scene):
    """The table changes when the first attempt is presumed dead."""

    change: str = ""


def export_changed(scene: Changing) -> Any:
    mark = scene.far.folder.with_name(f"{scene.far.folder.name}-changed")
    if os.environ[TRY_NUMBER] != "1" and not mark.exists():
        scene.far.run(CHANGES[scene.change].format(scene.far.name("orders")))
        mark.touch()
    return exports.play(scene)


def is_the_table(scene: Changing) -> None:
    """The files hold the current rows of the table, and nothing else is left."""
    folder = scene.far.folder
    files = sorted(path for path in folder.rglob("*out*") if path.is_file())
    rows = [row for path in files for row in read(scene.far, str(path.relative_to(folder)))]
    assert [(int(row[0]), row[1]) for row in rows] == scene.far.rows()
    assert {path.name for path in folder.rglob("*")} - {"far.db"} <= {
        *(path.name for path in files), "part=a", "part=b", "state", *os.listdir(folder / "state"),
        *os.listdir(folder / "state" / "run"),
    }  # fmt: skip


CHANGING = [("files", "rows come"), ("folders", "rows go"), ("files", "rows go"), ("folders", "rows come")]


@pytest.mark.parametrize(("case", "kind"), in_turn(sorted(exports.CASES), KINDS[:3]))
def test_exports(make: Make, case: str, kind: str) -> None:
    swept(
        lambda: exports.Scene(make(kind), case).prepare(), exports.play, exports.check, "after_move", "before_publish"
    )


@pytest.mark.parametrize(("case", "change"), CHANGING if EVERY else CHANGING[:2])
def test_exports_of_rows_that_change(make: Make, case: str, change: str) -> None:
    def prepared() -> Changing:
        scene = Changing(make("sqlite"), case, change)
        scene.prepare()
        return scene

    places = ("after_move", "after_record", "before_publish")

    def at(point: str) -> bool:
        """Skip the failpoints after the end is recorded: then the next attempt has nothing to do."""
        return point.endswith(places) or (EVERY and not point.startswith("run."))

    zombies(prepared, export_changed, is_the_table, patience=ENOUGH, at=at)


@pytest.mark.skipif(not EVERY, reason="long: with FLOWRUNNER_KILLS")
def test_workbooks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "")

    def prepared() -> FarSide:
        far: FarSide = make("sqlite")
        far.run("CREATE TABLE orders (id integer, note text)")
        workbooks.fill(far, 2)
        return far

    swept(prepared, workbooks.play, workbooks.check, patience=ENOUGH)


@pytest.mark.backend
def test_exports_into_a_store(make: Make, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", "")
    monkeypatch.setenv(loads.ENVIRONMENT, "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    swept(
        lambda: stores.Scene(make("sqlite"), sshd.root(), connection_of(sshd)).prepare(),
        stores.play,
        stores.check,
        "before_delete",
        patience=ENOUGH,
    )


@pytest.mark.backend
def test_comparisons(request: pytest.FixtureRequest) -> None:
    def prepared() -> comparisons.Sides:
        sides = comparisons.sides_of(request, "postgres", "sqlite").prepare(*comparisons.ROWS)
        sides.right.run("DELETE FROM orders WHERE id = 1")
        return sides

    swept(prepared, comparisons.play, comparisons.check, "before_diff", patience=ENOUGH)
