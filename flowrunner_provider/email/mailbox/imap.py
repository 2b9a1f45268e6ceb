"""An asynchronous IMAP connection (RFC 3501) on top of imapclient, which runs in its own thread.

Messages are addressed by UID and always read with BODY.PEEK, which does not mark them as read. Every step has a
deadline. A missed deadline or a cancelled task cuts the connection, so that no thread is left waiting.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, SecurityError, TimedOut
from flowrunner_provider.core.extras import load
from flowrunner_provider.email.mailbox.imap_config import ImapConfig
from flowrunner_provider.email.mailbox.imap_errors import typed

if TYPE_CHECKING:
    from imapclient import IMAPClient

    from flowrunner_provider.email.mailbox.search import Criteria

__all__ = ["ImapSession", "Selected"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A folder as it was when it was opened.

    :param uidvalidity: UIDs are only good together with it.
    :param keywords: the flags that can be kept there; ``\\*`` for any.
    """

    uidvalidity: int
    uidnext: int
    keywords: frozenset[str]


class ImapSession:
    """A connection that is logged in. Its calls come one after another.

    :param secret: the password, or the access token.
    """

    def __init__(self, config: ImapConfig, secret: str, deadline: Deadline) -> None:
        self.config, self.deadline = config, deadline
        self._secret = secret
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imap")
        self._client: IMAPClient | None = None
        self._capabilities: frozenset[bytes] = frozenset()

    async def open(self) -> None:
        """Connect, make the connection safe, log in.

        :raises SecurityError: when TLS cannot be had as configured.
        """
        try:
            await self._do("connect to", self._connect, patience=2.0)
            await self._do("log in to", self._login)
        except BaseException:
            self.abort()
            raise

    def _connect(self) -> None:
        imapclient = load("imapclient", extra="imap", needed_for="reading mail")
        config = self.config
        context = None if config.security == "plain" else _tls_context(config)
        seconds = max(0.001, self.deadline.limit(config.timeout))
        self._client = client = imapclient.IMAPClient(
            config.host, config.effective_port, ssl=config.security == "tls", ssl_context=context, timeout=seconds
        )
        client.normalise_times = False
        if config.security != "starttls":
            return
        if not client.has_capability(b"STARTTLS"):
            raise SecurityError(
                f"mail server {config.server} does not offer STARTTLS, or somebody took the offer away",
                remedy='ask the server\'s administrator; "security": "plain" under \'flowrunner\' is in clear text',
            )
        client.starttls(context)

    def _login(self) -> None:
        client, config = self._connected(), self.config
        if config.grant != "password":
            first = f"user={config.login}\x01auth=Bearer {self._secret}\x01\x01"
            # A refusal comes as a challenge, to which the answer is empty.
            client.sasl_login("XOAUTH2", lambda challenge: b"" if challenge else first)
        elif client.has_capability(b"AUTH=PLAIN"):
            client.plain_login(config.login, self._secret)
        elif client.has_capability(b"LOGINDISABLED"):
            raise SecurityError(
                f"mail server {config.server} takes no password on this connection", remedy="use TLS or STARTTLS"
            )
        elif not (config.login + self._secret).isascii():
            raise ConfigError(
                f"mail server {config.server} offers no login for letters beyond ASCII",
                field="login",
                remedy="use a login and a password of ASCII letters",
            )
        else:
            quoted = config.login.replace("\\", "\\\\").replace('"', '\\"')
            client.login(f'"{quoted}"', self._secret)
        self._capabilities = frozenset(client.capabilities())

    def can(self, capability: str) -> bool:
        """Whether the server said that it can do this, e.g. ``MOVE``."""
        return capability.encode() in self._capabilities

    async def select(self, folder: str, *, readonly: bool) -> Selected:
        """Open a folder; messages are only marked when it is not ``readonly``."""
        answer = await self._do(f"open {folder!r} on", lambda: self._connected().select_folder(folder, readonly))
        flags = frozenset(flag.decode("utf-8", "replace") for flag in answer.get(b"PERMANENTFLAGS", ()))
        return Selected(
            uidvalidity=int(answer.get(b"UIDVALIDITY", 0)), uidnext=int(answer.get(b"UIDNEXT", 0)), keywords=flags
        )

    async def search(self, criteria: Criteria) -> list[int]:
        """The UIDs of the messages that match, in ascending order.

        Criteria with letters beyond ASCII are asked for one by one, each as a literal.
        """
        found = set(await self._do("search on", lambda: self._connected().search(criteria.ascii)))
        for words in criteria.wide:
            if found:
                found &= set(await self._do("search on", partial(self._search_wide, words)))
        return sorted(found)

    def _search_wide(self, words: tuple[bytes, ...]) -> list[int]:
        return list(self._connected().search(list(words), "UTF-8"))

    async def fetch(self, uids: Sequence[int], items: Sequence[str]) -> dict[int, Mapping[bytes, Any]]:
        """The items of each message that is still there."""
        return await self._do("fetch from", lambda: dict(self._connected().fetch(list(uids), list(items))))

    async def peek(self, uid: int, section: str, start: int, length: int) -> bytes | None:
        """At most ``length`` bytes of a section from ``start``; None when the message is gone."""
        answer = (await self.fetch([uid], [f"BODY.PEEK[{section}]<{start}.{length}>"])).get(uid, {})
        key = f"BODY[{section}]".encode().upper()
        for name, value in answer.items():
            if name.upper().startswith(key):
                return bytes(value) if isinstance(value, bytes) else str(value or "").encode()
        return None

    async def flag(self, uids: Sequence[int], flags: Sequence[str], *, add: bool) -> None:
        """Set or take away flags."""
        client = self._connected()
        change = client.add_flags if add else client.remove_flags
        await self._do("mark messages on", lambda: change(list(uids), list(flags), silent=True))

    async def copy(self, uids: Sequence[int], folder: str) -> None:
        """Copy messages, all or none."""
        await self._do(f"copy to {folder!r} on", lambda: self._connected().copy(list(uids), folder))

    async def move(self, uids: Sequence[int], folder: str) -> None:
        """Move messages (RFC 6851)."""
        await self._do(f"move to {folder!r} on", lambda: self._connected().move(list(uids), folder))

    async def expunge(self, uids: Sequence[int]) -> None:
        """Remove those of these messages that are flagged as deleted, and no others (RFC 4315)."""
        await self._do("expunge on", lambda: self._connected().uid_expunge(list(uids)))

    async def exists(self, folder: str) -> bool:
        return await self._do("list folders of", lambda: bool(self._connected().folder_exists(folder)))

    async def create(self, folder: str) -> None:
        await self._do(f"create {folder!r} on", lambda: self._connected().create_folder(folder))

    async def special(self, flag: str) -> str | None:
        """The folder with this special use (RFC 6154), e.g. ``\\Archive``; None where there is none."""
        return await self._do("list folders of", lambda: self._connected().find_special_folder(flag.encode()))

    async def noop(self) -> None:
        await self._do("talk to", lambda: self._connected().noop())

    @property
    def cipher(self) -> str:
        """The TLS cipher; empty on a connection in clear text."""
        sock = self._connected().socket()
        found = sock.cipher() if isinstance(sock, ssl.SSLSocket) else None
        return str(found[1]) if found else ""

    async def close(self) -> None:
        """Say goodbye, briefly, and let go."""
        if self._client is not None:
            with suppress(FlowRunnerError):
                await self._do("leave", self._client.logout, patience=0.1)
        self.abort()

    def abort(self) -> None:
        """Cut the connection; a call that is under way ends with it."""
        client, self._client = self._client, None
        if client is not None:
            sock = client.socket()
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            with suppress(OSError):
                sock.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _connected(self) -> IMAPClient:
        if self._client is None:
            raise OSError("the connection is closed")
        return self._client

    async def _do(self, what: str, call: Callable[[], T], *, patience: float = 1.0) -> T:
        server = self.config.server
        seconds = max(0.001, self.deadline.limit(patience * self.config.timeout))

        def work() -> T:
            with typed(what, server):
                return call()

        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError as error:
            self.abort()
            raise TimedOut(
                f"could not {what} mail server {server}: no answer in {seconds:.0f} s",
                remedy="look at the server, or raise timeout in the extra",
            ) from error
        except asyncio.CancelledError:
            self.abort()
            raise
        except RuntimeError as error:  # the thread was let go of
            raise TimedOut(f"the connection to {server} is closed", remedy="nothing to do: it is retried") from error


def _tls_context(config: ImapConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except OSError as error:
        raise ConfigError(
            f"ca_file {config.ca_file!r} cannot be read", field="ca_file", remedy="name a PEM file all workers have"
        ) from error
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
