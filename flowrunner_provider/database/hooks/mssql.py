"""The hook for SQL Server; the official provider owns the connection type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.config import MssqlConfig, mssql_parameters
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.mssql import MssqlSession
from flowrunner_provider.database.hooks.base import SqlHook
from flowrunner_provider.runtime.hook import extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerMssqlHook"]


class FlowRunnerMssqlHook(SqlHook[MssqlConfig]):
    """Connect to a SQL Server or Azure SQL database.

    :param conn_id: a connection of type ``mssql``; its schema is the name of the database.
    """

    conn_name_attr: ClassVar[str] = "mssql_conn_id"
    default_conn_name: ClassVar[str] = "mssql_default"
    conn_type: ClassVar[str] = "mssql"
    hook_name: ClassVar[str] = "Microsoft SQL Server"
    config_type: ClassVar[type] = MssqlConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the fields of the official hook; the default port is 1433."""
        where = f"connection {found.conn_id!r}"
        values = {**mssql_parameters(extra_of(found), where), **super().values(found)}
        if any(mark in str(values.get("host", "")) for mark in "\\,;"):
            raise ConfigError(
                f"{where}: the host contains an instance or a port",
                field="host",
                remedy="use the host name only, and put the instance's port into the port field",
            )
        return values

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        del create
        return self.open_pooled(deadline, lambda: MssqlSession(self.config, deadline), self.config.max_connections)
