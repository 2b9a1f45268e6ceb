"""Hooks for the connection types of SQL databases; both are owned by the official providers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.database.config import PostgresConfig, SqliteConfig, driver_parameters
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.postgres import PostgresSession
from flowrunner_provider.database.dialects.sqlite import SqliteSession
from flowrunner_provider.registry import CONNECTORS
from flowrunner_provider.runtime.hook import OPTIONS, FlowRunnerHook, connection, extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerPostgresHook", "FlowRunnerSqliteHook", "SqlHook", "hook_for"]

C = TypeVar("C")

_CHECK_SECONDS = 30.0


class SqlHook(FlowRunnerHook[C]):
    """A hook that opens sessions."""

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        """A connection to the database.

        :param create: make a database file that is missing, where the database is a file.
        """
        raise ConfigError(f"{type(self).__name__} opens nothing", field="conn_type")

    def check(self) -> str:
        with self.open(Deadline(_CHECK_SECONDS)) as session:
            return session.describe()


class FlowRunnerSqliteHook(SqlHook[SqliteConfig]):
    """A SQLite database file.

    :param conn_id: a connection of type ``sqlite``; its host is the path of the file.
    """

    conn_name_attr: ClassVar[str] = "sqlite_conn_id"
    default_conn_name: ClassVar[str] = "sqlite_default"
    conn_type: ClassVar[str] = "sqlite"
    hook_name: ClassVar[str] = "SQLite"
    config_type: ClassVar[type] = SqliteConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """As the official hook reads it: host, or without one ``/schema``, and ``mode`` as in SQLite's URIs."""
        host, _, query = (found.host or "").partition("?")
        path = "/".join(part for part in (host, found.schema or "") if part) if host else f"/{found.schema or ''}"
        if path == "/":
            raise ConfigError(
                f"connection {found.conn_id!r} names no database file",
                field="host",
                remedy="write the path of the file into the connection's host",
            )
        extra = {name: value for name, value in extra_of(found).items() if name != OPTIONS}
        extra |= dict(part.partition("=")[::2] for part in query.split("&") if part)
        if unknown := sorted(set(extra) - {"mode"}):
            raise ConfigError(
                f"connection {found.conn_id!r}: the driver parameter {unknown[0]!r} is not allowed",
                field=unknown[0],
                remedy="remove it; of SQLite's URI parameters only mode=ro, rw or rwc is",
            )
        return {"path": path, **extra, **options_of(found)}

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        return SqliteSession(self.config, deadline, create=create)


class FlowRunnerPostgresHook(SqlHook[PostgresConfig]):
    """A PostgreSQL database.

    :param conn_id: a connection of type ``postgres``; its schema is the name of the database.
    """

    conn_name_attr: ClassVar[str] = "postgres_conn_id"
    default_conn_name: ClassVar[str] = "postgres_default"
    conn_type: ClassVar[str] = "postgres"
    hook_name: ClassVar[str] = "PostgreSQL"
    config_type: ClassVar[type] = PostgresConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """The official hook's fields; with ``iam`` in the extra the official hook fetches the token."""
        extra = extra_of(found)
        values = super().values(found)
        if "driver" in values:
            raise ConfigError(
                f"connection {found.conn_id!r} has an unknown option 'driver'",
                field="driver",
                remedy="write parameters of the driver into the extra itself",
            )
        if not found.host:
            values["host"] = "localhost"
        if extra.get("iam"):
            official = load("airflow.providers.postgres.hooks.postgres", extra="postgres", needed_for="a login by IAM")
            hook = official.PostgresHook(postgres_conn_id=found.conn_id)
            values["login"], values["password"], values["port"] = hook.get_iam_token(found)
        return {**values, "driver": driver_parameters(extra, f"connection {found.conn_id!r}")}

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        del create
        return PostgresSession(self.config, deadline)


def hook_for(conn_id: str) -> SqlHook[Any]:
    """The hook for the connection, by its type.

    :raises ConfigError: if it is no database that is supported.
    """
    kind = connection(conn_id).conn_type
    hooks = dict(next(item.hooks for item in CONNECTORS if item.name == "database"))
    if kind not in hooks:
        raise ConfigError(
            f"connection {conn_id!r} is of type {kind!r}, which is no database that is supported",
            field="conn_id",
            remedy=f"use a connection of type {', '.join(sorted(hooks))}",
        )
    module, _, name = hooks[kind].rpartition(".")
    return cast("SqlHook[Any]", getattr(import_module(module), name)(conn_id))
