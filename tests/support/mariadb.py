"""A real MariaDB server, one per test session, with a fresh database for every test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pymysql

from tests.support.servers import HOST, Server, require
from tests.support.tls import Tls

__all__ = ["MariaDatabase", "Mariadb", "mariadb"]

USER = "test"
PASSWORD = "mariadb-pw"
# Durability is off: tests kill the client, never this machine.
FAST = [
    "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync",
    "--innodb-use-native-aio=0", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M", "--skip-log-bin",
]  # fmt: skip


@dataclass(frozen=True)
class MariaDatabase:
    """The parts of the address of one database."""

    host: str
    port: int
    name: str
    user: str = USER
    password: str = PASSWORD

    def at(self, host: str, port: int) -> MariaDatabase:
        """The same database through another address, e.g. that of a chaos proxy."""
        return replace(self, host=host, port=port)

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """An autocommit connection to look at the far side with; ``"`` quotes names, as elsewhere."""
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.name or None,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
            sql_mode="ANSI_QUOTES,STRICT_ALL_TABLES",
            **options,
        )


@dataclass
class Mariadb:
    """A running server."""

    server: Server
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def port(self) -> int:
        return self.server.port

    def maintenance(self) -> MariaDatabase:
        """No database in particular: for ``KILL`` and the like."""
        return MariaDatabase(HOST, self.port, "")

    def database(self) -> MariaDatabase:
        """A new, empty database; it goes away with the server."""
        made = MariaDatabase(HOST, self.port, f"test_{next(self._numbers)}")
        with self.maintenance().connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {made.name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return made


def _answers(port: int) -> bool:
    try:
        MariaDatabase(HOST, port, "").connect().close()
    except pymysql.OperationalError:
        return False
    return True


@contextmanager
def mariadb(tls: Tls) -> Iterator[Mariadb]:
    """Run a new server for the block: a password, TLS on offer, no fsync; its directory is removed afterwards."""
    install = require("mariadb-install-db", apt="mariadb-server")
    program = require("/usr/sbin/mariadbd", "mariadbd", apt="mariadb-server")
    user = "mysql" if os.geteuid() == 0 else None
    run = Path(tempfile.mkdtemp(prefix="flowrunner-maria-"))
    try:
        for source, name in ((tls.cert_file, "cert.pem"), (tls.key_file, "key.pem"), (tls.ca_file, "ca.pem")):
            shutil.copy(source, run / name)
        (run / "init.sql").write_text(
            f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        )
        if user:
            for path in (run, *run.iterdir()):
                shutil.chown(path, user, user)
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        options = [f"--datadir={run}/data", "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(
            [install, "--no-defaults", *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", **as_user,
        )  # fmt: skip

        def command(port: int) -> list[str]:
            places = [f"--datadir={run}/data", f"--socket={run}/socket", f"--pid-file={run}/pid"]
            network = [f"--bind-address={HOST}", f"--port={port}", "--skip-name-resolve", "--local-infile=1"]
            secure = [f"--ssl-ca={run}/ca.pem", f"--ssl-cert={run}/cert.pem", f"--ssl-key={run}/key.pem"]
            begin = f"--init-file={run}/init.sql"
            return [program, "--no-defaults", *places, *network, *secure, begin, "--max-connections=150", *FAST]

        with Server("mariadb", command, ready=_answers, log=run / "log", user=user) as server:
            (run / "init.sql").unlink()
            yield Mariadb(server)
    finally:
        shutil.rmtree(run)
