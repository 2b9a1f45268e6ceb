"""SSH connections for SFTP: the server's key is verified, every wait has an end, and errors say what to do.

Measured on asyncssh: ``aes128-gcm`` is the fastest cipher, compression only costs, and the channel window of
2 MiB that it opens by default throttles long-distance downloads, so :func:`start_sftp` asks for more.
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
"""The order in which ciphers are offered; all of them are in every OpenSSH of the last ten years."""

CHANNEL_WINDOW = 16 * 1024 * 1024
"""What may be under way to us at once, in bytes: enough for 1 Gbit/s at 100 ms."""

_log = logging.getLogger("flowrunner.ssh")


@dataclass(frozen=True, kw_only=True)
class SshTarget:
    """Where to connect and how to prove who is who.

    :param host_key: the server's public key as ``type base64`` (or bare base64 of an RSA key).
    :param known_hosts: a file in OpenSSH's format; None for ``~/.ssh/known_hosts`` if that exists.
    :param verify_host_key: False to accept any server; only ever by the user's explicit wish.
    :param timeout: the longest silence during a transfer, seconds.
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
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def user(self) -> str:
        """The login; without one, the user that the worker runs as."""
        return self.login or getpass.getuser()

    def known(self) -> bytes | str | None:
        """What asyncssh takes for ``known_hosts``: a line, a file, nothing trusted, or (None) no check."""
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
                f"the known_hosts file {path} is not there",
                field="known_hosts",
                remedy="correct the path, or put the server's key into the extra `host_key`",
            )
        return b""


def _ssh() -> Any:
    return load("asyncssh", extra="sftp", needed_for="SFTP")


@asynccontextmanager
async def connect(target: SshTarget) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An SSH connection whose server has proved to be the known one; closed at the end.

    :raises HostKeyMismatch: the server shows another key than the known one.
    :raises ConfigError: no key of the server is known; the message has the one to add.
    :raises AccessDenied: it refused the login.
    :raises ConnectionLost: it cannot be reached.
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
        ssh.set_log_level(logging.WARNING)  # it tells each packet's story at INFO
    known = target.known()
    if known is None:
        _log.warning("The host key of %s is not verified (no_host_key_check): anybody could answer", target.where)
    seen: list[Any] = []

    class Client(ssh.SSHClient):  # type: ignore[misc, name-defined]
        def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
            seen.append(key)
            return False

    try:
        async with asyncio.timeout(target.connect_timeout + target.login_timeout):
            opened: asyncssh.SSHClientConnection = await ssh.connect(
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
            tune(opened)
            return opened
    except (ssh.HostKeyNotVerifiable, ssh.KeyExchangeFailed, ssh.ConnectionLost, ConnectionResetError) as error:
        raise await _refusal(target, known, seen, error) from error
    except (ssh.Error, OSError, ValueError) as error:
        raise _connect_error(error, target) from error


def _credentials(target: SshTarget) -> dict[str, Any]:
    """The credentials, as asyncssh takes them; asked for once, so that a wrong one fails at once."""
    ssh = _ssh()
    password = (target.password or "").rstrip("\r\n")  # which a secret that was read from a file ends with
    given: dict[str, Any] = {"password": password or None, "kbdint_auth": bool(password)}
    try:
        if target.private_key:
            given["client_keys"] = [ssh.import_private_key(target.private_key, target.passphrase)]
        elif target.key_file:
            path = Path(target.key_file).expanduser()
            given["client_keys"] = [ssh.read_private_key(str(path), target.passphrase)]
        elif not target.look_for_keys:
            given["client_keys"] = None
    except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
        raise MissingCredential(
            f"the private key for {target.where} cannot be read: {error}",
            field="private_key" if target.private_key else "key_file",
            remedy="give the whole key in OpenSSH or PEM form, and its passphrase as `private_key_passphrase`",
        ) from error
    except OSError as error:
        raise MissingCredential(
            f"the key file {target.key_file} cannot be read: {error.strerror}",
            field="key_file",
            remedy="correct the path, or its mode, on the worker",
        ) from error
    if "client_keys" in given:
        given["agent_path"] = None
    return given


async def _refusal(target: SshTarget, known: bytes | str | None, seen: list[Any], error: Exception) -> FlowRunnerError:
    """Why no connection came about: the server's key, or something else.

    A server that has no key of the known type hangs up before it shows one: then it is asked for what it has.
    """
    ssh = _ssh()
    trusted = [] if known is None else [*ssh.match_known_hosts(known, target.host, "", target.port)[0]]
    if not seen and trusted:
        try:
            async with asyncio.timeout(target.connect_timeout):
                key = await ssh.get_server_host_key(target.host, target.port, config=None)
        except (ssh.Error, OSError):
            key = None
        if key is not None and key not in trusted:
            seen.append(key)
    if seen:
        return _wrong_key(target, seen[-1], bool(trusted))
    if isinstance(error, ssh.KeyExchangeFailed):
        return Rejected(
            f"{target.where} and this client have no algorithm in common: {error}",
            remedy="set the extra `ciphers` to one that the server has",
        )
    if isinstance(error, ssh.HostKeyNotVerifiable):
        return HostKeyMismatch(f"the key of {target.where} is not trusted: {error}", remedy="ask its owner")
    return _connect_error(error, target)


def _wrong_key(target: SshTarget, key: Any, known: bool) -> FlowRunnerError:
    """What to say about a key that is not the known one, or where none is known."""
    fingerprint = key.get_fingerprint()
    line = " ".join(key.export_public_key().decode().split()[:2])
    if known:
        return HostKeyMismatch(
            f"{target.where} shows the key {fingerprint}, which is not the known one",
            remedy="ask the owner of the server, by another way, whether the key was changed; somebody else may "
            f"be answering. If it is right, set the extra `host_key` to '{line}'",
        )
    return ConfigError(
        f"no key of {target.where} is known; it shows {fingerprint}",
        field="host_key",
        remedy="compare the fingerprint with what the owner of the server says, then set the extra `host_key` "
        f"to '{line}'",
    )


def _connect_error(error: Exception, target: SshTarget) -> FlowRunnerError:
    ssh = _ssh()
    if isinstance(error, ssh.PermissionDenied):
        return AccessDenied(
            f"{target.where} refused the login of {target.user!r} (tried: {_tried(target)})",
            remedy="correct login, password or key in the connection; the server's log says more",
        )
    if isinstance(error, TimeoutError):
        return TimedOut(
            f"{target.where} did not answer within {target.connect_timeout + target.login_timeout:g} s",
            remedy="check host, port and firewall",
        )
    if isinstance(error, ValueError):
        return ConfigError(
            f"the settings for {target.where} do not fit: {error}", field="extra", remedy="correct the connection"
        )
    if isinstance(error, OSError):
        return ConnectionLost(
            f"{target.where} cannot be reached: {error.strerror or error}", remedy="check host, port and firewall"
        )
    if isinstance(error, ssh.ConnectionLost):
        return ConnectionLost(
            f"{target.where} hung up during the login: {error}",
            remedy="it may have too many connections (MaxStartups), or not speak SSH",
        )
    return Unavailable(f"{target.where}: {error}", remedy="look at the server's log")


def _tried(target: SshTarget) -> str:
    tried = []
    if target.private_key or target.key_file:
        tried.append("the key of the connection")
    elif target.look_for_keys:
        tried.append("the worker's own keys")
    if target.password:
        tried.append("password")
    return ", ".join(tried) or "nothing: the connection has no credential"


async def start_sftp(connection: asyncssh.SSHClientConnection, timeout: float) -> SftpSession:
    """An SFTP session with a wide channel window.

    :param timeout: seconds for the server to start it, and afterwards for each answer.
    """
    with ssh_errors("the start of SFTP"):
        async with asyncio.timeout(timeout):
            factory = cast("type[asyncssh.SSHClientSession[bytes]]", partial(SftpSession, timeout))
            channel, opened = await connection.create_session(
                factory, subsystem="sftp", encoding=None, window=CHANNEL_WINDOW
            )
            tune_channel(channel)
            session = cast("SftpSession", opened)
            await session.start()
            return session
