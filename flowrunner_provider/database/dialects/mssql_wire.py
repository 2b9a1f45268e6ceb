"""python-tds connections: TLS by Python's ``ssl``, verified before the login is sent.

The driver's own TLS matches host names itself, and drops TLS when the server redirects. So TLS is hidden from it:
:class:`Channel` sits between driver and socket, and negotiates TLS in the first exchange ([MS-TDS] 2.2.6.5).
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import AccessDenied, ConfigError, ConnectionLost
from flowrunner_provider.core.extras import load

if TYPE_CHECKING:
    from flowrunner_provider.database.config import MssqlConfig

__all__ = ["Channel", "batches", "connect", "driver", "tls_context"]

_PRELOGIN, _REPLY = 0x12, 0x04
_VERSION_END, _ENCRYPTION, _END = 0, 1, 0xFF
_ON, _NONE, _REQUIRED = 1, 2, 3
_BLOCK = 65536
_PACKET = 32767
_FOR = "a connection to SQL Server"


def driver(module: str = "pytds") -> Any:
    """Return a module of python-tds.

    :raises MissingExtra: if it is not installed.
    """
    return load(module, extra="mssql", needed_for=_FOR)


def tls_context(config: MssqlConfig) -> ssl.SSLContext | None:
    """Return the TLS context of the connection; None for no TLS. TLS 1.3 exists only in TDS 8.0.

    :raises ConfigError: if the file of authorities cannot be read.
    """
    if not config.encrypt:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            "the file of certificate authorities cannot be used",
            field="ca_file",
            remedy="give the path of a PEM file that is readable on the worker",
        ) from None
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if config.trust_server_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Channel:
    """The socket that the driver sees, with TLS inside.

    :param context: the TLS context; None for no TLS.
    :param name: the name that the certificate must have.
    """

    def __init__(self, raw: socket.socket, context: ssl.SSLContext | None, name: str, where: str) -> None:
        self.raw = raw
        self._context, self._name, self._where = context, name, where
        self._greeted = False
        self._ready = bytearray()  # data that the driver reads before the socket's
        self._tls: ssl.SSLObject | None = None
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()

    def gettimeout(self) -> float | None:
        return self.raw.gettimeout()

    def settimeout(self, timeout: float | None) -> None:
        self.raw.settimeout(timeout)

    def setsockopt(self, *options: Any) -> None:
        self.raw.setsockopt(*options)

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        with suppress(OSError):
            self.raw.shutdown(how)

    def close(self) -> None:
        with suppress(OSError):
            self.raw.close()

    def sendall(self, data: bytes | bytearray, flags: int = 0) -> None:
        del flags
        if not self._greeted:
            self._greet(bytearray(data))
        elif self._tls is None:
            self.raw.sendall(data)
        else:
            self._tls.write(data)
            self.raw.sendall(self._out.read())

    def recv(self, size: int, flags: int = 0) -> bytes:
        del flags
        if self._ready:
            found = bytes(self._ready[:size])
            del self._ready[:size]
            return found
        if self._tls is None:
            return self.raw.recv(size)
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                data = self.raw.recv(_BLOCK)
                if not data:
                    return b""
                self._into.write(data)
            except ssl.SSLZeroReturnError:
                return b""

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0, flags: int = 0) -> int:
        if self._tls is None and not self._ready:
            return self.raw.recv_into(buffer, size, flags)
        found = self.recv(size or len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _greet(self, packet: bytearray) -> None:
        """Send the first packet with our TLS option, negotiate TLS, and hide it in the answer to the driver."""
        self._greeted = True
        wanted = _NONE if self._context is None else _ON
        packet[_option(packet)] = wanted
        self.raw.sendall(packet)
        kind, answer = self._packet()
        place = _option(answer) if kind == _REPLY else 0
        if not place:
            raise ConnectionLost(f"{self._where} does not answer like a SQL Server", remedy="check host and port")
        offered, answer[place] = answer[place], _NONE
        if self._context is None and offered == _REQUIRED:
            raise AccessDenied(f"{self._where} accepts no connection without TLS", remedy="set encrypt=true")
        if self._context is not None:
            if offered not in (_ON, _REQUIRED):
                raise AccessDenied(
                    f"{self._where} offers no TLS, which the connection requires; no login was sent",
                    remedy="install a certificate on the server; encrypt=false under 'flowrunner' connects without TLS",
                )
            self._shake_hands(self._context)
        self._ready += answer

    def _shake_hands(self, context: ssl.SSLContext) -> None:
        """Run the TLS handshake, which is wrapped in TDS packets; later data is not."""
        tls = context.wrap_bio(self._into, self._out, server_hostname=self._name)
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            if data := self._out.read():
                self.raw.sendall(struct.pack(">BBHHBB", _PRELOGIN, 1, len(data) + 8, 0, 0, 0) + data)
            if not done:
                _, answer = self._packet()
                self._into.write(bytes(answer[8:]))
        self._tls = tls

    def _packet(self) -> tuple[int, bytearray]:
        found = self._exactly(8)
        kind, _, size = struct.unpack(">BBH", found[:4])
        return kind, found + self._exactly(max(0, size - 8))

    def _exactly(self, size: int) -> bytearray:
        found = bytearray()
        while len(found) < size:
            data = self.raw.recv(size - len(found))
            if not data:
                raise ConnectionLost(f"{self._where} hung up before the login", remedy="check host and port")
            found += data
        return found


def _option(packet: bytearray) -> int:
    """Return the index of the encryption byte in a PRELOGIN packet; 0 if there is none."""
    at = 8
    while at + 5 <= len(packet) and packet[at] != _END:
        token, place, size = struct.unpack_from(">BHH", packet, at)
        if token == _ENCRYPTION and size and 8 + place < len(packet):
            return int(8 + place)
        at += 5
    return 0


def connect(config: MssqlConfig, *, connect_timeout: float, silence: float) -> tuple[Any, Channel]:
    """Open a connection in autocommit mode; return it with its channel."""
    logging.getLogger(driver().__name__).setLevel(logging.WARNING)  # it logs statements with their values
    host, port = config.host, config.port
    context = tls_context(config)
    for _ in range(2):  # a gateway may redirect us once
        where = f"{host}:{port}"
        raw = socket.create_connection((host, port), connect_timeout)
        name = config.host_name_in_certificate if host == config.host else ""
        channel = Channel(raw, context, name or host, where)
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tds = driver("pytds.tds_socket")._TdsSocket(
                sock=channel,
                login=_login(config, host, port, connect_timeout),
                row_strategy=driver().tuple_row_strategy,
                autocommit=True,
            )
            route = tds.login()
        except BaseException:
            channel.close()
            raise
        if route is None:
            channel.settimeout(silence)
            made = driver("pytds.connection").NonMarsConnection(pooling=False, key=None, tds_socket=tds)
            return made, channel
        channel.close()
        host, port = str(route["server"]), int(route["port"])
    raise ConnectionLost(f"{config.host}:{config.port} redirects more than once", remedy="check the gateway")


def _login(config: MssqlConfig, host: str, port: int, timeout: float) -> Any:
    base = driver("pytds.tds_base")
    login = base._TdsLogin()
    login.client_host_name = socket.gethostname()[:128]
    login.library = "flowrunner"
    login.server_name, login.port = host, port
    login.user_name, login.password, login.database = config.login, config.password, config.schema
    login.app_name = config.app_name
    login.client_lcid = driver("pytds.lcid").LANGID_ENGLISH_US
    login.enc_flag = _NONE
    login.option_flag2 = base.TDS_ODBC_ON
    login.connect_timeout, login.query_timeout = timeout, None
    login.blocksize = _PACKET
    login.readonly = config.read_only
    login.bytes_to_unicode = True
    return login


def batches(cursor: Any, rows: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a result in batches."""
    guid = driver("pytds.tds_base").SYBUNIQUE
    texts = [place for place, column in enumerate(cursor.description or ()) if column[1] == guid]
    found: Iterator[list[tuple[Any, ...]]] = iter(lambda: cursor.fetchmany(rows), [])
    return (_as_text(batch, texts) for batch in found) if texts else found


def _as_text(batch: list[tuple[Any, ...]], places: Sequence[int]) -> list[tuple[Any, ...]]:
    """Convert ``uniqueidentifier`` values to text as the server writes them."""
    rows = [list(row) for row in batch]
    for row in rows:
        for place in places:
            row[place] = None if row[place] is None else str(row[place]).upper()
    return [tuple(row) for row in rows]
