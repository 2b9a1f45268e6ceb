"""One SFTP session on an SSH channel: requests leave together, answers find those who wait for them.

Small files are little else than requests, so a request costs one future and no task; all requests of one turn of the
event loop are one write to the channel. Every method that asks returns a future at once, so that several requests can
be under way; a server works on the requests about one file in their order (section 6.1 of the draft).

A server that is silent, breaks off or does not keep to the protocol ends the session: every request fails then, also
if only one of many was left without an answer. SFTP can neither take a request back nor ask what became of it; a write
that comes late would go into a file that somebody has begun to write again, and a handle that comes late would stay
open. When the session has ended the server closes its files, and none of its requests can come any more. So the error
is one that a retry mends: the next attempt has a session of its own, and goes on with all files that were under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.transport.sftp_wire import (
    EOF,
    VERSION,
    Attributes,
    Kind,
    Splitter,
    StatusError,
    Violation,
    attributes_in,
    extensions_in,
    handle_in,
    names_in,
    numbers_in,
    pack,
    pack_attributes,
    pack_name,
    pack_place,
    pack_string,
    status_in,
)

__all__ = ["CREATE", "EXCLUSIVE", "READ", "WRITE", "Buffer", "SftpSession", "let_go"]

READ, WRITE, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20  # SSH_FXF_*, section 6.3

_PLAIN = 32 * 1024
"""Bytes that every server reads and writes at once (section 3)."""

_MOST = 255 * 1024
"""Bytes read or written at once where the server takes so many; OpenSSH does."""

_FOLDERS, _MOST_FOLDERS = 16, 64
"""Folders that are listed at a time; the second number where the server says that it has twice as many handles."""

_FILES, _MOST_FILES = 64, 256
"""Files that are read, and as many that are written, at a time; the second number where there are handles for it."""

_BATCH = 128 * 1024
"""Bytes of requests from which on nobody waits for more of them."""

_TICKS = 4
"""How often, within the time that a server has for an answer, somebody looks whether it has come."""

Buffer = bytes | bytearray | memoryview
Take = Callable[[int, bytes], Any]
"""Makes a value of an answer: its type and what is in it."""


def let_go(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Nobody waits for these answers any more, and none of their failures is news."""
    for future in futures:
        if not future.cancel() and not future.cancelled():
            future.exception()


class SftpSession:
    """What asyncssh calls a client session, and the requests of SFTP.

    :param timeout: how many seconds a request may wait for its answer while it is the oldest.
    """

    def __init__(self, timeout: float) -> None:
        self.extensions: dict[bytes, bytes] = {}
        self.most_read = self.most_write = _PLAIN
        self.round_trip: float | None = None  # seconds; None while it is not known
        self.most_folders, self.most_files = _FOLDERS, _FILES
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._splitter = Splitter()
        self._waiting: dict[int, tuple[asyncio.Future[Any] | None, Take]] = {}
        self._number = 0
        self._out: list[Buffer] = []
        self._out_size = 0
        self._watch: asyncio.TimerHandle | None = None
        self._oldest, self._seen = 0, 0
        self._broken: Exception | None = None
        self._channel: Any = None

    async def start(self) -> None:
        """Agree on the version, and ask for the server's limits."""
        self._send(pack(Kind.INIT, VERSION, b""))
        version, body = await self._greeting
        if version != VERSION:
            raise Violation(f"it speaks version {version}, and 3 was asked for")
        self.extensions = extensions_in(body)
        if self.supports(b"limits@openssh.com", b"1"):
            began = SYSTEM_CLOCK.monotonic()
            _, read, write, handles = await self._extended(b"limits@openssh.com", b"", partial(_numbers, 4))
            self.round_trip = SYSTEM_CLOCK.monotonic() - began
            self.most_read = min(read or _PLAIN, _MOST)
            self.most_write = min(write or _PLAIN, _MOST)
            if handles:
                self.most_folders = max(1, min(handles // 2, _MOST_FOLDERS))
                self.most_files = max(1, min(handles // 4, _MOST_FILES))

    def supports(self, name: bytes, version: bytes) -> bool:
        """Whether the server has announced an extension."""
        return self.extensions.get(name) == version

    def end(self) -> None:
        """End the session; what is under way fails."""
        self._break(ConnectionAbortedError("the session was ended"))

    # -- requests about paths

    def stat(self, path: str) -> asyncio.Future[Attributes]:
        return self._ask(Kind.STAT, pack_name(path), _attributes)

    def lstat(self, path: str) -> asyncio.Future[Attributes]:
        return self._ask(Kind.LSTAT, pack_name(path), _attributes)

    def realpath(self, path: str) -> asyncio.Future[list[tuple[str, Attributes]]]:
        return self._ask(Kind.REALPATH, pack_name(path), _names)

    def remove(self, path: str) -> asyncio.Future[None]:
        return self._ask(Kind.REMOVE, pack_name(path), _done)

    def mkdir(self, path: str) -> asyncio.Future[None]:
        return self._ask(Kind.MKDIR, pack_name(path) + pack_attributes(Attributes()), _done)

    def rmdir(self, path: str) -> asyncio.Future[None]:
        return self._ask(Kind.RMDIR, pack_name(path), _done)

    def rename(self, path: str, target: str) -> asyncio.Future[None]:
        return self._ask(Kind.RENAME, pack_name(path) + pack_name(target), _done)

    def posix_rename(self, path: str, target: str) -> asyncio.Future[None]:
        """Rename and replace in one step (``posix-rename@openssh.com``)."""
        return self._extended(b"posix-rename@openssh.com", pack_name(path) + pack_name(target), _done)

    def setstat(self, path: str, attributes: Attributes) -> asyncio.Future[None]:
        return self._ask(Kind.SETSTAT, pack_name(path) + pack_attributes(attributes), _done)

    def free(self, path: str) -> asyncio.Future[tuple[int, ...]]:
        """The numbers of ``statvfs(3)`` in its order (``statvfs@openssh.com``)."""
        return self._extended(b"statvfs@openssh.com", pack_name(path), partial(_numbers, 11))

    # -- requests about open files and folders

    def open(self, path: str, flags: int) -> asyncio.Future[bytes]:
        """A handle; one that comes when nobody waits for it any more is closed."""
        attributes = pack_attributes(Attributes())
        return self._ask(Kind.OPEN, pack_name(path) + flags.to_bytes(4, "big") + attributes, _handle)

    def opendir(self, path: str) -> asyncio.Future[bytes]:
        return self._ask(Kind.OPENDIR, pack_name(path), _handle)

    def readdir(self, handle: bytes) -> asyncio.Future[list[tuple[str, Attributes]] | None]:
        """Some more names; None when there are no more."""
        return self._ask(Kind.READDIR, pack_string(handle), _more_names)

    def read(self, handle: bytes, offset: int, length: int) -> asyncio.Future[bytes]:
        """Up to ``length`` bytes; none at the end of the file."""
        return self._ask(Kind.READ, pack_place(handle, offset, length), partial(_data, length))

    def write(self, handle: bytes, offset: int, data: Buffer) -> asyncio.Future[None]:
        """``data`` must stay as it is until the answer is there."""
        return self._ask(Kind.WRITE, pack_place(handle, offset, len(data)), _done, data)

    def fstat(self, handle: bytes) -> asyncio.Future[Attributes]:
        return self._ask(Kind.FSTAT, pack_string(handle), _attributes)

    def fsetstat(self, handle: bytes, attributes: Attributes) -> asyncio.Future[None]:
        return self._ask(Kind.FSETSTAT, pack_string(handle) + pack_attributes(attributes), _done)

    def fsync(self, handle: bytes) -> asyncio.Future[None]:
        """What was written survives a crash of the server (``fsync@openssh.com``)."""
        return self._extended(b"fsync@openssh.com", pack_string(handle), _done)

    def close(self, handle: bytes) -> asyncio.Future[None]:
        return self._ask(Kind.CLOSE, pack_string(handle), _done)

    def drop(self, handle: bytes) -> None:
        """Close a handle and never mind the answer; harmless when the session has ended."""
        if self._broken is None:
            self._request(Kind.CLOSE, pack_string(handle), None, _done)

    # -- on the way out

    def _extended(self, name: bytes, body: bytes, take: Take) -> asyncio.Future[Any]:
        return self._ask(Kind.EXTENDED, pack_string(name) + body, take)

    def _ask(self, kind: int, body: bytes, take: Take, data: Buffer = b"") -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._broken is None:
            self._request(kind, body, future, take, data)
        else:
            future.set_exception(_again(self._broken))
        return future

    def _request(
        self, kind: int, body: bytes, future: asyncio.Future[Any] | None, take: Take, data: Buffer = b""
    ) -> None:
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        if self._watch is None:
            self._oldest, self._seen = number, 0
            self._watch = self._loop.call_later(self._timeout / _TICKS, self._look)
        self._waiting[number] = future, take
        self._send(pack(kind, number, body, len(data)))
        if data:
            self._send(data)

    def _send(self, data: Buffer) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._out and self._broken is None:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            try:
                self._channel.write(data)
            except OSError as error:
                self._break(error)

    # -- on the way in: what asyncssh calls

    def connection_made(self, channel: Any) -> None:
        self._channel = channel

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._broken is not None or datatype is not None:
            return  # what the server writes to its standard error is not for us
        try:
            for kind, number, body in self._splitter.feed(data):
                self._answer(kind, number, body)
        except Violation as error:
            self._break(error)

    def _answer(self, kind: int, number: int, body: bytes) -> None:
        try:
            future, take = self._waiting.pop(number)
        except KeyError:
            if kind != Kind.VERSION or self._greeting.done():
                raise Violation(f"a message of type {kind} for request {number}, which was not sent") from None
            self._greeting.set_result((number, body))
            return
        try:
            value = take(kind, body)
        except StatusError as error:
            if future is not None and not future.done():
                future.set_exception(error)
        except Violation:
            self._waiting[number] = future, take
            raise
        else:
            if future is not None and not future.done():
                future.set_result(value)
            elif take is _handle:
                self.drop(value)

    def eof_received(self) -> bool:
        self._break(ConnectionResetError("the server ended the session"))
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._channel = None
        self._break(ConnectionResetError(str(error) if error else "the server closed the session"))

    def session_started(self) -> None: ...
    def pause_writing(self) -> None: ...  # what is under way is bounded by those who ask
    def resume_writing(self) -> None: ...
    def xon_xoff_requested(self, client_can_do: bool) -> None: ...
    def exit_status_received(self, status: int) -> None: ...
    def exit_signal_received(self, signal: str, core_dumped: bool, message: str, language: str) -> None: ...

    # -- the end

    def _look(self) -> None:
        """Whether the request that was the oldest some time ago has been answered."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            self._watch = None
            return
        self._seen = self._seen + 1 if oldest == self._oldest else 0
        self._oldest = oldest
        if self._seen >= _TICKS:
            self._break(TimeoutError("no answer"))
        else:
            self._watch = self._loop.call_later(self._timeout / _TICKS, self._look)

    def _break(self, error: Exception) -> None:
        if self._broken is not None:
            return
        self._broken = error
        if self._watch is not None:
            self._watch.cancel()
        waiting = [future for future, _ in self._waiting.values()]
        self._waiting.clear()
        self._out.clear()
        for future in (self._greeting, *waiting):
            if future is not None and not future.done():
                future.set_exception(_again(error))
        if self._channel is not None:
            self._channel.abort()


def _again(error: Exception) -> Exception:
    """The same for another who waits: an exception carries the way that it has come."""
    return type(error)(*error.args)


# -- what is in an answer


def _expect(kind: int, wanted: int, body: bytes) -> None:
    """A status where something else was asked for is a refusal."""
    if kind == wanted:
        return
    _done(kind, body)
    raise Violation("no more than OK where an answer was asked for")


def _done(kind: int, body: bytes) -> None:
    if kind != Kind.STATUS:
        raise Violation(f"an answer of type {kind} instead of a status")
    if error := status_in(body):
        raise error


def _handle(kind: int, body: bytes) -> bytes:
    _expect(kind, Kind.HANDLE, body)
    return handle_in(body)


def _data(length: int, kind: int, body: bytes) -> bytes:
    try:
        _expect(kind, Kind.DATA, body)
    except StatusError as error:
        if error.code == EOF:
            return b""
        raise
    if len(body) > length:
        raise Violation(f"{len(body)} bytes of data where {length} were asked for")
    return body


def _attributes(kind: int, body: bytes) -> Attributes:
    _expect(kind, Kind.ATTRS, body)
    return attributes_in(body)[0]


def _names(kind: int, body: bytes) -> list[tuple[str, Attributes]]:
    _expect(kind, Kind.NAME, body)
    return names_in(body)


def _more_names(kind: int, body: bytes) -> list[tuple[str, Attributes]] | None:
    try:
        return _names(kind, body)
    except StatusError as error:
        if error.code == EOF:
            return None
        raise


def _numbers(count: int, kind: int, body: bytes) -> tuple[int, ...]:
    _expect(kind, Kind.EXTENDED_REPLY, body)
    return numbers_in(body, count)
