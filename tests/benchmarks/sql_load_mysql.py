"""500,000 rows of 8 columns of CSV into MariaDB: ours as a task runs it, and the client's ``LOAD DATA``."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload
from tests.benchmarks.http_download import scratch
from tests.benchmarks.sql_load import loaded

ROWS = 500_000
TABLE = (
    "CREATE TABLE {} (id bigint, customer varchar(50), amount decimal(12,2), share double, paid tinyint(1), day date,"
    " at datetime, note varchar(50))"
)


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    from tests.support.mariadb import mariadb
    from tests.support.tls import Tls

    folder = scratch()
    try:
        source = folder / "source.csv"
        with source.open("w") as file:
            file.write("id,customer,amount,share,paid,day,at,note\n")
            for n in range(1, ROWS + 1):
                day = f"2024-{n % 12 + 1:02d}-{n % 28 + 1:02d}"
                file.write(
                    f"{n},customer {n % 5000},{n * 1.01:.2f},{n / 7},{n % 2},{day},{day} 10:00:00,note {n:032x}\n"
                )
        with mariadb(Tls.create(Path(tempfile.mkdtemp(dir=folder)))) as server:
            database = server.database()
            fields = {"host": database.host, "port": database.port, "login": database.user}
            secret = {"password": database.password, "schema": database.name}
            connection = json.dumps({"conn_type": "mysql", **fields, **secret, "extra": {"ssl_mode": "DISABLED"}})
            yield {**fields, **secret, "source": str(source), "connection": connection}
    finally:
        shutil.rmtree(folder)


def client(scene: dict[str, Any], sql: str) -> str:
    command = ["mariadb", "--no-defaults", "--local-infile=1", f"-h{scene['host']}", f"-P{scene['port']}", "--skip-ssl"]
    command += [f"-u{scene['login']}", f"-p{scene['password']}", "-NBe", sql, scene["schema"]]
    return subprocess.check_output(command, text=True)


def again(scene: dict[str, Any], name: str) -> None:
    client(scene, f"DROP TABLE IF EXISTS {name}; {TABLE.format(name)}")


def whole(scene: dict[str, Any], name: str) -> None:
    if int(client(scene, f"SELECT count(*) FROM {name}")) != ROWS:
        raise AssertionError(f"{name} is not whole")


def load_data(scene: dict[str, Any]) -> Iterator[None]:
    again(scene, "by_client")
    style = "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' IGNORE 1 LINES"
    yield
    client(scene, f"LOAD DATA LOCAL INFILE '{scene['source']}' INTO TABLE by_client {style}")
    yield
    whole(scene, "by_client")


WORKLOAD = Workload(
    title=f"sql.load of {ROWS:,} rows x 8 columns of CSV into MariaDB",
    contenders={"LOAD DATA": load_data, "sql.load": loaded(again, whole)},
    reference="LOAD DATA",
    scene=scene,
)
