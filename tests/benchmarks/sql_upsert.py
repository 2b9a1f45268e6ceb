"""100,000 rows of CSV, half of them new, into a PostgreSQL table of 5,000,000: ours as a task runs it, and psql's
``COPY`` into a temporary table with ``INSERT ... ON CONFLICT``. ``FLOWRUNNER_UPSERT_ROWS`` makes the table smaller."""

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
from tests.benchmarks.harness import Contender, Workload
from tests.benchmarks.http_download import scratch

ROWS = int(os.environ.get("FLOWRUNNER_UPSERT_ROWS", "5000000"))
GIVEN = 100_000
COLUMNS = ("customer", "amount", "share", "paid", "day", "at", "note")


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    from tests.support.postgres import postgres

    folder = scratch()
    try:
        with postgres() as cluster:
            database, source = cluster.database(), folder / "changes.csv"
            with database.connect() as connection:
                connection.execute(sql_export.TABLE.replace(f"{sql_export.ROWS})", f"{ROWS})").encode())
                connection.execute("ALTER TABLE orders ADD PRIMARY KEY (id)")
                connection.execute("CREATE TABLE warm (id integer PRIMARY KEY)")
                connection.execute("VACUUM ANALYZE orders")
            changed = f"SELECT id + {ROWS - GIVEN // 2}, {', '.join(COLUMNS[:-1])}, 'changed' AS note FROM orders"
            psql(database.dsn, f"\\copy ({changed} WHERE id <= {GIVEN} ORDER BY id) TO '{source}' CSV HEADER")
            header, _, rest = source.read_text().partition("\n")
            source.write_text(f"id,{header.partition(',')[2]}\n{rest}")
            yield {
                "dsn": database.dsn,
                "source": str(source),
                "connection": sql_export.as_connection(database),
            }
    finally:
        shutil.rmtree(folder)


def psql(dsn: str, *commands: str) -> str:
    arguments = [part for command in commands for part in ("-c", command)]
    return subprocess.run(["psql", dsn, "-qAt", *arguments], check=True, capture_output=True, text=True).stdout


def again(scene: dict[str, Any]) -> None:
    psql(scene["dsn"], f"DELETE FROM orders WHERE id > {ROWS}", "VACUUM orders", "CHECKPOINT")


def whole(scene: dict[str, Any]) -> None:
    counts = "SELECT count(*), count(*) FILTER (WHERE note = 'changed') FROM orders"
    if (found := psql(scene["dsn"], counts).strip()) != f"{ROWS + GIVEN // 2}|{GIVEN}":
        raise AssertionError(found)


def on_conflict(scene: dict[str, Any]) -> Iterator[None]:
    again(scene)
    sets = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS)
    yield
    psql(
        scene["dsn"],
        "CREATE TEMP TABLE stage (LIKE orders)",
        f"\\copy stage FROM '{scene['source']}' CSV HEADER",
        f"INSERT INTO orders SELECT * FROM stage ON CONFLICT (id) DO UPDATE SET {sets}",
    )
    yield
    whole(scene)


def ours(action: str) -> Contender:
    """Our operator; an upsert of one row first, so that no import is measured."""

    def contender(scene: dict[str, Any]) -> Iterator[None]:
        from flowrunner_provider.database.operators import SqlLoadOperator, SqlUpsertOperator
        from tests.support.context import FileStateStore, execute, make_context

        again(scene)
        os.environ["AIRFLOW_CONN_WAREHOUSE"] = scene["connection"]
        state = Path(tempfile.mkdtemp())
        common: dict[str, Any] = {"conn_id": "warehouse", "keys": ["id"]}
        warm = SqlUpsertOperator(task_id="w", **common, table="warm", rows=[{"id": 1}])
        execute(warm, make_context(warm, state=FileStateStore(state / "warm"), run_id=f"w{state.name}"))
        common |= {"task_id": "t", "source": scene["source"], "table": "orders"}
        operator = SqlUpsertOperator(**common) if action == "upsert" else SqlLoadOperator(**common, mode="upsert")
        context = make_context(operator, state=FileStateStore(state / "state"), run_id=state.name)
        yield
        execute(operator, context)
        yield
        whole(scene)
        shutil.rmtree(state)

    return contender


WORKLOAD = Workload(
    title=f"upsert of {GIVEN:,} rows x 8 columns of CSV into a PostgreSQL table of {ROWS:,}",
    contenders={
        "COPY to temp + ON CONFLICT": on_conflict,
        "sql.upsert": ours("upsert"),
        "sql.load mode=upsert": ours("load"),
    },
    reference="COPY to temp + ON CONFLICT",
    scene=scene,
)
