"""500,000 rows of 8 columns out of PostgreSQL: ours as a task runs it, psql's ``\\copy``, and the driver's own loop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Contender, Workload
from tests.benchmarks.http_download import scratch

ROWS = 500_000
TABLE = f"""
CREATE TABLE orders AS SELECT g::bigint AS id, 'customer ' || g % 5000 AS customer,
    (g * 1.01)::numeric(12, 2) AS amount, g / 7.0::float8 AS share, g % 2 = 0 AS paid,
    date '2024-01-01' + g % 900 AS day,
    timestamptz '2024-01-01' + g * interval '1 second' AS at, md5(g::text) AS note
FROM generate_series(1, {ROWS}) AS g
"""


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    from tests.support.postgres import postgres

    folder = scratch()
    try:
        with postgres() as cluster:
            database = cluster.database()
            with database.connect() as connection:
                connection.execute(TABLE.encode())
                connection.execute("VACUUM ANALYZE orders")
            yield {"dsn": database.dsn, "folder": str(folder), "connection": as_connection(database)}
    finally:
        shutil.rmtree(folder)


def as_connection(database: Any) -> str:
    """The Airflow connection as JSON."""
    fields = {"host": database.host, "port": database.port, "login": database.user, "password": database.password}
    return json.dumps({"conn_type": "postgres", "schema": database.name, **fields})


def psql(scene: dict[str, Any]) -> Iterator[None]:
    target = Path(scene["folder"]) / "psql.csv"
    yield
    subprocess.run(["psql", scene["dsn"], "-qc", f"\\copy orders TO '{target}' CSV HEADER"], check=True)
    whole(target)


def psycopg_loop(scene: dict[str, Any]) -> Iterator[None]:
    import psycopg

    target = Path(scene["folder"]) / "psycopg.csv"
    yield
    statement = "COPY orders TO STDOUT (FORMAT csv, HEADER)"
    with psycopg.connect(scene["dsn"]) as connection, target.open("wb") as file:  # noqa: SIM117
        with connection.cursor().copy(statement) as rows:
            for row in rows:
                file.write(row)
    whole(target)


def ours(name: str) -> Contender:
    def contender(scene: dict[str, Any]) -> Iterator[None]:
        from flowrunner_provider.database.operators import SqlExportOperator
        from tests.support.context import FileStateStore, execute, make_context

        os.environ["AIRFLOW_CONN_WAREHOUSE"] = scene["connection"]
        state, target = Path(tempfile.mkdtemp()), Path(scene["folder"]) / name
        small = SqlExportOperator(task_id="w", conn_id="warehouse", sql="SELECT 1 AS a", dest=f"{target}.{name}")
        execute(small, make_context(small, state=FileStateStore(state / "warm")))
        operator = SqlExportOperator(task_id="t", conn_id="warehouse", table="orders", dest=str(target))
        context = make_context(operator, state=FileStateStore(state / "state"))
        yield
        result = execute(operator, context)
        shutil.rmtree(state)
        if name.endswith(".csv"):
            whole(target)
        if result["rows"] != ROWS:
            raise AssertionError(f"{result['rows']} rows")

    return contender


def whole(path: Path) -> None:
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    path.unlink()
    if lines != ROWS + 1:
        raise AssertionError(f"{path} has {lines} lines")


WORKLOAD = Workload(
    title=f"sql.export of {ROWS:,} rows x 8 columns from PostgreSQL",
    contenders={
        "psql \\copy": psql,
        "sql.export to CSV": ours("ours.csv"),
        "psycopg COPY, row by row": psycopg_loop,
        "sql.export to Parquet": ours("ours.parquet"),
    },
    reference="psql \\copy",
    scene=scene,
)
