"""PyMySQL connections: enforced TLS, no cleartext passwords, and ``LOAD DATA LOCAL`` without local files.

A server may answer any statement with a request for a file of the client. The driver refuses that, as its option
``local_infile`` stays off; only :func:`load_data` answers it, with the rows that it was given.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import AccessDenied, ConfigError, SecurityError
from flowrunner_provider.core.extras import load

if TYPE_CHECKING:
    from pymysql.connections import Connection

    from flowrunner_provider.database.config import MysqlConfig

__all__ = [
    "LoadStream", "asks_for_a_file", "connect", "driver", "file_refused", "limit_waits", "load_data", "reset",
    "tls_context", "unbuffered",
]  # fmt: skip

_PACKET = 256 * 1024
_RESET = 0x1F  # COM_RESET_CONNECTION


def driver() -> Any:
    """Return the module ``pymysql``.

    :raises MissingExtra: if it is not installed.
    """
    return load("pymysql", extra="mysql", needed_for="a connection to MySQL or MariaDB")


def tls_context(config: MysqlConfig) -> ssl.SSLContext | None:
    """Return the TLS context for the connection's ``ssl_mode`` and certificates; None for no TLS.

    :raises ConfigError: if a file cannot be read.
    """
    if config.ssl_mode == "DISABLED":
        return None
    try:
        context = ssl.create_default_context(cafile=config.ssl_ca or None, capath=config.ssl_capath or None)
        if config.ssl_cert:
            # without a password OpenSSL would ask for one at the terminal
            context.load_cert_chain(config.ssl_cert, config.ssl_key or None, password=lambda: "")
        if config.ssl_cipher:
            context.set_ciphers(config.ssl_cipher)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            "a certificate, key or cipher of the connection cannot be used",
            field="ssl",
            remedy="check the files under 'ssl' in the extra; they must be readable on the worker",
        ) from None
    context.check_hostname = config.ssl_mode == "VERIFY_IDENTITY"
    if not config.ssl_mode.startswith("VERIFY"):
        context.verify_mode = ssl.CERT_NONE
    return context


def connect(config: MysqlConfig, *, decoders: Mapping[int, Any], connect_timeout: float, silence: float) -> Connection:
    """Open a connection in utf8mb4 and autocommit mode."""
    pymysql = driver()
    flags = load("pymysql.constants.CLIENT", extra="mysql", needed_for="a connection to MySQL or MariaDB")
    in_the_clear = _in_the_clear(config)
    return _strict(config, flags)(
        host=config.host,
        port=config.port,
        unix_socket=config.unix_socket or None,
        user=config.login,
        password=config.password.encode(),
        database=config.schema or None,
        charset="utf8mb4",
        ssl=tls_context(config),
        conv={**pymysql.converters.conversions, **decoders},
        client_flag=flags.LOCAL_FILES | flags.FOUND_ROWS,
        autocommit=True,
        connect_timeout=connect_timeout,
        read_timeout=silence,
        write_timeout=silence,
        program_name="flowrunner",
        auth_plugin_map={"mysql_clear_password": in_the_clear, "dialog": in_the_clear},
    )


def _strict(config: MysqlConfig, flags: Any) -> Any:
    """Return the driver's connection class, extended to send no login without the required TLS."""
    connections = load("pymysql.connections", extra="mysql", needed_for="a connection to MySQL or MariaDB")
    required = config.ssl_mode not in ("DISABLED", "PREFERRED")

    class Strict(connections.Connection):  # type: ignore[misc, name-defined]
        def _request_authentication(self) -> None:
            if required and not self.server_capabilities & flags.SSL:
                raise AccessDenied(
                    f"{config.host}:{config.port} offers no TLS, which the connection requires",
                    remedy="enable TLS on the server; ssl_mode=PREFERRED in the extra would connect without it",
                )
            super()._request_authentication()

    return Strict


def _in_the_clear(config: MysqlConfig) -> type:
    """Return the handler for servers that request the cleartext password."""

    class InTheClear:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def authenticate(self, packet: Any) -> Any:
            del packet
            if not config.cleartext or not isinstance(self._connection._sock, ssl.SSLSocket):
                raise AccessDenied(
                    f"{config.host}:{config.port} requests the cleartext password; it was not sent",
                    remedy="use another authentication plugin, or iam over TLS",
                )
            self._connection.write_packet(self._connection.password + b"\0")
            return self._connection._read_packet()

    return InTheClear


def asks_for_a_file(error: BaseException | None) -> bool:
    """Return whether the driver refused a request of the server for a file."""
    return isinstance(error, RuntimeError) and "LOAD_LOCAL" in str(error)


def file_refused(where: str) -> SecurityError:
    """Return the error for a server that requests a file of the worker."""
    return SecurityError(f"{where} requested a file of the worker; it was not sent", remedy="do not use this server")


class LoadStream:
    """The data of a running ``LOAD DATA``; the server sets ``affected``, ``skipped`` and ``warnings`` at its end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.affected = self.skipped = self.warnings = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PACKET):
            self._connection.write_packet(bytes(view[start : start + _PACKET]))

    def finish(self) -> None:
        """Send the end of the data, and read the server's counts."""
        self._connection.write_packet(b"")
        protocol = load("pymysql.protocol", extra="mysql", needed_for="loading rows")
        answer = protocol.OKPacketWrapper(self._connection._read_packet())
        self._connection.server_status = answer.server_status
        self.affected, self.warnings = answer.affected_rows, answer.warning_count
        counts = dict(part.partition(b": ")[::2] for part in (answer.message or b"").split(b"  "))
        self.skipped = int(counts.get(b"Skipped", b"0") or 0)


@contextmanager
def load_data(connection: Connection, statement: str) -> Iterator[LoadStream]:
    """Run ``LOAD DATA LOCAL INFILE`` with the data that the block writes."""
    commands = load("pymysql.constants.COMMAND", extra="mysql", needed_for="loading rows")
    connection._execute_command(commands.COM_QUERY, statement)
    packet = connection._read_packet()
    if not packet.is_load_local_packet():
        raise AccessDenied("the server does not load local data", remedy="set local_infile=ON on the server")
    stream = LoadStream(connection)
    try:
        yield stream
    except BaseException:
        if connection.open:
            stream.finish()  # the server waits for the end; the caller rolls back what it stored
        raise
    stream.finish()


def unbuffered(connection: Connection) -> Any:
    """Return a cursor whose rows stay on the server until they are fetched."""
    cursors = load("pymysql.cursors", extra="mysql", needed_for="reading rows")
    return connection.cursor(cursors.SSCursor)


def limit_waits(connection: Connection, seconds: float) -> None:
    """Set how long to wait for a silent server."""
    connection._read_timeout = connection._write_timeout = max(1.0, seconds)


def reset(connection: Connection) -> None:
    """Reset settings, locks and temporary tables of the session."""
    connection._execute_command(_RESET, b"")
    protocol = load("pymysql.protocol", extra="mysql", needed_for="a connection to MySQL or MariaDB")
    connection.server_status = protocol.OKPacketWrapper(connection._read_packet()).server_status
    connection.set_character_set("utf8mb4")
    connection.autocommit(True)
