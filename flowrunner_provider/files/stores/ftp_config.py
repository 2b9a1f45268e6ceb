"""The settings of an ``ftp`` connection."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option
from flowrunner_provider.files.stores.ftp_target import FtpTarget

__all__ = ["FtpConfig"]


@dataclass(frozen=True, kw_only=True)
class FtpConfig:
    """An ``ftp`` connection: the extras ``passive`` and ``encoding`` of the official provider, and our own options."""

    host: str = option(label="Host", help="host name or IP address; the server's certificate must match it")
    port: int = option(21, label="Port", help="default 21; 990 implies implicit TLS")
    login: str = option("", label="Username", help="empty: anonymous login")
    password: str = option("", label="Password", secret=True)
    passive: bool = option(
        True, label="Passive", help="false: active mode, the server opens the data connections to the worker"
    )
    encoding: str = option("utf-8", label="Encoding", help="encoding of file names, e.g. cp1251")
    tls: bool = option(False, label="TLS only", help="refuse ftp:// addresses, and test the connection with TLS")
    implicit: bool = option(False, label="Implicit TLS", help="start TLS immediately instead of with AUTH TLS")
    ca_file: str = option(
        "", label="CA file", help="PEM file of certificate authorities to trust instead of the system's"
    )
    cert_file: str = option(
        "", label="Client certificate", help="PEM file, for servers that require a client certificate"
    )
    key_file: str = option("", label="Client key", help="PEM file, if the key is not in the certificate file")
    key_password: str = option("", label="Password of the client key", secret=True)
    verify: bool = option(True, label="Verify the certificate", help="false: anyone could impersonate the server")
    conn_timeout: float = option(15.0, label="Connect timeout", help="seconds for connection, TLS and login")
    timeout: float = option(60.0, label="Timeout", help="seconds without an answer from the server")
    connections: int = option(4, label="Connections", help="the most parallel reads, and the most parallel writes")
    atomic_replace: bool | None = option(
        None, label="Atomic replace", help="whether RNTO replaces existing files; default: guessed from the server type"
    )
    resumable_upload: bool = option(
        True, label="Resume uploads", help="false: the server does not allow appending to files"
    )
    test_folder: str = option(".", label="Test folder", help="must exist for the connection test to pass")

    def __post_init__(self) -> None:
        for name in ("host", "login", "password"):
            if any(character in getattr(self, name) for character in "\r\n\0"):
                raise ConfigError(f"{name} contains a line break or NUL", field=name, remedy="remove it")
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")
        if self.key_file and not self.cert_file:
            raise ConfigError(
                "key_file is set without cert_file", field="cert_file", remedy="set the PEM file of the certificate"
            )
        if self.connections < 1:
            raise ConfigError("connections must be at least 1", field="connections", remedy="write e.g. 4")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(
                f"unknown encoding {self.encoding!r}", field="encoding", remedy="write e.g. utf-8 or cp1251"
            ) from None

    @property
    def tls_at_once(self) -> bool:
        """Whether TLS starts immediately (implicit TLS)."""
        return self.implicit or self.port == 990

    def target(self, *, tls: bool) -> FtpTarget:
        """Return the settings as the store takes them.

        :param tls: True for ``ftps://`` addresses.
        """
        return FtpTarget(
            host=self.host,
            port=self.port,
            login=self.login,
            password=self.password,
            security=("implicit" if self.tls_at_once else "explicit") if tls else "plain",
            passive=self.passive,
            encoding=self.encoding,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            key_password=self.key_password,
            verify=self.verify,
            connect_timeout=self.conn_timeout,
            timeout=self.timeout,
            connections=self.connections,
            atomic_replace=self.atomic_replace,
            resumable_upload=self.resumable_upload,
        )
