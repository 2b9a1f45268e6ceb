"""A real PostgreSQL cluster, one per test session, with a fresh database for every test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers import HOST, Server, require

__all__ = ["Database", "Postgres", "postgres"]

USER = "test"
PASSWORD = "postgres-pw"
# Durability is off: tests kill the client, never this machine.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB"}


@dataclass(frozen=True)
class Database:
    """The parts of the address of one database."""

    host: str
    port: int
    name: str
    user: str = USER
    password: str = PASSWORD

    @property
    def dsn(self) -> str:
        """As libpq takes it."""
        return f"host={self.host} port={self.port} dbname={self.name} user={self.user} password={self.password}"

    def at(self, host: str, port: int) -> Database:
        """The same database through another address, e.g. that of a chaos proxy."""
        return Database(host, port, self.name, self.user, self.password)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """An autocommit connection to look at the far side with."""
        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=5, **options)


@dataclass
class Postgres:
    """A running cluster."""

    server: Server
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def port(self) -> int:
        return self.server.port

    def maintenance(self) -> Database:
        """The database ``postgres``, for ``pg_terminate_backend`` and the like."""
        return Database(HOST, self.port, "postgres")

    def database(self) -> Database:
        """A new, empty database; it goes away with the cluster."""
        name = f"test_{next(self._numbers)}"
        with self.maintenance().connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return Database(HOST, self.port, name)


def _program(name: str) -> str:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return require(*map(str, reversed(newest)), name, apt="postgresql")


def _answers(port: int) -> bool:
    try:
        Database(HOST, port, "postgres").connect().close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a new cluster for the block: SCRAM passwords, no fsync; its directory is removed afterwards.

    PostgreSQL refuses to run as root; then it runs as the user ``postgres`` of the Debian package.
    """
    initdb, program = _program("initdb"), _program("postgres")
    user = "postgres" if os.geteuid() == 0 else None
    run = Path(tempfile.mkdtemp(prefix="flowrunner-pg-"))
    try:
        (run / "password").write_text(PASSWORD)
        if user:
            for path in (run, run / "password"):
                shutil.chown(path, user, user)
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        options = ["-A", "scram-sha-256", "-U", USER, f"--pwfile={run}/password", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [initdb, "-D", str(run / "data"), "--locale=C.UTF-8", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **as_user,
        )
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": str(run),
            "max_connections": "100",
            **FAST,
        }

        def command(port: int) -> list[str]:
            options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            return [program, "-D", str(run / "data"), "-p", str(port), *options]

        with Server(
            "postgres", command, ready=_answers, log=run / "log", stop_signal=signal.SIGINT, user=user
        ) as server:
            yield Postgres(server)
    finally:
        shutil.rmtree(run)
