"""One HTTP/1.1 connection (RFC 9112) with one request at a time, independent of S3.

The cost of small objects is the cost of their requests. A request therefore takes one write, one read and one future:
no task, no thread, no stream. The server is not trusted: an answer with a missing or wrong length raises
:class:`Violation` before memory is allocated for it, and the connection is not reused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import NamedTuple, cast

__all__ = [
    "PATIENCE",
    "TICKS",
    "Answer",
    "Head",
    "Stale",
    "Violation",
    "Wire",
    "answer",
    "answer_in_one_packet",
    "parse_body",
    "parse_head",
]  # fmt: skip

TICKS = 4
"""Checks for progress per timeout."""

PATIENCE = 5
"""The longest time for a complete answer, as a multiple of the timeout."""

_IDLE = TICKS
"""Ticks after which an idle connection is closed."""

_HEAD = 64 * 1024
_ERROR = 64 * 1024
"""The largest head, and the largest body of an error, in bytes."""

_SEPARATE_WRITE = 64 * 1024
"""Bytes of a body from which it is written separately instead of copied behind the head."""

_START = re.compile(r"HTTP/1\.([01]) (\d{3})(?: .*)?")
_UNIQUE_HEADERS = frozenset({"content-length", "transfer-encoding", "content-range", "etag"})


class Violation(Exception):
    """The server violated HTTP."""


class Stale(ConnectionError):
    """The server closed a reused connection without a byte of the answer, probably because it was idle for too long."""


class Head(NamedTuple):
    """The head of an answer.

    :param headers: by name in lower case.
    :param final: whether the server closes the connection after it.
    """

    status: int
    headers: dict[str, str]
    final: bool


class Answer(NamedTuple):
    """A complete answer; see :class:`Head`."""

    status: int
    headers: dict[str, str]
    body: bytes
    final: bool


def answer(bodiless: bool, most: int) -> Generator[None, bytes, Answer]:
    """Parse an answer from received bytes, which the caller sends; the end of the stream is thrown in as ``EOFError``.

    :param bodiless: whether the request was ``HEAD``.
    :param most: the largest body of a success, in bytes.
    :raises Violation: if the bytes are not an answer.
    """
    head, held = yield from parse_head()
    return (yield from parse_body(head, held, bodiless, most))


def answer_in_one_packet(data: bytes, bodiless: bool, most: int) -> Answer | None:
    """Return the answer if one packet contains it, as with small objects; else None, to use :func:`answer` instead."""
    end = data.find(b"\r\n\r\n")
    length = len(data) - end - 4
    if end < 0 or length > most or bodiless:
        return None
    minor, status, headers = _parse_head_lines(data[:end])
    if status not in (200, 206) or headers.get("content-length") != str(length) or "transfer-encoding" in headers:
        return None
    return Answer(status, headers, data[end + 4 :], _is_final(minor, headers))


def parse_head() -> Generator[None, bytes, tuple[Head, bytes]]:
    """Parse the head of an answer; return it and the bytes received behind it."""
    held, status = (yield), 100
    while status < 200:  # 100 Continue and other interim answers
        while (end := held.find(b"\r\n\r\n")) < 0:
            if len(held) > _HEAD:
                raise Violation("an endless head")
            held += yield
        minor, status, headers = _parse_head_lines(held[:end])
        held = held[end + 4 :]
    return Head(status, headers, _is_final(minor, headers)), held


def parse_body(head: Head, held: bytes, bodiless: bool, most: int) -> Generator[None, bytes, Answer]:
    """Parse the body of an answer, given its head and the first bytes behind it."""
    status, headers, final = head
    most = most if status < 300 else _ERROR
    if bodiless or status in (204, 304):
        body = b""
    elif "transfer-encoding" in headers:
        body, held = yield from _chunked(headers, held, most)
    elif "content-length" in headers:
        body, held = yield from _exactly(content_length(headers), held, most)
    elif status >= 400:
        body, held, final = (yield from _until_eof(held)), b"", True
    else:
        raise Violation("a body of unknown length")
    if held:
        raise Violation("bytes behind the end of the answer")
    return Answer(status, headers, body, final)


def _parse_head_lines(head: bytes) -> tuple[str, int, dict[str, str]]:
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head or len(head) > _HEAD:
        raise Violation("a malformed head")
    first, *rest = head.decode("latin-1").split("\r\n")
    start = _START.fullmatch(first)
    if start is None or start[2] == "101" or start[2] < "100":
        raise Violation("a malformed status line")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t" or name[-1] in " \t":
            raise Violation("a malformed header")
        name, value = name.lower(), value.strip(" \t")
        if name in _UNIQUE_HEADERS and headers.get(name, value) != value:
            raise Violation(f"two different headers {name}")
        headers[name] = value
    return start[1], int(start[2]), headers


def _is_final(minor: str, headers: dict[str, str]) -> bool:
    return minor == "0" or "close" in headers.get("connection", "").lower()


def content_length(headers: dict[str, str]) -> int:
    """Return the value of ``Content-Length``."""
    text = headers.get("content-length", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Violation("a Content-Length that is not a number")
    return int(text)


def _exactly(length: int, held: bytes, most: int) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """Return ``length`` bytes, and the bytes received behind them."""
    if length > most:
        raise Violation(f"a body of {length} instead of at most {most} bytes")
    if len(held) < length:
        pieces, got = [held], len(held)
        while got < length:
            pieces.append((yield))
            got += len(pieces[-1])
        held = b"".join(pieces)
    return held[:length], held[length:]


def _chunked(headers: dict[str, str], held: bytes, most: int) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """Parse a chunked body (section 7.1)."""
    if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
        raise Violation("a body with an ambiguous length")
    body: list[bytes] = []
    while True:
        line, held = yield from _line(held)
        digits = line.partition(b";")[0].strip(b" \t")
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", digits):
            raise Violation("a chunk without a size")
        size = int(digits, 16)
        if not size:
            break
        chunk, held = yield from _exactly(size + 2, held, most + 2)
        if chunk[size:] != b"\r\n":
            raise Violation("a chunk with a wrong size")
        body.append(chunk[:size])
        most -= size
    trailer = _HEAD
    while line:
        line, held = yield from _line(held)
        trailer -= len(line)
        if trailer < 0:
            raise Violation("an endless trailer")
    return b"".join(body), held


def _line(held: bytes) -> Generator[None, bytes, tuple[bytes, bytes]]:
    while (end := held.find(b"\r\n")) < 0:
        if len(held) > _HEAD:
            raise Violation("an endless line")
        held += yield
    return held[:end], held[end + 2 :]


def _until_eof(held: bytes) -> Generator[None, bytes, bytes]:
    try:
        while len(held) <= _ERROR:
            held += yield
    except EOFError:
        return held
    raise Violation("an endless error")


class Wire(asyncio.Protocol):
    """A connection. Its owner sends a request, awaits the answer, and reuses it only while it is :attr:`good`."""

    def __init__(self) -> None:
        self.good = False
        self._transport: asyncio.Transport | None = None
        self._expected = False, 0
        self._reader: Generator[None, bytes, Answer] | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._answers, self._heard = 0, False
        self._silent_ticks = self._ticks = self._unsent = 0

    def ask(
        self, request: bytes, data: bytes = b"", *, bodiless: bool = False, most: int = 0
    ) -> asyncio.Future[Answer]:
        """Send a request; the future fails with :class:`Violation`, :class:`Stale` or an ``OSError``.

        :param bodiless: whether the request is ``HEAD``.
        :param most: the largest body of a success, in bytes.
        """
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.good:
            self._fail(ConnectionResetError("the server ended the connection"))
            return waiting
        self._expected = bodiless, most
        self._heard, self._silent_ticks, self._ticks, self._unsent = False, 0, 0, 0
        if len(data) <= _SEPARATE_WRITE:
            self._transport.write(request + data)
        else:
            self._transport.write(request)
            self._transport.write(data)
        return waiting

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._waiting is not None

    def tick(self) -> None:
        """Fail a request that takes too long, and close an idle connection; called :data:`TICKS` times per timeout."""
        if self._transport is None:
            return
        left = self._transport.get_write_buffer_size()
        moved, self._heard, self._unsent = self._heard or left < self._unsent, False, left
        self._silent_ticks = 0 if moved else self._silent_ticks + 1
        self._ticks += 1
        if self._waiting is None:
            if self._silent_ticks >= _IDLE:
                self.close()
        elif self._silent_ticks > TICKS or self._ticks > PATIENCE * TICKS:
            self._fail(TimeoutError("no answer"))

    def close(self) -> None:
        """Close the connection; a request in flight fails."""
        self._fail(ConnectionAbortedError("the connection was closed"))

    # -- the callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.good = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._waiting is None:
            self.close()  # unsolicited bytes
            return
        try:
            if self._reader is None:
                if (found := answer_in_one_packet(data, *self._expected)) is not None:
                    self._finish(found)
                    return
                self._reader = answer(*self._expected)
                next(self._reader)
            self._reader.send(data)
        except StopIteration as done:
            self._finish(done.value)
        except Violation as error:
            self._fail(error)

    def eof_received(self) -> bool:
        self._connection_ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection_ended(exc)
        self._transport = None

    def _connection_ended(self, error: Exception | None) -> None:
        if self._reader is not None and error is None:
            try:
                self._reader.throw(EOFError())
            except StopIteration as done:
                self._finish(done.value)
            except (EOFError, Violation):
                pass
        unheard = self._answers and not self._heard and not self._ticks
        self._fail(Stale() if unheard else ConnectionResetError("the server ended the connection"))

    def _finish(self, found: Answer) -> None:
        waiting, self._waiting, self._reader = self._waiting, None, None
        self._answers += 1
        if self._transport is None or found.final or self._transport.get_write_buffer_size():
            self.close()
        if waiting is not None and not waiting.done():
            waiting.set_result(found)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting, self._reader, self.good = self._waiting, None, None, False
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        if self._transport is not None:
            self._transport.abort()
