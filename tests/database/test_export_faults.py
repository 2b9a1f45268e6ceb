"""Exports that are killed, cut, run twice at once, or large."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, Unavailable
from flowrunner_provider.database.operators import SqlExportOperator
from tests.contracts.dialect_export import read
from tests.database.far_side import FarSide, act
from tests.database.test_faults import ENVIRONMENT, KILLS, through
from tests.database.test_faults import Scene as LoadScene
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import attempt, kill_at, random_kills, sweep

pytestmark = pytest.mark.faults

ROWS = 40
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "csv": ("out.csv", {}),
    "files": ("out.jsonl", {"max_rows_per_file": 15}),
    "folders": ("out.csv", {"partition_by": ["part"]}),
    "parquet": ("out.parquet", {"parameters": []}),
}


@dataclass(frozen=True)
class Scene:
    far: FarSide
    case: str

    def prepare(self) -> Scene:
        table = self.far.name("orders")
        self.far.run(f"CREATE TABLE {table} (id integer PRIMARY KEY, note text)")
        values = ", ".join(f"({n}, 'note {n}')" for n in range(1, ROWS + 1))
        self.far.run(f"INSERT INTO {table} VALUES {values}")
        return self


def play(scene: Scene) -> Any:
    os.environ[ENVIRONMENT] = scene.far.connection
    dest, more = CASES[scene.case]
    part = ", CASE WHEN id > 20 THEN 'b' ELSE 'a' END AS part" if scene.case == "folders" else ""
    sql = f"SELECT id, note{part} FROM {scene.far.name('orders')} ORDER BY id"
    return act(scene.far, SqlExportOperator, sql=sql, dest=str(scene.far.folder / dest), chunk_size=16, **more)


def check(scene: Scene) -> None:
    dest, more = CASES[scene.case]
    names = [f"out-{n:05d}.jsonl" for n in (1, 2, 3)] if more.get("max_rows_per_file") else [dest]
    if scene.case == "folders":
        names = [f"part=a/{dest}", f"part=b/{dest}"]
    rows = [row for name in names for row in read(scene.far, name)]
    assert [(int(row[0]), row[1]) for row in rows] == [(n, f"note {n}") for n in range(1, ROWS + 1)]
    assert {path.name for path in scene.far.folder.iterdir()} - {"far.db", "state"} == {
        name.partition("/")[0] for name in names
    }
    assert scene.far.tables() == {"orders"}


@pytest.fixture
def make(make_real: Callable[[], FarSide]) -> Callable[[], FarSide]:
    return make_real


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_kill(make: Callable[[], FarSide], case: str, request: pytest.FixtureRequest) -> None:
    if "sqlite-csv" in request.node.name and KILLS < 10:
        pytest.skip("as the case 'files', and long: with FLOWRUNNER_KILLS=10")
    assert sweep(lambda: Scene(make(), case).prepare(), play, check).kills > 7


@pytest.mark.parametrize("gone", [1, 2])
def test_files_of_a_killed_attempt_without_rows_are_deleted(make: Callable[[], FarSide], gone: int) -> None:
    """Between the two attempts, the last rows of one folder are deleted; files of other runs remain."""
    scene = Scene(make(), "folders").prepare()
    (scene.far.folder / "part=c").mkdir()
    (scene.far.folder / "part=c" / "out.csv").write_text("of another run")
    assert attempt(play, scene, rules=[kill_at("sql.export.after_move", gone)]).signal == signal.SIGKILL
    scene.far.run(f"DELETE FROM {scene.far.name('orders')} WHERE id > 20")
    play(scene)
    there = {str(path.relative_to(scene.far.folder)) for path in scene.far.folder.glob("part=*/*")}
    assert there == {"part=a/out.csv", "part=c/out.csv"}
    assert not list(scene.far.folder.glob(".*"))


def test_kills_at_random(make: Callable[[], FarSide]) -> None:
    random_kills(lambda: Scene(make(), "files").prepare(), play, check, count=KILLS)


def test_a_failure_leaves_no_files(make: Callable[[], FarSide]) -> None:
    """The error occurs in the middle of the rows."""
    scene = Scene(make(), "csv").prepare()
    os.environ[ENVIRONMENT] = scene.far.connection
    zero = {
        "postgres": "1 / (id - 30)",
        "sqlite": "abs(-9223372036854775807 - (id >= 30))",
        "mysql": "9223372036854775807 + (id >= 30)",
    }[scene.far.kind]
    for dest in ("out.csv", "out.jsonl"):
        more = {"max_rows_per_file": 5, "chunk_size": 5, "dest": str(scene.far.folder / dest)}
        with pytest.raises(Exception, match=r"22012|SQLITE_ERROR|1690"):
            act(scene.far, SqlExportOperator, sql=f"SELECT {zero} AS z FROM {scene.far.name('orders')}", **more)
        assert {path.name for path in scene.far.folder.iterdir()} <= {"far.db", "state"}


@pytest.mark.backend
@pytest.mark.parametrize("case", ["csv", "files"])
def test_the_connection_is_cut_anywhere(
    make_server: Callable[[], FarSide], chaos: Callable[[str, int], ChaosProxy], case: str
) -> None:
    scene = Scene(make_server(), case).prepare()
    database = scene.far.database  # type: ignore[attr-defined]
    proxy = chaos(database.host, database.port)
    away = Scene(through(LoadScene(scene.far, "append"), proxy).far, case)
    play(away)
    seen = set()
    for cut in range(1, proxy.bytes["down"], 401):
        scene.far.forget()
        for path in scene.far.folder.glob("out*"):
            path.unlink()
        proxy.toxics = Toxics(cut_down=cut, rst=True, connections=1)
        try:
            play(away)
        except (ConnectionLost, Unavailable) as error:
            seen.add(type(error).__name__)
            assert not list(scene.far.folder.glob("*out*"))
            proxy.reset()
            play(away)
        check(scene)
    assert "ConnectionLost" in seen


@pytest.mark.backend
def test_all_rows_come_from_one_snapshot(make_server: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows inserted or deleted during the export are not visible."""
    from flowrunner_provider.database import export as module

    scene = Scene(make_server(), "files").prepare()

    def failpoint(name: str) -> None:
        if name == "sql.export.after_batch":
            scene.far.run(f"DELETE FROM {scene.far.name('orders')} WHERE id > 20")
            scene.far.run(f"UPDATE {scene.far.name('orders')} SET note = 'changed'")

    monkeypatch.setattr(module, "failpoint", failpoint)
    play(scene)
    check(scene)


def large(far: FarSide, dest: str) -> int:
    """Export 200 MB and return how much the process has grown, in KiB."""
    os.environ[ENVIRONMENT] = far.connection
    many = {
        "postgres": "SELECT g AS id, repeat('x', 2000) AS note FROM generate_series(1, {}) AS g",
        "sqlite": "WITH RECURSIVE s(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM s WHERE g < {})"
        " SELECT g AS id, printf('%.2000c', 'x') AS note FROM s",
        "mysql": "SELECT seq AS id, repeat('x', 2000) AS note FROM seq_1_to_{}",
    }[far.kind]
    grown = 0
    for rows, run_id in ((10, "warm"), (100_000, "large")):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        arguments = {"sql": many.format(rows), "dest": str(far.folder / dest), "chunk_size": 2_000}
        result = act(far, SqlExportOperator, **arguments, context={"run_id": run_id})
        assert result["rows"] == rows
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown


@pytest.mark.parametrize("dest", ["out.csv", "out.jsonl"])
def test_200_mb_in_constant_memory(make: Callable[[], FarSide], dest: str) -> None:
    far = make()
    far.run(f"CREATE TABLE {far.name('orders')} (id integer)")
    outcome = attempt(large, far, dest)
    assert outcome.ok, outcome.error
    assert (far.folder / dest).stat().st_size > 200_000_000
    assert outcome.result < 60 * 1024
    print(f"{far.kind} {dest}: grew by {outcome.result} KiB in {outcome.seconds:.1f} s")
    (far.folder / dest).unlink()
