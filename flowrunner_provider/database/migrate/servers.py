"""The databases that migrations support."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.mssql_scripts import MssqlScripts
from flowrunner_provider.database.dialects.mysql_scripts import MysqlScripts
from flowrunner_provider.database.dialects.postgres_scripts import PostgresScripts
from flowrunner_provider.database.dialects.scripts import Scripts
from flowrunner_provider.database.dialects.sqlite_scripts import SqliteScripts

__all__ = ["scripts_of"]

_KNOWN: dict[str, type[Scripts[Any]]] = {
    "mssql": MssqlScripts, "mysql": MysqlScripts, "postgres": PostgresScripts, "sqlite": SqliteScripts,
}  # fmt: skip


def scripts_of(session: Session) -> type[Scripts[Any]]:
    """Return the class that runs scripts in the session's database.

    :raises ConfigError: if the database is not supported.
    """
    if session.kind not in _KNOWN:
        raise ConfigError(
            f"migrations do not support {session.kind}",
            field="conn_id",
            remedy=f"use a connection of type {', '.join(sorted(_KNOWN))}",
        )
    return _KNOWN[session.kind]
