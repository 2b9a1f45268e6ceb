"""The hook for PostgreSQL; the official provider owns the connection type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.database.config import PostgresConfig, driver_parameters
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.postgres import PostgresSession
from flowrunner_provider.database.hooks.base import SqlHook
from flowrunner_provider.runtime.hook import extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerPostgresHook"]


class FlowRunnerPostgresHook(SqlHook[PostgresConfig]):
    """Connect to a PostgreSQL database.

    :param conn_id: a connection of type ``postgres``; its schema is the name of the database.
    """

    conn_name_attr: ClassVar[str] = "postgres_conn_id"
    default_conn_name: ClassVar[str] = "postgres_default"
    conn_type: ClassVar[str] = "postgres"
    hook_name: ClassVar[str] = "PostgreSQL"
    config_type: ClassVar[type] = PostgresConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the fields of the official hook; with ``iam`` in the extra, the official hook fetches the token."""
        extra = extra_of(found)
        values = super().values(found)
        if "driver" in values:
            raise ConfigError(
                f"connection {found.conn_id!r} has an unknown option 'driver'",
                field="driver",
                remedy="move driver parameters to the top level of the extra",
            )
        if not found.host:
            values["host"] = "localhost"
        if extra.get("iam"):
            official = load("airflow.providers.postgres.hooks.postgres", extra="postgres", needed_for="IAM logins")
            hook = official.PostgresHook(postgres_conn_id=found.conn_id)
            values["login"], values["password"], values["port"] = hook.get_iam_token(found)
        return {**values, "driver": driver_parameters(extra, f"connection {found.conn_id!r}")}

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        del create
        return self.open_pooled(deadline, lambda: PostgresSession(self.config, deadline), self.config.max_connections)
