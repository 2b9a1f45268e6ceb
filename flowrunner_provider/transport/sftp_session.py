"""One SFTP session on an SSH channel, with many requests in flight.

The cost of small files is the cost of their requests. A request therefore creates one future and no task, and all
requests of one turn of the event loop are written to the channel together. Every request method returns a future at
once. A server handles the requests for one file in order (section 6.1 of the draft).

One unanswered request, a lost connection or a protocol violation ends the session, and all requests in flight fail.
SFTP can neither cancel a request nor query its outcome: a late write could reach a file that a newer attempt is
writing, and a late handle would stay open. Once the session has ended, the server closes its files and no late request
can arrive. The error is transient: the next attempt opens a new session and resumes all files.
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
    pack,
    pack_attributes,
    pack_name,
    pack_range,
    pack_string,
    parse_attributes,
    parse_extensions,
    parse_handle,
    parse_names,
    parse_numbers,
    parse_status,
)

__all__ = ["CREATE", "EXCLUSIVE", "READ", "WRITE", "Buffer", "SftpSession", "abandon"]

READ, WRITE, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20  # SSH_FXF_*, section 6.3

_SAFE_BLOCK = 32 * 1024
"""Bytes per read or write that every server supports (section 3)."""

_LARGEST_BLOCK = 255 * 1024
"""Bytes per read or write if the server announces at least as many, as OpenSSH does."""

_FOLDERS, _MAX_FOLDERS = 16, 64
"""Folders listed concurrently: by default, and if the server announces twice as many handles."""

_FILES, _MAX_FILES = 64, 256
"""Files read, and files written, concurrently: by default, and if the server announces four times as many handles."""

_BATCH = 128 * 1024
"""Bytes of queued requests that are written without waiting for more."""

_TICKS = 4
"""Checks for progress per timeout."""

Buffer = bytes | bytearray | memoryview
Decode = Callable[[int, bytes], Any]
"""Decodes an answer, given its message type and its body."""


def abandon(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel futures, and retrieve their exceptions so that asyncio does not log them."""
    for future in futures:
        if not future.cancel() and not future.cancelled():
            future.exception()


class SftpSession:
    """The SFTP requests, on a client session of asyncssh.

    :param timeout: seconds that the oldest request may wait for its answer.
    """

    def __init__(self, timeout: float) -> None:
        self.extensions: dict[bytes, bytes] = {}
        self.max_read = self.max_write = _SAFE_BLOCK
        self.round_trip: float | None = None  # seconds; None if it was not measured
        self.max_folders, self.max_files = _FOLDERS, _FILES
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._splitter = Splitter()
        self._in_flight: dict[int, tuple[asyncio.Future[Any] | None, Decode]] = {}
        self._last_number = 0
        self._outgoing: list[Buffer] = []
        self._outgoing_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._oldest, self._stalled_checks = 0, 0
        self._failure: Exception | None = None
        self._channel: Any = None

    async def start(self) -> None:
        """Negotiate the version and query the limits of the server."""
        self._send(pack(Kind.INIT, VERSION, b""))
        version, body = await self._greeting
        if version != VERSION:
            raise Violation(f"it answered with version {version} instead of 3")
        self.extensions = parse_extensions(body)
        if self.supports(b"limits@openssh.com", b"1"):
            began = SYSTEM_CLOCK.monotonic()
            _, read, write, handles = await self._extended(b"limits@openssh.com", b"", partial(_decode_numbers, 4))
            self.round_trip = SYSTEM_CLOCK.monotonic() - began
            self.max_read = min(read or _SAFE_BLOCK, _LARGEST_BLOCK)
            self.max_write = min(write or _SAFE_BLOCK, _LARGEST_BLOCK)
            if handles:
                self.max_folders = max(1, min(handles // 2, _MAX_FOLDERS))
                self.max_files = max(1, min(handles // 4, _MAX_FILES))

    def supports(self, name: bytes, version: bytes) -> bool:
        """Return whether the server has announced an extension."""
        return self.extensions.get(name) == version

    def end(self) -> None:
        """End the session; requests in flight fail."""
        self._fail(ConnectionAbortedError("the session was ended"))

    # -- requests about paths

    def stat(self, path: str) -> asyncio.Future[Attributes]:
        return self._request(Kind.STAT, pack_name(path), _decode_attributes)

    def lstat(self, path: str) -> asyncio.Future[Attributes]:
        return self._request(Kind.LSTAT, pack_name(path), _decode_attributes)

    def realpath(self, path: str) -> asyncio.Future[list[tuple[str, Attributes]]]:
        return self._request(Kind.REALPATH, pack_name(path), _decode_names)

    def remove(self, path: str) -> asyncio.Future[None]:
        return self._request(Kind.REMOVE, pack_name(path), _decode_status)

    def mkdir(self, path: str) -> asyncio.Future[None]:
        return self._request(Kind.MKDIR, pack_name(path) + pack_attributes(Attributes()), _decode_status)

    def rmdir(self, path: str) -> asyncio.Future[None]:
        return self._request(Kind.RMDIR, pack_name(path), _decode_status)

    def rename(self, path: str, target: str) -> asyncio.Future[None]:
        return self._request(Kind.RENAME, pack_name(path) + pack_name(target), _decode_status)

    def posix_rename(self, path: str, target: str) -> asyncio.Future[None]:
        """Rename atomically, replacing the target (``posix-rename@openssh.com``)."""
        return self._extended(b"posix-rename@openssh.com", pack_name(path) + pack_name(target), _decode_status)

    def setstat(self, path: str, attributes: Attributes) -> asyncio.Future[None]:
        return self._request(Kind.SETSTAT, pack_name(path) + pack_attributes(attributes), _decode_status)

    def statvfs(self, path: str) -> asyncio.Future[tuple[int, ...]]:
        """Return the fields of ``statvfs(3)`` in their order (``statvfs@openssh.com``)."""
        return self._extended(b"statvfs@openssh.com", pack_name(path), partial(_decode_numbers, 11))

    # -- requests about open files and folders

    def open(self, path: str, flags: int) -> asyncio.Future[bytes]:
        """Open a file; the handle is closed if the future was cancelled before it arrives."""
        attributes = pack_attributes(Attributes())
        return self._request(Kind.OPEN, pack_name(path) + flags.to_bytes(4, "big") + attributes, _decode_handle)

    def opendir(self, path: str) -> asyncio.Future[bytes]:
        return self._request(Kind.OPENDIR, pack_name(path), _decode_handle)

    def readdir(self, handle: bytes) -> asyncio.Future[list[tuple[str, Attributes]] | None]:
        """Return the next names; None at the end of the folder."""
        return self._request(Kind.READDIR, pack_string(handle), _decode_more_names)

    def read(self, handle: bytes, offset: int, length: int) -> asyncio.Future[bytes]:
        """Read up to ``length`` bytes; none at the end of the file."""
        return self._request(Kind.READ, pack_range(handle, offset, length), partial(_decode_data, length))

    def write(self, handle: bytes, offset: int, data: Buffer) -> asyncio.Future[None]:
        """Write ``data``, which must not change until the future is done."""
        return self._request(Kind.WRITE, pack_range(handle, offset, len(data)), _decode_status, data)

    def fstat(self, handle: bytes) -> asyncio.Future[Attributes]:
        return self._request(Kind.FSTAT, pack_string(handle), _decode_attributes)

    def fsetstat(self, handle: bytes, attributes: Attributes) -> asyncio.Future[None]:
        return self._request(Kind.FSETSTAT, pack_string(handle) + pack_attributes(attributes), _decode_status)

    def fsync(self, handle: bytes) -> asyncio.Future[None]:
        """Flush a file to the disk of the server (``fsync@openssh.com``)."""
        return self._extended(b"fsync@openssh.com", pack_string(handle), _decode_status)

    def close(self, handle: bytes) -> asyncio.Future[None]:
        return self._request(Kind.CLOSE, pack_string(handle), _decode_status)

    def close_unawaited(self, handle: bytes) -> None:
        """Close a handle and ignore the answer; do nothing if the session has ended."""
        if self._failure is None:
            self._enqueue(Kind.CLOSE, pack_string(handle), None, _decode_status)

    # -- sending

    def _extended(self, name: bytes, body: bytes, decode: Decode) -> asyncio.Future[Any]:
        return self._request(Kind.EXTENDED, pack_string(name) + body, decode)

    def _request(self, kind: int, body: bytes, decode: Decode, data: Buffer = b"") -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._failure is None:
            self._enqueue(kind, body, future, decode, data)
        else:
            future.set_exception(_copy_of(self._failure))
        return future

    def _enqueue(
        self, kind: int, body: bytes, future: asyncio.Future[Any] | None, decode: Decode, data: Buffer = b""
    ) -> None:
        self._last_number = number = (self._last_number + 1) & 0xFFFFFFFF
        if self._timer is None:
            self._oldest, self._stalled_checks = number, 0
            self._timer = self._loop.call_later(self._timeout / _TICKS, self._check_progress)
        self._in_flight[number] = future, decode
        self._send(pack(kind, number, body, len(data)))
        if data:
            self._send(data)

    def _send(self, data: Buffer) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._failure is None:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            try:
                self._channel.write(data)
            except OSError as error:
                self._fail(error)

    # -- receiving: the callbacks of asyncssh

    def connection_made(self, channel: Any) -> None:
        self._channel = channel

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._failure is not None or datatype is not None:
            return  # the standard error of the server
        try:
            for kind, number, body in self._splitter.feed(data):
                self._answer(kind, number, body)
        except Violation as error:
            self._fail(error)

    def _answer(self, kind: int, number: int, body: bytes) -> None:
        try:
            future, decode = self._in_flight.pop(number)
        except KeyError:
            if kind != Kind.VERSION or self._greeting.done():
                raise Violation(f"a message of type {kind} for request {number}, which is not in flight") from None
            self._greeting.set_result((number, body))
            return
        try:
            value = decode(kind, body)
        except StatusError as error:
            if future is not None and not future.done():
                future.set_exception(error)
        except Violation:
            self._in_flight[number] = future, decode
            raise
        else:
            if future is not None and not future.done():
                future.set_result(value)
            elif decode is _decode_handle:
                self.close_unawaited(value)

    def eof_received(self) -> bool:
        self._fail(ConnectionResetError("the server ended the session"))
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._channel = None
        self._fail(ConnectionResetError(str(error) if error else "the server closed the session"))

    def session_started(self) -> None: ...
    def pause_writing(self) -> None: ...  # callers bound the requests in flight
    def resume_writing(self) -> None: ...
    def xon_xoff_requested(self, client_can_do: bool) -> None: ...
    def exit_status_received(self, status: int) -> None: ...
    def exit_signal_received(self, signal: str, core_dumped: bool, message: str, language: str) -> None: ...

    # -- failing

    def _check_progress(self) -> None:
        """Fail the session if the same request has been the oldest for the timeout."""
        oldest = next(iter(self._in_flight), None)
        if oldest is None:
            self._timer = None
            return
        self._stalled_checks = self._stalled_checks + 1 if oldest == self._oldest else 0
        self._oldest = oldest
        if self._stalled_checks >= _TICKS:
            self._fail(TimeoutError("no answer"))
        else:
            self._timer = self._loop.call_later(self._timeout / _TICKS, self._check_progress)

    def _fail(self, error: Exception) -> None:
        if self._failure is not None:
            return
        self._failure = error
        if self._timer is not None:
            self._timer.cancel()
        waiting = [future for future, _ in self._in_flight.values()]
        self._in_flight.clear()
        self._outgoing.clear()
        for future in (self._greeting, *waiting):
            if future is not None and not future.done():
                future.set_exception(_copy_of(error))
        if self._channel is not None:
            self._channel.abort()


def _copy_of(error: Exception) -> Exception:
    """Return a copy, since each waiter adds its own traceback to an exception."""
    return type(error)(*error.args)


# -- decoding answers


def _expect(kind: int, wanted: int, body: bytes) -> None:
    """Raise the refusal if the answer is a status instead of the expected type."""
    if kind == wanted:
        return
    _decode_status(kind, body)
    raise Violation("a status OK instead of a result")


def _decode_status(kind: int, body: bytes) -> None:
    if kind != Kind.STATUS:
        raise Violation(f"a message of type {kind} instead of a status")
    if error := parse_status(body):
        raise error


def _decode_handle(kind: int, body: bytes) -> bytes:
    _expect(kind, Kind.HANDLE, body)
    return parse_handle(body)


def _decode_data(length: int, kind: int, body: bytes) -> bytes:
    try:
        _expect(kind, Kind.DATA, body)
    except StatusError as error:
        if error.code == EOF:
            return b""
        raise
    if len(body) > length:
        raise Violation(f"{len(body)} bytes of data instead of at most {length}")
    return body


def _decode_attributes(kind: int, body: bytes) -> Attributes:
    _expect(kind, Kind.ATTRS, body)
    return parse_attributes(body)[0]


def _decode_names(kind: int, body: bytes) -> list[tuple[str, Attributes]]:
    _expect(kind, Kind.NAME, body)
    return parse_names(body)


def _decode_more_names(kind: int, body: bytes) -> list[tuple[str, Attributes]] | None:
    try:
        return _decode_names(kind, body)
    except StatusError as error:
        if error.code == EOF:
            return None
        raise


def _decode_numbers(count: int, kind: int, body: bytes) -> tuple[int, ...]:
    _expect(kind, Kind.EXTENDED_REPLY, body)
    return parse_numbers(body, count)
