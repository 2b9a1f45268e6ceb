"""500,000 rows of 8 columns of CSV into PostgreSQL: ours as a task runs it, and psql's ``\\copy``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import sql_export
from tests.benchmarks.harness import Workload


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    with sql_export.scene() as made:
        source = Path(made["folder"]) / "source.csv"
        subprocess.run(["psql", made["dsn"], "-qc", f"\\copy orders TO '{source}' CSV HEADER"], check=True)
        yield {**made, "source": str(source)}


def again(scene: dict[str, Any], name: str) -> None:
    sql = f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (LIKE orders)"
    subprocess.run(["psql", scene["dsn"], "-qc", sql], check=True, stderr=subprocess.DEVNULL)


def whole(scene: dict[str, Any], name: str) -> None:
    found = subprocess.check_output(["psql", scene["dsn"], "-Atc", f"SELECT count(*) FROM {name}"])
    if int(found) != sql_export.ROWS:
        raise AssertionError(f"{name} has {found!r} rows")


def psql(scene: dict[str, Any]) -> Iterator[None]:
    again(scene, "by_psql")
    yield
    subprocess.run(["psql", scene["dsn"], "-qc", f"\\copy by_psql FROM '{scene['source']}' CSV HEADER"], check=True)
    yield
    whole(scene, "by_psql")


def ours(scene: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.database.operators import SqlLoadOperator
    from tests.support.context import FileStateStore, execute, make_context

    again(scene, "by_us")
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = scene["connection"]
    state = Path(tempfile.mkdtemp())
    operator = SqlLoadOperator(task_id="t", conn_id="warehouse", source=scene["source"], table="by_us")
    context = make_context(operator, state=FileStateStore(state), run_id=state.name)
    yield
    execute(operator, context)
    yield
    whole(scene, "by_us")
    shutil.rmtree(state)


WORKLOAD = Workload(
    title=f"sql.load of {sql_export.ROWS:,} rows x 8 columns of CSV into PostgreSQL",
    contenders={"psql \\copy": psql, "sql.load": ours},
    reference="psql \\copy",
    scene=scene,
)
