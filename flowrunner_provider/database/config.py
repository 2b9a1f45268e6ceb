"""Settings of a database connection: those of the official connection types, and FlowRunner's own options.

FlowRunner's options live under the ``flowrunner`` key of the extra. Of the other keys, only those on the allow-list
here reach a driver: some parameters run code, read files or disable protection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option

__all__ = [
    "MssqlConfig",
    "MysqlConfig",
    "PostgresConfig",
    "SqliteConfig",
    "SslMode",
    "TlsMode",
    "driver_parameters",
    "mssql_parameters",
    "mysql_parameters",
]

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

TlsMode = Literal["DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"]

_MYSQL_IGNORED = frozenset(
    {"aws_conn_id", "charset", "client", "cursor", "flowrunner", "iam", "local_infile", "region_name"}
)
"""Keys that the official hook reads and that have no effect here: the driver is always PyMySQL with utf8mb4 and a
server-side cursor, and LOCAL INFILE is for the bulk load only."""

_MYSQL_SSL = {
    "ca": "ssl_ca", "capath": "ssl_capath", "cert": "ssl_cert", "cipher": "ssl_cipher", "key": "ssl_key",
}  # fmt: skip

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
"""Keys that the official hook reads itself and does not pass to the driver."""


@dataclass(frozen=True, kw_only=True)
class SqliteConfig:
    """A connection of type ``sqlite``."""

    path: str = option(label="Database file", help="The host of the connection is the path of the file.")
    mode: Literal["ro", "rw", "rwc"] | None = option(
        None, label="Mode", help="SQLite's URI mode; by default, only create_table creates a missing file."
    )
    busy_timeout: timedelta = option(
        timedelta(minutes=5), label="Busy timeout", help="The longest wait for another writer."
    )
    foreign_keys: bool = option(False, label="Foreign keys", help="Enforce foreign keys (off by default in SQLite).")


@dataclass(frozen=True, kw_only=True)
class PostgresConfig:
    """A connection of type ``postgres``."""

    host: str = option(label="Host", help="Name or address of the server, or the directory of its Unix socket.")
    port: int = option(5432, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database", help="By default the database with the name of the user.")
    driver: dict[str, Any] = option({}, label="Driver", help="libpq parameters from the extra.")
    connect_timeout: timedelta = option(
        timedelta(seconds=15), label="Connect timeout", help="The longest wait for a connection, per address."
    )
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest run time of one statement; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5), label="Lock timeout", help="The longest wait for a lock of another session."
    )
    max_connections: int | None = option(
        None, label="Max connections", help="Size of the connection pool of one process; by default there is no pool."
    )
    silence: timedelta = option(
        timedelta(minutes=1), label="Silence", help="Give up a server that acknowledges no packet for this long."
    )


@dataclass(frozen=True, kw_only=True)
class MysqlConfig:
    """A connection of type ``mysql``."""

    host: str = option("localhost", label="Host", help="Name or address of the server.")
    port: int = option(3306, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database")
    unix_socket: str = option("", label="Socket", help="Path of the server's Unix socket; replaces host and port.")
    ssl_mode: TlsMode = option(
        "PREFERRED",
        label="TLS",
        help="VERIFY_IDENTITY checks certificate and host name; PREFERRED uses TLS if offered.",
    )
    ssl_ca: str = option("", label="CA file", help="PEM file of the certificates to trust.")
    ssl_capath: str = option("", label="CA directory")
    ssl_cert: str = option("", label="Client certificate")
    ssl_key: str = option("", label="Client key file", secret=True, help="Path of the file.")
    ssl_cipher: str = option("", label="Ciphers")
    cleartext: bool = option(False, label="Cleartext password", help="Over TLS only; set by iam.")
    connect_timeout: timedelta = option(timedelta(seconds=15), label="Connect timeout")
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest run time of one statement; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5),
        label="Lock timeout",
        help="The longest wait for a lock of another session, in whole seconds.",
    )
    max_connections: int | None = option(
        None, label="Max connections", help="Size of the connection pool of one process; by default there is no pool."
    )


_MSSQL_IGNORED = frozenset(
    {
        "arraysize", "as_dict", "autocommit", "charset", "driver", "flowrunner", "sqlalchemy_scheme", "tds_version",
        "use_datetime2",
    }
)  # fmt: skip
"""Keys that the official hook passes to pymssql or SQLAlchemy and that have no effect here."""

_YES, _NO = frozenset({"yes", "true", "1", "mandatory", "require", "request"}), frozenset({"no", "false", "0", "off"})


@dataclass(frozen=True, kw_only=True)
class MssqlConfig:
    """A connection of type ``mssql``."""

    host: str = option("localhost", label="Host", help="Name or address of the server.")
    port: int = option(1433, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database", help="By default the login's default database.")
    encrypt: bool = option(True, label="TLS", help="Without TLS, the password can be read on the network.")
    trust_server_certificate: bool = option(
        False, label="Trust any certificate", help="Use TLS without verifying the server; for tests only."
    )
    ca_file: str = option("", label="CA file", help="PEM file of certificates to trust in addition to the system's.")
    host_name_in_certificate: str = option("", label="Host name in certificate", help="If it differs from the host.")
    read_only: bool = option(False, label="Read only", help="Connect to a readable secondary of an availability group.")
    app_name: str = option("flowrunner", label="Application", help="The application name shown by the server.")
    connect_timeout: timedelta = option(timedelta(seconds=15), label="Connect timeout")
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest wait for a reply; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5), label="Lock timeout", help="The longest wait for a lock of another session."
    )
    max_connections: int | None = option(
        None, label="Max connections", help="Size of the connection pool of one process."
    )


def mssql_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the driver settings in a ``mssql`` connection's extra, as fields of :class:`MssqlConfig`.

    :raises ConfigError: naming a parameter that is not allowed.
    """
    found: dict[str, Any] = {}
    for name, value in extra.items():
        key = name.lower().replace("_", "").replace(" ", "")
        if name in _MSSQL_IGNORED:
            continue
        if key in ("encrypt", "encryption", "trustservercertificate", "readonly"):
            text = str(value).lower()
            if text not in _YES | _NO:
                raise ConfigError(f"{where}: {name!r} must be yes or no", field=name, remedy="correct it in the extra")
            field = {"trustservercertificate": "trust_server_certificate", "readonly": "read_only"}.get(key, "encrypt")
            found[field] = text in _YES
        elif key in ("logintimeout", "timeout"):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(
                    f"{where}: {name!r} must be whole seconds", field=name, remedy="correct it in the extra"
                )
            if value:
                found["connect_timeout" if key == "logintimeout" else "statement_timeout"] = timedelta(seconds=value)
        elif key in ("appname", "hostnameincertificate"):
            if not isinstance(value, str) or "\0" in value or len(value) > 128:
                raise ConfigError(
                    f"{where}: {name!r} must be a string of at most 128 characters", field=name, remedy="correct it"
                )
            found["app_name" if key == "appname" else "host_name_in_certificate"] = value
        else:
            raise ConfigError(
                f"{where}: the driver parameter {name!r} is not allowed",
                field=name,
                remedy="remove it from the extra; FlowRunner options go under its 'flowrunner' key",
            )
    return found


def mysql_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the driver settings in a ``mysql`` connection's extra, as fields of :class:`MysqlConfig`.

    :raises ConfigError: naming a parameter that is not allowed.
    """
    given = {name: value for name, value in extra.items() if name not in _MYSQL_IGNORED}
    ssl = given.pop("ssl", None) or {}
    if isinstance(ssl, str):
        try:
            ssl = json.loads(ssl)
        except ValueError:
            ssl = None
    if not isinstance(ssl, Mapping):
        raise ConfigError(f"{where}: 'ssl' must be an object", field="ssl", remedy='pass {"ca": "/path/to/ca.pem"}')
    found: dict[str, Any] = {}
    check = ssl.get("check_hostname", True)
    for name, value in [*given.items(), *((f"ssl.{name}", value) for name, value in ssl.items())]:
        field = name if name in ("unix_socket", "ssl_mode", "ssl_ca", "ssl_cert", "ssl_key") else None
        field = _MYSQL_SSL.get(name.removeprefix("ssl.")) if name.startswith("ssl.") else field
        if name in ("ssl.check_hostname", "ssl.verify_mode"):
            continue
        if field is None:
            raise ConfigError(
                f"{where}: the driver parameter {name!r} is not allowed",
                field=name,
                remedy="remove it from the extra; timeouts are options under its 'flowrunner' key",
            )
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{where}: {name!r} must be a string", field=name, remedy="correct it in the extra")
        found[field] = value
    trusts = "ssl_ca" in found or "ssl_capath" in found
    if "ssl_mode" in found:
        found["ssl_mode"] = found["ssl_mode"].upper()
    elif trusts:
        found["ssl_mode"] = "VERIFY_IDENTITY" if check else "VERIFY_CA"
    elif ssl or "ssl_cert" in found:
        found["ssl_mode"] = "REQUIRED"
    return found


def driver_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the libpq parameters in a ``postgres`` connection's extra.

    :raises ConfigError: naming a parameter that is not allowed.
    """
    parameters = {name: value for name, value in extra.items() if name not in _POSTGRES_OFFICIAL}
    for name, value in parameters.items():
        if name not in _POSTGRES_DRIVER:
            raise ConfigError(
                f"{where}: the driver parameter {name!r} is not allowed",
                field=name,
                remedy="remove it from the extra; timeouts are options under its 'flowrunner' key",
            )
        if not isinstance(value, str | int) or isinstance(value, bool) or "\0" in str(value):
            raise ConfigError(
                f"{where}: the driver parameter {name!r} must be a string or an integer",
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
