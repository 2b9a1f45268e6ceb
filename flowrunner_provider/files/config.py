"""The settings of a connection for files, read from what the official providers already use."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option
from flowrunner_provider.transport.ssh import CIPHERS, SshTarget

__all__ = ["SftpConfig"]


@dataclass(frozen=True, kw_only=True)
class SftpConfig:
    """An ``sftp`` or ``ssh`` connection. Names and meanings are those of the official providers."""

    host: str = option(label="Host", help="name or address of the server")
    port: int = option(22, label="Port")
    login: str | None = option(None, label="Username")
    password: str | None = option(None, label="Password", secret=True)
    key_file: str | None = option(None, label="Key file", help="path of the private key on the worker")
    private_key: str | None = option(None, label="Private key", help="its text, PEM or OpenSSH", secret=True)
    private_key_passphrase: str | None = option(None, label="Passphrase of the private key", secret=True)
    host_key: str | None = option(None, label="Host key", help="the server's public key: 'ssh-ed25519 AAAA...'")
    known_hosts: str | None = option(None, label="Known hosts", help="a file; by default ~/.ssh/known_hosts")
    no_host_key_check: bool = option(False, label="No host key check", help="accept any server: anybody could answer")
    look_for_keys: bool = option(True, label="Look for keys", help="try the worker's own keys and agent")
    ciphers: list[str] = option([], label="Ciphers", help="in order of preference")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")
    test_folder: str = option(".", label="Folder to test", help="must be there for the connection test to pass")

    def __post_init__(self) -> None:
        if self.host_key is not None and not self.host_key.strip():
            raise ConfigError("the host key is empty", field="host_key", remedy="write 'ssh-ed25519 AAAA...'")
        if self.host_key and self.no_host_key_check:
            raise ConfigError(
                "a host key is given and its check is switched off",
                field="no_host_key_check",
                remedy="remove no_host_key_check from the extra",
            )
        if self.private_key and self.key_file:
            raise ConfigError("private_key and key_file are both given", field="key_file", remedy="keep one of them")
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")

    def target(self) -> SshTarget:
        """The same for the transport."""
        unchecked = self.no_host_key_check or (self.known_hosts or "").lower() == "none"
        return SshTarget(
            host=self.host,
            port=self.port,
            login=self.login,
            password=self.password,
            key_file=self.key_file,
            private_key=self.private_key,
            passphrase=self.private_key_passphrase,
            host_key=self.host_key,
            known_hosts=self.known_hosts,
            verify_host_key=not unchecked,
            look_for_keys=self.look_for_keys,
            ciphers=tuple(self.ciphers) or CIPHERS,
            connect_timeout=self.conn_timeout,
            timeout=self.timeout,
        )
