"""A real PgBouncer in transaction mode, in front of a test's PostgreSQL."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.postgres import Database
from tests.support.servers import HOST, Server, require

__all__ = ["pgbouncer"]


@contextmanager
def pgbouncer(database: Database, *, pool_size: int = 2) -> Iterator[Database]:
    """The same database behind a pooler that gives each transaction any of ``pool_size`` connections."""
    program = require("/usr/sbin/pgbouncer", "pgbouncer", apt="pgbouncer")
    user = "postgres" if os.geteuid() == 0 else None
    run = Path(tempfile.mkdtemp(prefix="flowrunner-pgbouncer-"))
    try:
        (run / "users").write_text(f'"{database.user}" "{database.password}"\n')

        def command(port: int) -> list[str]:
            settings = {
                "listen_addr": HOST, "listen_port": port, "auth_type": "scram-sha-256", "auth_file": run / "users",
                "pool_mode": "transaction", "default_pool_size": pool_size, "unix_socket_dir": "",
            }  # fmt: skip
            place = f"* = host={database.host} port={database.port} password={database.password}"
            lines = ["[databases]", place, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
            (run / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
            if user:
                for path in (run, *run.iterdir()):
                    shutil.chown(path, user, user)
            return [program, str(run / "pgbouncer.ini")]

        def answers(port: int) -> bool:
            try:
                database.at(HOST, port).connect().close()
            except psycopg.OperationalError:
                return False
            return True

        with Server("pgbouncer", command, ready=answers, log=run / "log", user=user) as server:
            yield database.at(HOST, server.port)
    finally:
        shutil.rmtree(run)
