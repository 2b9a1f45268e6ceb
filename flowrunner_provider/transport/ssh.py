"""SSH connections for SFTP: the host key is verified, every wait has a timeout, every error has a remedy.

Measured with asyncssh: ``aes128-gcm`` is the fastest cipher, compression only costs time, and the default channel
window of 2 MiB throttles downloads over long distances, so :func:`start_sftp` opens a larger one.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    HostKeyMismatch,
    MissingCredential,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.transport.sftp_session import SftpSession
from flowrunner_provider.transport.ssh_errors import ssh_errors
from flowrunner_provider.transport.ssh_tuning import tune, tune_channel

if TYPE_CHECKING:
    import asyncssh

__all__ = ["CHANNEL_WINDOW", "CIPHERS", "SshTarget", "connect", "start_sftp"]

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
"""The ciphers by preference; every OpenSSH of the last ten years supports all of them."""

CHANNEL_WINDOW = 16 * 1024 * 1024
"""Bytes in flight to this side: enough for 1 Gbit/s at a round trip of 100 ms."""

_log = logging.getLogger("flowrunner.ssh")


@dataclass(frozen=True, kw_only=True)
class SshTarget:
    """A server, its trusted key and the credentials for it.

    :param host_key: the public key of the server as ``type base64`` (or the bare base64 of an RSA key).
    :param known_hosts: a file in the format of OpenSSH; None for ``~/.ssh/known_hosts`` if that exists.
    :param verify_host_key: False accepts any server; only set it if the user asks for it.
    :param look_for_keys: offer the keys in ``~/.ssh`` and of the agent if the connection has no key.
    :param connect_timeout: seconds for the TCP connection.
    :param login_timeout: seconds for the login.
    :param timeout: seconds that the server may take for an answer during a transfer.
    :param keepalive: seconds between keepalive messages; three unanswered ones end the connection.
    """

    host: str
    port: int = 22
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    key_file: str | None = None
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    host_key: str | None = None
    known_hosts: str | None = None
    verify_host_key: bool = True
    look_for_keys: bool = True
    ciphers: tuple[str, ...] = CIPHERS
    connect_timeout: float = 15.0
    login_timeout: float = 20.0
    timeout: float = 60.0
    keepalive: float = 15.0

    @property
    def where(self) -> str:
        """``host:port``, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def user(self) -> str:
        """The login; by default the user that the worker runs as."""
        return self.login or getpass.getuser()

    def known(self) -> bytes | str | None:
        """Return the argument ``known_hosts``: a line, a path, ``b""`` to trust no key, or None to skip the check."""
        if not self.verify_host_key:
            return None
        if self.host_key:
            words = self.host_key.split()
            key = " ".join(words[:2]) if len(words) >= 2 else f"ssh-rsa {words[0]}"
            name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
            return f"{name} {key}\n".encode()
        path = Path(self.known_hosts or "~/.ssh/known_hosts").expanduser()
        if path.is_file():
            return str(path)
        if self.known_hosts:
            raise ConfigError(
                f"the known_hosts file {path} does not exist",
                field="known_hosts",
                remedy="correct the path, or set the extra `host_key` to the public key of the server",
            )
        return b""


def _ssh() -> Any:
    return load("asyncssh", extra="sftp", needed_for="SFTP")


@asynccontextmanager
async def connect(target: SshTarget) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Open a connection to a server with a trusted host key; close it on exit.

    :raises HostKeyMismatch: the server presented another key than the trusted one.
    :raises ConfigError: no key of the server is trusted yet; the message contains the one to add.
    :raises AccessDenied: the server refused the login.
    :raises ConnectionLost: the server cannot be reached.
    """
    connection = await _connect(target)
    try:
        yield connection
    finally:
        connection.close()
        try:
            async with asyncio.timeout(2.0):
                await connection.wait_closed()
        except TimeoutError:
            connection.abort()


async def _connect(target: SshTarget) -> asyncssh.SSHClientConnection:
    ssh = _ssh()
    if not logging.getLogger("asyncssh").level:
        ssh.set_log_level(logging.WARNING)  # it logs every session at INFO
    known = target.known()
    if known is None:
        _log.warning("The host key of %s is not verified (no_host_key_check): any server is accepted", target.where)
    presented: list[Any] = []

    class Client(ssh.SSHClient):  # type: ignore[misc, name-defined]
        def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
            presented.append(key)
            return False

    try:
        async with asyncio.timeout(target.connect_timeout + target.login_timeout):
            connection: asyncssh.SSHClientConnection = await ssh.connect(
                target.host,
                target.port,
                known_hosts=known,
                client_factory=Client,
                config=None,
                username=target.user,
                encryption_algs=list(target.ciphers),
                compression_algs=["none"],
                connect_timeout=target.connect_timeout,
                login_timeout=target.login_timeout,
                keepalive_interval=target.keepalive,
                keepalive_count_max=3,
                **_credentials(target),
            )
            tune(connection)
            return connection
    except (ssh.HostKeyNotVerifiable, ssh.KeyExchangeFailed, ssh.ConnectionLost, ConnectionResetError) as error:
        raise await _connection_error(target, known, presented, error) from error
    except (ssh.Error, OSError, ValueError) as error:
        raise _login_error(error, target) from error


def _credentials(target: SshTarget) -> dict[str, Any]:
    """Return the credentials as arguments of asyncssh, which tries each of them once."""
    ssh = _ssh()
    password = (target.password or "").rstrip("\r\n")  # secrets that are read from a file end with a line break
    arguments: dict[str, Any] = {"password": password or None, "kbdint_auth": bool(password)}
    try:
        if target.private_key:
            arguments["client_keys"] = [ssh.import_private_key(target.private_key, target.passphrase)]
        elif target.key_file:
            path = Path(target.key_file).expanduser()
            arguments["client_keys"] = [ssh.read_private_key(str(path), target.passphrase)]
        elif not target.look_for_keys:
            arguments["client_keys"] = None
    except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
        raise MissingCredential(
            f"the private key for {target.where} cannot be read: {error}",
            field="private_key" if target.private_key else "key_file",
            remedy="provide the complete key in OpenSSH or PEM format, and its passphrase as `private_key_passphrase`",
        ) from error
    except OSError as error:
        raise MissingCredential(
            f"the key file {target.key_file} cannot be read: {error.strerror}",
            field="key_file",
            remedy="correct the path, or the permissions of the file, on the worker",
        ) from error
    if "client_keys" in arguments:
        arguments["agent_path"] = None
    return arguments


async def _connection_error(
    target: SshTarget, known: bytes | str | None, presented: list[Any], error: Exception
) -> FlowRunnerError:
    """Return the error for a failed connection, in particular for an untrusted host key.

    A server without a key of the trusted type disconnects before it presents one. Its key is then fetched separately.
    """
    ssh = _ssh()
    trusted = [] if known is None else [*ssh.match_known_hosts(known, target.host, "", target.port)[0]]
    if not presented and trusted:
        try:
            async with asyncio.timeout(target.connect_timeout):
                key = await ssh.get_server_host_key(target.host, target.port, config=None)
        except (ssh.Error, OSError):
            key = None
        if key is not None and key not in trusted:
            presented.append(key)
    if presented:
        return _host_key_error(target, presented[-1], bool(trusted))
    if isinstance(error, ssh.KeyExchangeFailed):
        return Rejected(
            f"{target.where} supports none of the offered algorithms: {error}",
            remedy="set the extra `ciphers` to one that the server supports",
        )
    if isinstance(error, ssh.HostKeyNotVerifiable):
        return HostKeyMismatch(
            f"the key of {target.where} is not trusted: {error}", remedy="ask the owner of the server for its key"
        )
    return _login_error(error, target)


def _host_key_error(target: SshTarget, key: Any, known: bool) -> FlowRunnerError:
    """Return the error for a key that differs from the trusted one, or if none is trusted yet."""
    fingerprint = key.get_fingerprint()
    line = " ".join(key.export_public_key().decode().split()[:2])
    if known:
        return HostKeyMismatch(
            f"{target.where} presented the key {fingerprint} instead of the trusted one",
            remedy="ask the owner of the server, over another channel, whether the key was changed; another server "
            f"may be answering. If it was changed, set the extra `host_key` to '{line}'",
        )
    return ConfigError(
        f"no key of {target.where} is trusted yet; it presented {fingerprint}",
        field="host_key",
        remedy="compare the fingerprint with that from the owner of the server, then set the extra `host_key` "
        f"to '{line}'",
    )


def _login_error(error: Exception, target: SshTarget) -> FlowRunnerError:
    ssh = _ssh()
    if isinstance(error, ssh.PermissionDenied):
        return AccessDenied(
            f"{target.where} refused the login of {target.user!r} (tried: {_tried_credentials(target)})",
            remedy="correct login, password or key in the connection; see also the log of the server",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(
            f"{target.where} did not answer within {target.connect_timeout + target.login_timeout:g} s",
            remedy="check host, port and firewall",
        )
    if isinstance(error, ValueError):
        return ConfigError(
            f"invalid settings for {target.where}: {error}", field="extra", remedy="correct the connection"
        )
    if isinstance(error, OSError):
        return ConnectionLost(
            f"{target.where} cannot be reached: {error.strerror or error}", remedy="check host, port and firewall"
        )
    if isinstance(error, ssh.ConnectionLost):
        return ConnectionLost(
            f"{target.where} disconnected during the login: {error}",
            remedy="it may have too many connections (MaxStartups), or not be an SSH server",
        )
    return Unavailable(f"{target.where}: {error}", remedy="see the log of the server")


def _tried_credentials(target: SshTarget) -> str:
    tried = []
    if target.private_key or target.key_file:
        tried.append("the key of the connection")
    elif target.look_for_keys:
        tried.append("the worker's own keys")
    if target.password:
        tried.append("password")
    return ", ".join(tried) or "nothing: the connection has no credential"


async def start_sftp(connection: asyncssh.SSHClientConnection, timeout: float) -> SftpSession:
    """Start an SFTP session with a large channel window.

    :param timeout: seconds for the start of the session, then for each answer.
    """
    with ssh_errors("starting SFTP"):
        async with asyncio.timeout(timeout):
            factory = cast("type[asyncssh.SSHClientSession[bytes]]", partial(SftpSession, timeout))
            channel, opened = await connection.create_session(
                factory, subsystem="sftp", encoding=None, window=CHANNEL_WINDOW
            )
            tune_channel(channel)
            session = cast("SftpSession", opened)
            await session.start()
            return session
