"""Exports to a store: a real SFTP server, checked on its own disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.dataset
import pytest

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError
from flowrunner_provider.database.operators import SqlExportOperator
from tests.database.far_side import SqliteFarSide, act, connected
from tests.database.test_faults import ENVIRONMENT
from tests.files.far import FAR_SIDES, Disk, connection_of
from tests.files.s3 import side as s3_side
from tests.support.kill import sweep

if TYPE_CHECKING:
    from tests.support.sshd import Sshd

pytestmark = pytest.mark.backend


@dataclass(frozen=True)
class Scene:
    far: SqliteFarSide
    root: Path
    partner: str

    def prepare(self, rows: int = 5) -> Scene:
        self.far.run("CREATE TABLE orders (id integer, note text)")
        values = ", ".join(f"({n}, 'n{n}')" for n in range(1, rows + 1))
        self.far.run(f"INSERT INTO orders VALUES {values}")
        (self.root / "orders-00009.csv").write_text("of an earlier run")
        (self.root / "orders-00009.txt").write_text("somebody else's")
        return self

    @property
    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.root.iterdir() if path.suffix != ".txt"}


@pytest.fixture
def make(make_sqlite: Callable[[], SqliteFarSide], sshd: Sshd, tmp_path: Path, monkeypatch: Any) -> Callable[[], Scene]:
    monkeypatch.setenv(ENVIRONMENT, "")
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: Scene(make_sqlite(), sshd.root(), connection_of(sshd)).prepare()


def export(scene: Scene, name: str = "orders.csv", run_id: str = "r1", **more: Any) -> Any:
    os.environ[ENVIRONMENT], os.environ["AIRFLOW_CONN_PARTNER"] = scene.far.connection, scene.partner
    more = {"table": "orders", "order_by": ["id"], **more}
    return act(
        scene.far,
        SqlExportOperator,
        dest=f"sftp://partner@{scene.root}/{name}",
        context={"run_id": run_id},
        **more,
    )


def play(scene: Scene) -> Any:
    return export(scene, max_rows_per_file=2)


def check(scene: Scene) -> None:
    assert scene.files == {
        "orders-00001.csv": "id,note\n1,n1\n2,n2\n",
        "orders-00002.csv": "id,note\n3,n3\n4,n4\n",
        "orders-00003.csv": "id,note\n5,n5\n",
    }
    assert list(Path(tempfile.gettempdir()).glob("flowrunner-export-*")) == []


def test_one_file(make: Callable[[], Scene]) -> None:
    scene = make()
    result = export(scene, "new/folder/all.csv")
    assert (scene.root / "new/folder/all.csv").read_text() == "id,note\n1,n1\n2,n2\n3,n3\n4,n4\n5,n5\n"
    assert (result["path"], result["rows"]) == (f"sftp://partner@{scene.root}/new/folder/all.csv", 5)
    export(scene, "all.parquet", "r2")
    assert (scene.root / "all.parquet").read_bytes()[:4] == b"PAR1"
    nothing = export(scene, "none.csv", "r3", sql="SELECT * FROM orders WHERE 0", table=None, skip_if_empty=True)
    assert nothing["files"] == []
    assert not (scene.root / "none.csv").exists()


def test_several_files(make: Callable[[], Scene]) -> None:
    scene = make()
    result = play(scene)
    assert [one["path"].rpartition("/")[2] for one in result["files"]] == sorted(scene.files)
    check(scene)


def test_a_failure_keeps_the_old_file(make: Callable[[], Scene]) -> None:
    scene = make()
    (scene.root / "all.csv").write_text("old")
    with pytest.raises(IntegrityError, match="expected were 7"):
        export(scene, "all.csv", expected_rows=7)
    for dest, more in [("all.txt", {}), ("folder/", {}), ("*.csv", {}), ("all.csv", {"sql": "SELECT 1"})]:
        with pytest.raises(ConfigError):
            export(scene, dest, **more)
    os.environ["AIRFLOW_CONN_PARTNER"] = "x"
    with pytest.raises(FlowRunnerError) as caught:
        act(scene.far, SqlExportOperator, dest="sftp://nobody@/a.csv", table="orders")
    assert caught.value.remedy
    assert (scene.root / "all.csv").read_text() == "old"


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_every_kill(make: Callable[[], Scene]) -> None:
    assert sweep(make, play, check, at=lambda point: "sql.export" in point and "write" not in point).kills > 12


ORDERS = [
    (1, "a", 2025), (2, "b/c", 2025), (3, "é=%2F", 2026), (4, None, 2026), (5, "a", 2026), (6, "..", 2025),
    (7, "a b#?&+", 2025), (8, "a", 2025),
]  # fmt: skip


@pytest.mark.parametrize("store", ["sftp", "s3"])
def test_partitions_in_a_store_are_read_back(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """Another library reads values from the folder names; a second run replaces the files."""
    far = connected(request.getfixturevalue("make_postgres")(), monkeypatch)
    side = {"sftp": FAR_SIDES["sftp"], "s3": s3_side}[store](request, tmp_path / "side")
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    far.run(f"CREATE TABLE {far.name('orders')} (id integer, region text, year integer, price numeric(9, 2))")
    with far.database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {far.name('orders')} VALUES (%s, %s, %s, 1.5)".encode(), ORDERS)
    arguments = {"table": far.name("orders"), "partition_by": ["region", "year"], "order_by": ["id"]}
    for run_id in ("1", "2"):
        dest = side.uri("exports/orders.parquet")
        result = act(far, SqlExportOperator, dest=dest, max_rows_per_file=1, **arguments, context={"run_id": run_id})
        assert (result["rows"], len(result["files"])) == (8, 8)
        assert len(side.far.names()) == 8
        copy = Disk(tmp_path / f"copy-{run_id}")
        for name, data in side.all().items():
            copy.put(name, data)
        fields = [("region", pyarrow.string()), ("year", pyarrow.int32())]
        scheme = pyarrow.dataset.partitioning(pyarrow.schema(fields), flavor="hive")
        found = pyarrow.dataset.dataset(copy.path / "exports", partitioning=scheme).to_table().to_pylist()
        assert sorted((row["id"], row["region"], row["year"]) for row in found) == ORDERS
        assert {row["price"] for row in found} == {Decimal("1.50")}
