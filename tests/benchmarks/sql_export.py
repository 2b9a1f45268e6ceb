"""500,000 rows of 8 columns out of PostgreSQL: ours as a task runs it, psql's ``\\copy``, and the driver's own loop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
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


def arrow_stream(scene: dict[str, Any]) -> Iterator[None]:
    """The quickest way to Parquet that libraries offer: the driver fills a pipe from which Arrow parses."""
    import psycopg
    import pyarrow
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as parquet

    target = Path(scene["folder"]) / "arrow.parquet"
    types = {
        "id": pyarrow.int64(), "customer": pyarrow.string(), "amount": pyarrow.decimal128(12, 2),
        "share": pyarrow.float64(), "paid": pyarrow.bool_(), "day": pyarrow.date32(),
        "at": pyarrow.timestamp("us", "UTC"), "note": pyarrow.string(),
    }  # fmt: skip
    options = arrow_csv.ConvertOptions(
        column_types=types, true_values=["t"], false_values=["f"], strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )  # fmt: skip
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)

    def fill() -> None:
        statement = "COPY orders TO STDOUT (FORMAT csv, HEADER)"
        with (
            open(writing, "wb", 1 << 18) as pipe,
            psycopg.connect(scene["dsn"]) as connection,
            connection.cursor().copy(statement) as rows,
        ):
            for row in rows:
                pipe.write(row)

    yield
    filling = threading.Thread(target=fill)
    filling.start()
    with open(reading, "rb", 1 << 18) as pipe:
        block = arrow_csv.ReadOptions(block_size=4 << 20)
        batches = arrow_csv.open_csv(pyarrow.PythonFile(pipe), read_options=block, convert_options=options)
        with parquet.ParquetWriter(target, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    filling.join()
    yield
    if parquet.read_metadata(target).num_rows != ROWS:
        raise AssertionError("not whole")
    target.unlink()


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
        yield
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


WORKLOADS = {
    "csv": Workload(
        title=f"sql.export of {ROWS:,} rows x 8 columns from PostgreSQL to CSV",
        contenders={
            "psql \\copy": psql,
            "sql.export": ours("ours.csv"),
            "psycopg COPY, row by row": psycopg_loop,
        },
        reference="psql \\copy",
        scene=scene,
    ),
    "parquet": Workload(
        title=f"sql.export of {ROWS:,} rows x 8 columns from PostgreSQL to Parquet",
        contenders={"COPY > pyarrow.csv > Parquet": arrow_stream, "sql.export": ours("ours.parquet")},
        reference="COPY > pyarrow.csv > Parquet",
        scene=scene,
    ),
}
