"""500,000 rows of 8 columns of CSV into PostgreSQL: ours as a task runs it, and psql's ``\\copy``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import sql_export
from tests.benchmarks.harness import Contender, Workload


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


def loaded(again: Callable[[dict[str, Any], str], None], whole: Callable[[dict[str, Any], str], None]) -> Contender:
    """Our operator; a load of one row first, so that no import is measured.

    :param again: makes the named table anew.
    :param whole: raises unless all rows are in it.
    """

    def ours(scene: dict[str, Any]) -> Iterator[None]:
        from flowrunner_provider.database.operators import SqlLoadOperator
        from tests.support.context import FileStateStore, execute, make_context

        os.environ["AIRFLOW_CONN_WAREHOUSE"] = scene["connection"]
        state = Path(tempfile.mkdtemp())
        first = state / "first.csv"
        with Path(scene["source"]).open() as file:
            first.write_text(file.readline() + file.readline())
        again(scene, "warm")
        warm = SqlLoadOperator(task_id="w", conn_id="warehouse", source=str(first), table="warm")
        execute(warm, make_context(warm, state=FileStateStore(state / "warm"), run_id=f"w{state.name}"))
        again(scene, "by_us")
        operator = SqlLoadOperator(task_id="t", conn_id="warehouse", source=scene["source"], table="by_us")
        context = make_context(operator, state=FileStateStore(state / "state"), run_id=state.name)
        yield
        execute(operator, context)
        yield
        whole(scene, "by_us")
        shutil.rmtree(state)

    return ours


WORKLOAD = Workload(
    title=f"sql.load of {sql_export.ROWS:,} rows x 8 columns of CSV into PostgreSQL",
    contenders={"psql \\copy": psql, "sql.load": loaded(again, whole)},
    reference="psql \\copy",
    scene=scene,
)
