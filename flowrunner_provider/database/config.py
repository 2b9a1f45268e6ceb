"""Settings of a database connection: what the official connection types hold, and our own options.

Our options live under the ``flowrunner`` key of the extra. Of the rest of the extra, a driver gets what is
on its list here and nothing else: some parameters run code, read files or switch protection off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option

__all__ = ["PostgresConfig", "SqliteConfig", "SslMode", "driver_parameters"]

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

_POSTGRES_DRIVER = frozenset(
    {
        "application_name", "channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count",
        "keepalives_idle", "keepalives_interval", "krbsrvname", "require_auth", "ssl_max_protocol_version",
        "ssl_min_protocol_version", "sslcert", "sslcompression", "sslcrl", "sslkey", "sslmode", "sslnegotiation",
        "sslpassword", "sslrootcert", "target_session_attrs", "tcp_user_timeout",
    }
)  # fmt: skip

_POSTGRES_OFFICIAL = frozenset(
    {
        "aws_conn_id", "azure_conn_id", "cluster-identifier", "cursor", "flowrunner", "iam", "redshift",
        "redshift-serverless", "region_name", "sqlalchemy_query", "sqlalchemy_scheme", "workgroup-name",
    }
)  # fmt: skip
"""Keys that the official hook reads itself and does not hand to the driver."""


@dataclass(frozen=True, kw_only=True)
class SqliteConfig:
    """A connection of type ``sqlite``."""

    path: str = option(label="Database file", help="The host of the connection is the path of the file.")
    mode: Literal["ro", "rw", "rwc"] | None = option(
        None, label="Mode", help="As in SQLite's URIs; by default a missing file is only made by create_table."
    )
    busy_timeout: timedelta = option(
        timedelta(minutes=5), label="Busy timeout", help="How long to wait for another writer."
    )
    foreign_keys: bool = option(
        False, label="Foreign keys", help="Enforce foreign keys (SQLite's own default is not to)."
    )


@dataclass(frozen=True, kw_only=True)
class PostgresConfig:
    """A connection of type ``postgres``."""

    host: str = option(label="Host", help="Name or address of the server, or the folder of its socket.")
    port: int = option(5432, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database", help="The database; by default the one named like the user.")
    driver: dict[str, Any] = option({}, label="Driver", help="Parameters of libpq from the extra.")
    connect_timeout: timedelta = option(
        timedelta(seconds=15), label="Connect timeout", help="How long a connection may take, per address."
    )
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest single statement; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5), label="Lock timeout", help="How long to wait for a lock of somebody else."
    )
    silence: timedelta = option(
        timedelta(minutes=1), label="Silence", help="A server that does not even acknowledge is given up."
    )


def driver_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What of a ``postgres`` connection's extra goes to libpq.

    :raises ConfigError: naming a parameter that is not on the list.
    """
    parameters = {name: value for name, value in extra.items() if name not in _POSTGRES_OFFICIAL}
    for name, value in parameters.items():
        if name not in _POSTGRES_DRIVER:
            raise ConfigError(
                f"{where}: the driver parameter {name!r} is not allowed",
                field=name,
                remedy="remove it from the extra; time-outs are options under its 'flowrunner' key",
            )
        if not isinstance(value, str | int) or isinstance(value, bool) or "\0" in str(value):
            raise ConfigError(
                f"{where}: the driver parameter {name!r} must be text or a whole number",
                field=name,
                remedy="correct it in the extra",
            )
    if parameters.get("sslmode", "prefer") not in get_args(SslMode):
        raise ConfigError(
            f"{where}: sslmode is {parameters['sslmode']!r}",
            field="sslmode",
            remedy=f"use one of {', '.join(get_args(SslMode))}",
        )
    return parameters
