"""Which FTP server, how to prove who is who, and what may be said to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Literal

from flowrunner_provider.core.errors import ConfigError, PathEscape

__all__ = ["FtpTarget", "line_safe", "parent_of"]


@dataclass(frozen=True, kw_only=True)
class FtpTarget:
    """Where to connect and how.

    :param security: ``explicit`` starts with AUTH TLS, ``implicit`` with TLS at once.
    :param ca_file: authorities to trust instead of the system's.
    :param cert_file: what the worker shows to a server that asks who it is; ``key_file`` if the key is not in it.
    :param connect_timeout: for the connection, TLS and the login, seconds each.
    :param timeout: the longest silence, seconds.
    :param connections: how many reads, and how many writes, may be under way.
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
        """For all connections of one store: only so a TLS session can be taken up again."""
        if self.security == "plain":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"ca_file {self.ca_file!r} cannot be read",
                field="ca_file",
                remedy="name a PEM file that every worker has",
            ) from error
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file or None, password=lambda: self.key_password)
            except OSError as error:  # of which an SSLError is one
                raise ConfigError(
                    f"the client certificate {self.cert_file!r} or its key cannot be used",
                    field="cert_file",
                    remedy="name PEM files that every worker has, and `key_password` if the key is encrypted",
                ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def line_safe(text: str) -> str:
    """``text`` as it may stand in a command; a line break in it would be a second command.

    :raises PathEscape: if it may not.
    """
    if any(character in text for character in "\r\n\0"):
        raise PathEscape(f"the path {text[:80]!a} holds a line break or NUL", remedy="rename it at its source")
    return text


def parent_of(path: str) -> str:
    """The folder of an absolute path."""
    return path.rstrip("/").rpartition("/")[0] or "/"
