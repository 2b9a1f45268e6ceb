"""The hook for SQLite files; the official provider owns the connection type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.config import SqliteConfig
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.sqlite import SqliteSession
from flowrunner_provider.database.hooks.base import SqlHook
from flowrunner_provider.runtime.hook import OPTIONS, extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerSqliteHook"]


class FlowRunnerSqliteHook(SqlHook[SqliteConfig]):
    """Open a SQLite database file.

    :param conn_id: a connection of type ``sqlite``; its host is the path of the file.
    """

    conn_name_attr: ClassVar[str] = "sqlite_conn_id"
    default_conn_name: ClassVar[str] = "sqlite_default"
    conn_type: ClassVar[str] = "sqlite"
    hook_name: ClassVar[str] = "SQLite"
    config_type: ClassVar[type] = SqliteConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the path as the official hook reads it (the host, or ``/schema`` without one) and ``mode``."""
        host, _, query = (found.host or "").partition("?")
        path = "/".join(part for part in (host, found.schema or "") if part) if host else f"/{found.schema or ''}"
        if path == "/":
            raise ConfigError(
                f"connection {found.conn_id!r} names no database file",
                field="host",
                remedy="put the path of the file into the host field",
            )
        extra = {name: value for name, value in extra_of(found).items() if name != OPTIONS}
        extra |= dict(part.partition("=")[::2] for part in query.split("&") if part)
        if unknown := sorted(set(extra) - {"mode"}):
            raise ConfigError(
                f"connection {found.conn_id!r}: the driver parameter {unknown[0]!r} is not allowed",
                field=unknown[0],
                remedy="remove it; the only URI parameter allowed is mode=ro, rw or rwc",
            )
        return {"path": path, **extra, **options_of(found)}

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        return SqliteSession(self.config, deadline, create=create)
