"""The FTP server, its credentials, and checks of what is sent to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Literal

from flowrunner_provider.core.errors import ConfigError, PathEscape

__all__ = ["FtpTarget", "line_safe", "parent_of"]


@dataclass(frozen=True, kw_only=True)
class FtpTarget:
    """An FTP server and how to connect to it.

    :param security: ``explicit`` starts TLS with AUTH TLS, ``implicit`` immediately.
    :param ca_file: certificate authorities to trust instead of the system's.
    :param cert_file: the client certificate; ``key_file`` is needed if it does not contain the key.
    :param connect_timeout: seconds each for the connection, TLS and the login.
    :param timeout: seconds without an answer from the server.
    :param connections: the most parallel reads, and the most parallel writes.
    """

    host: str
    port: int = 21
    login: str = ""
    password: str = ""
    security: Literal["plain", "explicit", "implicit"] = "plain"
    passive: bool = True
    encoding: str = "utf-8"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)
    verify: bool = True
    connect_timeout: float = 15.0
    timeout: float = 60.0
    connections: int = 4
    atomic_replace: bool | None = None
    resumable_upload: bool = True

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext | None:
        """Return one context for all connections of a store, so that TLS sessions can be resumed."""
        if self.security == "plain":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"ca_file {self.ca_file!r} cannot be read",
                field="ca_file",
                remedy="set the path of a PEM file that exists on every worker",
            ) from error
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file or None, password=lambda: self.key_password)
            except OSError as error:  # includes ssl.SSLError
                raise ConfigError(
                    f"the client certificate {self.cert_file!r} or its key cannot be used",
                    field="cert_file",
                    remedy="set paths of PEM files that exist on every worker, and key_password for an encrypted key",
                ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def line_safe(text: str) -> str:
    """Return ``text`` unchanged if it is safe in a command; a line break would start a second command.

    :raises PathEscape: if it is not safe.
    """
    if any(character in text for character in "\r\n\0"):
        raise PathEscape(f"the path {text[:80]!a} contains a line break or NUL", remedy="rename it at its source")
    return text


def parent_of(path: str) -> str:
    """Return the folder of an absolute path."""
    return path.rstrip("/").rpartition("/")[0] or "/"
