"""Rows from PostgreSQL into another database: ours as a task runs it, and pipes of the servers' own clients.
``FLOWRUNNER_SYNC_ROWS=5000000`` makes the first workload ten times as large; Airflow's own operator has all rows in
memory then."""

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

from tests.benchmarks import sql_export
from tests.benchmarks.harness import Contender, Workload
from tests.benchmarks.http_download import scratch

ROWS = int(os.environ.get("FLOWRUNNER_SYNC_ROWS", sql_export.ROWS))
MARIA_COLUMNS = (
    "id bigint, customer text, amount decimal(12,2), share double, paid tinyint(1), day date, at datetime(6), note text"
)


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    from tests.support.postgres import postgres

    with postgres() as cluster:
        source, dest = cluster.database(), cluster.database()
        with source.connect() as connection:
            connection.execute(sql_export.TABLE.replace(f"{sql_export.ROWS})", f"{ROWS})").encode())
            connection.execute("VACUUM ANALYZE orders")
        yield {
            "source": source.dsn,
            "dest": dest.dsn,
            "shop": sql_export.as_connection(source),
            "warehouse": sql_export.as_connection(dest),
        }


def psql(dsn: str, sql: str) -> str:
    command = ["psql", dsn, "-qAtc", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def columns() -> str:
    return "id bigint, customer text, amount numeric, share float8, paid boolean, day date, at timestamptz, note text"


def fresh(scene: dict[str, Any]) -> None:
    psql(scene["dest"], f"DROP TABLE IF EXISTS orders; CREATE TABLE orders ({columns()})")


def whole(scene: dict[str, Any]) -> None:
    if (found := int(psql(scene["dest"], "SELECT count(*) FROM orders"))) != ROWS:
        raise AssertionError(f"{found} rows")


def piped(scene: dict[str, Any]) -> Iterator[None]:
    fresh(scene)
    yield
    with subprocess.Popen(["psql", scene["source"], "-qc", "COPY orders TO STDOUT"], stdout=subprocess.PIPE) as first:
        subprocess.run(["psql", scene["dest"], "-qc", "COPY orders FROM STDIN"], stdin=first.stdout, check=True)
    yield
    whole(scene)


def connections(scene: dict[str, Any]) -> None:
    os.environ["AIRFLOW_CONN_SHOP"], os.environ["AIRFLOW_CONN_WAREHOUSE"] = scene["shop"], scene["warehouse"]


def synced(scene: dict[str, Any], **more: Any) -> Iterator[None]:
    """Our operator; a run of one row first, so that no import is measured."""
    from flowrunner_provider.database.operators import SqlSyncOperator
    from tests.support.context import FileStateStore, execute, make_context

    connections(scene)
    state = Path(tempfile.mkdtemp())
    ends = {"source_conn_id": "shop", "conn_id": "warehouse"}
    warm = SqlSyncOperator(task_id="w", **ends, sql="SELECT 1 AS id", table="warm")
    execute(warm, make_context(warm, state=FileStateStore(state / "warm"), run_id=f"w{state.name}"))
    operator = SqlSyncOperator(task_id="t", **ends, source_table="orders", table="orders", **more)
    context = make_context(operator, state=FileStateStore(state / "state"), run_id=state.name)
    yield
    execute(operator, context)
    yield
    shutil.rmtree(state)


def ours(**more: Any) -> Contender:
    def contender(scene: dict[str, Any]) -> Iterator[None]:
        fresh(scene)
        psql(scene["dest"], "CREATE TABLE IF NOT EXISTS warm (id bigint)")
        yield from synced(scene, **more)
        whole(scene)

    return contender


def generic_transfer(scene: dict[str, Any]) -> Iterator[None]:
    """Airflow's own operator, with its fastest way into PostgreSQL."""
    from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer

    fresh(scene)
    connections(scene)
    operator = GenericTransfer(
        task_id="t", sql="SELECT * FROM orders", destination_table="orders", source_conn_id="shop",
        destination_conn_id="warehouse", insert_args={"commit_every": 10_000},
    )  # fmt: skip
    yield
    operator.execute({})
    yield
    whole(scene)


# -- into MariaDB ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def maria_scene() -> Iterator[dict[str, Any]]:
    from tests.support.mariadb import mariadb
    from tests.support.tls import Tls

    folder = scratch()
    try:
        with scene() as made, mariadb(Tls.create(folder)) as server:
            database = server.database()
            fields = {"host": database.host, "port": database.port, "login": database.user}
            warehouse = {"conn_type": "mysql", "schema": database.name, "password": database.password, **fields}
            warehouse["extra"] = {"ssl_mode": "DISABLED"}
            yield {**made, "warehouse": json.dumps(warehouse)}
    finally:
        shutil.rmtree(folder)


def maria(scene: dict[str, Any], sql: str) -> Any:
    import pymysql

    fields = json.loads(scene["warehouse"])
    with pymysql.connect(
        host=fields["host"], port=fields["port"], user=fields["login"], password=fields["password"],
        database=fields["schema"], autocommit=True,
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        for statement in sql.split(";"):
            cursor.execute(statement)
        return cursor.fetchall()


def maria_fresh(scene: dict[str, Any]) -> None:
    maria(scene, f"DROP TABLE IF EXISTS orders; CREATE TABLE orders ({MARIA_COLUMNS})")
    maria(scene, "CREATE TABLE IF NOT EXISTS warm (id bigint)")


def maria_whole(scene: dict[str, Any]) -> None:
    if (found := maria(scene, "SELECT count(*) FROM orders")[0][0]) != ROWS:
        raise AssertionError(f"{found} rows")


def fifo(scene: dict[str, Any]) -> Iterator[None]:
    maria_fresh(scene)
    fields = json.loads(scene["warehouse"])
    folder = Path(tempfile.mkdtemp())
    os.mkfifo(folder / "rows")
    select = "SELECT id, customer, amount, share, paid::int, day, at AT TIME ZONE 'UTC', note FROM orders"
    load = f"LOAD DATA LOCAL INFILE '{folder}/rows' INTO TABLE orders CHARACTER SET utf8mb4"
    address = ["-h", fields["host"], "-P", str(fields["port"]), "-u", fields["login"], fields["schema"]]
    yield
    source = f"\\copy ({select}) TO '{folder}/rows'"
    with subprocess.Popen(["psql", scene["source"], "-qc", source]):
        subprocess.run(
            ["mariadb", "--no-defaults", "--local-infile=1", "--skip-ssl", *address, "-e", load], check=True,
            env={**os.environ, "MYSQL_PWD": fields["password"]},
        )  # fmt: skip
    yield
    maria_whole(scene)
    shutil.rmtree(folder)


def maria_ours(scene: dict[str, Any]) -> Iterator[None]:
    maria_fresh(scene)
    yield from synced(scene, replace_by="delete")
    maria_whole(scene)


WORKLOADS = {
    "postgres": Workload(
        title=f"sql.sync of {ROWS:,} rows x 8 columns from PostgreSQL to PostgreSQL",
        contenders={
            "psql COPY to psql COPY": piped,
            "sql.sync": ours(),
            "sql.sync replace_by=delete": ours(replace_by="delete"),
            "GenericTransfer": generic_transfer,
        },
        reference="psql COPY to psql COPY",
        scene=scene,
    ),
    "mariadb": Workload(
        title=f"sql.sync of {ROWS:,} rows x 8 columns from PostgreSQL to MariaDB",
        contenders={"psql > fifo > LOAD DATA": fifo, "sql.sync": maria_ours},
        reference="psql > fifo > LOAD DATA",
        scene=maria_scene,
    ),
}
