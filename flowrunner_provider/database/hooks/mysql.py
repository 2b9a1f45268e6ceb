"""The hook for MySQL and MariaDB; the official provider owns the connection type."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.config import MysqlConfig, mysql_parameters
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.mysql import MysqlSession
from flowrunner_provider.database.hooks.base import SqlHook
from flowrunner_provider.runtime.hook import extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerMysqlHook"]

_DRIVER_KEYS = ("cleartext", "unix_socket", "ssl_mode", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher")


class FlowRunnerMysqlHook(SqlHook[MysqlConfig]):
    """Connect to a MySQL or MariaDB database.

    :param conn_id: a connection of type ``mysql``; its schema is the name of the database.
    """

    conn_name_attr: ClassVar[str] = "mysql_conn_id"
    default_conn_name: ClassVar[str] = "mysql_default"
    conn_type: ClassVar[str] = "mysql"
    hook_name: ClassVar[str] = "MySQL"
    config_type: ClassVar[type] = MysqlConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the fields of the official hook; with ``iam`` in the extra, the official hook fetches the token."""
        extra = extra_of(found)
        values = super().values(found)
        where = f"connection {found.conn_id!r}"
        parameters = mysql_parameters(extra, where)
        if misplaced := sorted(set(values) & set(_DRIVER_KEYS)):
            raise ConfigError(
                f"{where} has an unknown option {misplaced[0]!r}",
                field=misplaced[0],
                remedy="move driver parameters to the top level of the extra",
            )
        if extra.get("iam"):
            if find_spec("airflow.providers.mysql") is None:
                raise ConfigError(
                    f"{where} uses IAM, but Airflow's MySQL provider, which fetches the token, is not installed",
                    field="iam",
                    remedy="pip install apache-airflow-providers-mysql (needs a compiler and the MySQL client library)",
                )
            hook = import_module("airflow.providers.mysql.hooks.mysql").MySqlHook(mysql_conn_id=found.conn_id)
            values["password"], values["port"] = hook.get_iam_token(found)
            parameters = {"ssl_mode": "REQUIRED", **parameters, "cleartext": True}
        return {**values, **parameters}

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        del create
        return self.open_pooled(deadline, lambda: MysqlSession(self.config, deadline), self.config.max_connections)
