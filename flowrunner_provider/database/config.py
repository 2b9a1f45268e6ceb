"""Settings of a database connection: what the official connection types hold, and our own options.

Our options live under the ``flowrunner`` key of the extra. Of the rest of the extra, a driver gets what is
on its list here and nothing else: some parameters run code, read files or switch protection off.
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
"""Keys that the official hook reads, and that change nothing here: it is always utf8mb4, PyMySQL and a cursor of the
server, and local files are for the bulk load alone."""

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
    max_connections: int | None = option(
        None, label="Most connections", help="Of the tasks of one process; kept for the next one who asks."
    )
    silence: timedelta = option(
        timedelta(minutes=1), label="Silence", help="A server that does not even acknowledge is given up."
    )


@dataclass(frozen=True, kw_only=True)
class MysqlConfig:
    """A connection of type ``mysql``."""

    host: str = option("localhost", label="Host", help="Name or address of the server.")
    port: int = option(3306, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database")
    unix_socket: str = option("", label="Socket", help="Path of the server's socket, in place of host and port.")
    ssl_mode: TlsMode = option(
        "PREFERRED", label="TLS", help="VERIFY_IDENTITY checks certificate and name; PREFERRED takes what is offered."
    )
    ssl_ca: str = option("", label="Authorities", help="File of the certificates to trust.")
    ssl_capath: str = option("", label="Folder of authorities")
    ssl_cert: str = option("", label="Client certificate")
    ssl_key: str = option("", label="Client key file", secret=True, help="Path of the file.")
    ssl_cipher: str = option("", label="Ciphers")
    cleartext: bool = option(False, label="Password in the clear", help="Over TLS only; set by iam.")
    connect_timeout: timedelta = option(timedelta(seconds=15), label="Connect timeout")
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest single statement; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5), label="Lock timeout", help="How long to wait for a lock of somebody else; whole seconds."
    )
    max_connections: int | None = option(
        None, label="Most connections", help="Of the tasks of one process; kept for the next one who asks."
    )


_MSSQL_IGNORED = frozenset(
    {
        "arraysize", "as_dict", "autocommit", "charset", "driver", "flowrunner", "sqlalchemy_scheme", "tds_version",
        "use_datetime2",
    }
)  # fmt: skip
"""Keys that the official hook hands to pymssql or SQLAlchemy, and that change nothing here."""

_YES, _NO = frozenset({"yes", "true", "1", "mandatory", "require", "request"}), frozenset({"no", "false", "0", "off"})


@dataclass(frozen=True, kw_only=True)
class MssqlConfig:
    """A connection of type ``mssql``."""

    host: str = option("localhost", label="Host", help="Name or address of the server.")
    port: int = option(1433, label="Port")
    login: str = option("", label="User")
    password: str = option("", label="Password", secret=True)
    schema: str = option("", label="Database", help="By default the login's own.")
    encrypt: bool = option(True, label="TLS", help="Without it everybody on the way can read the password.")
    trust_server_certificate: bool = option(
        False, label="Trust any certificate", help="TLS without knowing the server; for tests."
    )
    ca_file: str = option("", label="Authorities", help="PEM file of the certificates to trust, besides the system's.")
    host_name_in_certificate: str = option("", label="Name in the certificate", help="If it is not the host.")
    read_only: bool = option(False, label="Read only", help="Asks an availability group for a readable secondary.")
    app_name: str = option("flowrunner", label="Application", help="As the server lists it.")
    connect_timeout: timedelta = option(timedelta(seconds=15), label="Connect timeout")
    statement_timeout: timedelta | None = option(
        None, label="Statement timeout", help="The longest silence; by default the task's timeout."
    )
    lock_timeout: timedelta = option(
        timedelta(minutes=5), label="Lock timeout", help="How long to wait for a lock of somebody else."
    )
    max_connections: int | None = option(None, label="Most connections", help="Of the tasks of one process.")


def mssql_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What of a ``mssql`` connection's extra is for the driver, as fields of :class:`MssqlConfig`.

    :raises ConfigError: naming a parameter that is not on the list.
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
                raise ConfigError(f"{where}: {name!r} must be whole seconds", field=name, remedy="correct it")
            if value:
                found["connect_timeout" if key == "logintimeout" else "statement_timeout"] = timedelta(seconds=value)
        elif key in ("appname", "hostnameincertificate"):
            if not isinstance(value, str) or "\0" in value or len(value) > 128:
                raise ConfigError(f"{where}: {name!r} must be a short text", field=name, remedy="correct it")
            found["app_name" if key == "appname" else "host_name_in_certificate"] = value
        else:
            raise ConfigError(
                f"{where}: the driver parameter {name!r} is not allowed",
                field=name,
                remedy="remove it from the extra; options of ours are under its 'flowrunner' key",
            )
    return found


def mysql_parameters(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What of a ``mysql`` connection's extra is for the driver, as fields of :class:`MysqlConfig`.

    :raises ConfigError: naming a parameter that is not on the list.
    """
    given = {name: value for name, value in extra.items() if name not in _MYSQL_IGNORED}
    ssl = given.pop("ssl", None) or {}
    if isinstance(ssl, str):
        try:
            ssl = json.loads(ssl)
        except ValueError:
            ssl = None
    if not isinstance(ssl, Mapping):
        raise ConfigError(f"{where}: 'ssl' must be an object", field="ssl", remedy='write {"ca": "/path/of/ca.pem"}')
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
                remedy="remove it from the extra; time-outs are options under its 'flowrunner' key",
            )
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{where}: {name!r} must be text", field=name, remedy="correct it in the extra")
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
