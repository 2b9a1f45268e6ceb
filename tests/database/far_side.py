"""Real databases to load into and to look at, behind one face for both dialects; picklable for killed children."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import pytest

from flowrunner_provider.database.operators import SqlLoadOperator
from tests.support.context import execute, make_context
from tests.support.mariadb import MariaDatabase
from tests.support.postgres import Database

__all__ = ["FarSide", "MysqlFarSide", "PostgresFarSide", "SqliteFarSide", "act", "connected", "load_rows", "with_login"]

CONN_ID = "warehouse"
F = TypeVar("F", bound="FarSide")


@dataclass(frozen=True)
class FarSide:
    """One empty database, or one schema of it, and a folder for files and state.

    :param folder: fresh.
    """

    folder: Path
    kind = ""
    mark = "?"
    named_mark = ":{}"
    key_is_taken = ""
    """The code of a row whose key is there already."""
    deviations: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What this database does otherwise than the contract says, and why."""

    @property
    def connection(self) -> str:
        """The Airflow connection as JSON."""
        raise NotImplementedError

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        raise NotImplementedError

    def name(self, table: str) -> str:
        """``table`` with its schema."""
        return table

    def rows(self, table: str = "orders", order: str = "id") -> list[tuple[Any, ...]]:
        return self.run(f"SELECT * FROM {self.name(table)} ORDER BY {order}")

    def tables(self) -> set[str]:
        raise NotImplementedError

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8", newline="")
        return str(path)

    def jsonl(self, rows: list[dict[str, Any]], name: str = "source.jsonl") -> str:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def terminate(self) -> None:
        """End the connections of the package."""
        raise NotImplementedError

    def waits(self) -> bool:
        """Whether a transaction waits for a lock of another one."""
        raise NotImplementedError

    def forget(self) -> None:
        """The journal is lost, as if its writes had failed."""
        shutil.rmtree(self.state)


@dataclass(frozen=True)
class SqliteFarSide(FarSide):
    kind = "sqlite"
    key_is_taken = "SQLITE_CONSTRAINT_PRIMARYKEY"

    @property
    def file(self) -> Path:
        return self.folder / "far.db"

    @property
    def connection(self) -> str:
        return json.dumps({"conn_type": "sqlite", "host": str(self.file)})

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> set[str]:
        if not self.file.exists():
            return set()
        return {row[0] for row in self.run("SELECT name FROM sqlite_master WHERE type = 'table'")}


@dataclass(frozen=True)
class PostgresFarSide(FarSide):
    database: Database
    schema: str
    kind = "postgres"
    mark = "%s"
    named_mark = "%({})s"
    key_is_taken = "23505"
    extra: dict[str, Any] = field(default_factory=dict)

    def make(self) -> PostgresFarSide:
        self.run(f"CREATE SCHEMA {self.schema}")
        return self

    @property
    def connection(self) -> str:
        return _connection("postgres", self.database, self.extra)

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def name(self, table: str) -> str:
        return f"{self.schema}.{table}"

    def tables(self) -> set[str]:
        listed = f"SELECT tablename::text FROM pg_tables WHERE schemaname = '{self.schema}'"
        return {row[0] for row in self.run(listed)}

    def terminate(self) -> None:
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flowrunner'")

    def waits(self) -> bool:
        return bool(self.run("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


@dataclass(frozen=True)
class MysqlFarSide(FarSide):
    database: MariaDatabase
    kind = "mysql"
    mark = "%s"
    named_mark = "%({})s"
    key_is_taken = "1062"
    deviations: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "with before update": "MariaDB takes WITH before SELECT only",
            "created tables stay": "CREATE TABLE commits: a failed load leaves the table that it made, empty",
            "writers during replace": "a lock of the table would commit: what others write meanwhile is lost",
            "writers during truncate": "the same: new rows of others stay",
        }
    )
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def connection(self) -> str:
        return _connection("mysql", self.database, self.extra)

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def name(self, table: str) -> str:
        return f"{self.database.name}.{table}"

    def tables(self) -> set[str]:
        listed = f"SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{self.database.name}'"
        return {row[0] for row in self.run(listed)}

    def terminate(self) -> None:
        mine = f"db = '{self.database.name}' AND id <> CONNECTION_ID()"
        for (number,) in self.run(f"SELECT id FROM information_schema.PROCESSLIST WHERE {mine}"):
            self.run(f"KILL {number}")

    def waits(self) -> bool:
        return bool(self.run("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"))


def _connection(kind: str, database: Database | MariaDatabase, extra: dict[str, Any]) -> str:
    return json.dumps(
        {
            "conn_type": kind,
            "host": database.host,
            "port": database.port,
            "login": database.user,
            "password": database.password,
            "schema": database.name,
            "extra": extra,
        }
    )


def connected(far: F, monkeypatch: pytest.MonkeyPatch) -> F:
    """The far side that the tests' connection leads to."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", far.connection)
    return far


def load_rows(far: FarSide, source: Any, table: str = "orders", **more: Any) -> Any:
    """Run the action as Airflow does, with a state store of its own in the far side's folder."""
    return act(far, SqlLoadOperator, source=source, table=far.name(table), **more)


def act(far: FarSide, operator_class: Any, **arguments: Any) -> Any:
    """Run any action on the far side in the same way."""
    context = dict(arguments.pop("context", {}))
    context.setdefault("state", far.state / context.get("run_id", "run"))
    operator = operator_class(task_id="load", **{"conn_id": CONN_ID, **arguments})
    return execute(operator, make_context(operator, **context))


def with_login(far: Any, *grants: str) -> Any:
    """The same far side for a login that may do only this, besides making tables.

    :param grants: ``GRANT ... ON ...``, without whom.
    """
    name = f"role_{far.folder.name.replace('-', '_')}"
    if far.kind == "postgres":
        far.run(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
        far.run(f"GRANT CREATE, USAGE ON SCHEMA {far.schema} TO {name}")
    else:
        far.run(f"CREATE USER {name} IDENTIFIED BY 'pw'")
        far.run(f"GRANT CREATE, CREATE TEMPORARY TABLES ON {far.database.name}.* TO {name}")
    for grant in grants:
        far.run(f"{grant} TO {name}")
    return replace(far, database=replace(far.database, user=name, password="pw"))
