"""The settings of an ``ftp`` connection, read from what the official provider already uses."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option
from flowrunner_provider.files.stores.ftp_target import FtpTarget

__all__ = ["FtpConfig"]


@dataclass(frozen=True, kw_only=True)
class FtpConfig:
    """An ``ftp`` connection. ``passive`` and ``encoding`` are the official provider's extras, the rest is ours."""

    host: str = option(label="Host", help="name or address of the server; its certificate must be for it")
    port: int = option(21, label="Port", help="990 means implicit TLS")
    login: str = option("", label="Username", help="without one the login is anonymous")
    password: str = option("", label="Password", secret=True)
    passive: bool = option(True, label="Passive", help="false: the server opens the data connections to the worker")
    encoding: str = option("utf-8", label="Encoding", help="of names, e.g. cp1251")
    tls: bool = option(False, label="TLS only", help="refuse ftp:// addresses; the connection test uses TLS")
    implicit: bool = option(False, label="Implicit TLS", help="TLS at once instead of after AUTH TLS")
    ca_file: str = option("", label="CA file", help="PEM file of the authorities to trust instead of the system's")
    cert_file: str = option("", label="Client certificate", help="PEM file, for servers that ask for one")
    key_file: str = option("", label="Client key", help="PEM file, if the certificate's does not hold it")
    key_password: str = option("", label="Password of the client key", secret=True)
    verify: bool = option(True, label="Verify the certificate", help="false: anybody could answer")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")
    connections: int = option(4, label="Connections", help="the most reads, and the most writes, at a time")
    atomic_replace: bool | None = option(
        None, label="Replaces in one step", help="whether the server renames onto existing files; by default asked"
    )
    resumable_upload: bool = option(True, label="Resumes uploads", help="whether the server lets files be gone on with")
    test_folder: str = option(".", label="Folder to test", help="must be there for the connection test to pass")

    def __post_init__(self) -> None:
        for name in ("host", "login", "password"):
            if any(character in getattr(self, name) for character in "\r\n\0"):
                raise ConfigError(f"{name} holds a line break or NUL", field=name, remedy="remove it")
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")
        if self.key_file and not self.cert_file:
            raise ConfigError("a key is given and no certificate", field="cert_file", remedy="name its PEM file")
        if self.connections < 1:
            raise ConfigError("connections must be at least 1", field="connections", remedy="write e.g. 4")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(
                f"there is no encoding {self.encoding!r}", field="encoding", remedy="write e.g. utf-8 or cp1251"
            ) from None

    @property
    def tls_at_once(self) -> bool:
        """Whether TLS is implicit."""
        return self.implicit or self.port == 990

    def target(self, *, tls: bool) -> FtpTarget:
        """The same for the store.

        :param tls: for ``ftps://``.
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
