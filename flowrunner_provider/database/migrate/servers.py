"""Which databases migrations know."""

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
    """How the session's database runs scripts.

    :raises ConfigError: if it is none of those that are known.
    """
    if session.kind not in _KNOWN:
        raise ConfigError(
            f"there are no migrations for {session.kind} yet",
            field="conn_id",
            remedy=f"use a connection of type {', '.join(sorted(_KNOWN))}",
        )
    return _KNOWN[session.kind]
