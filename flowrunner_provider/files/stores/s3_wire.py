"""One connection that speaks HTTP/1.1 (RFC 9112), one request at a time; nothing here knows S3.

A small object is little else than a request and its answer, so these cost one write, one read and one future: no task,
no thread, no stream. A server is not trusted to keep to the protocol: an answer whose length is not said, or is not
what was said, is a :class:`Violation`, before memory is taken for it, and the connection is not used again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import NamedTuple, cast

__all__ = [
    "PATIENCE", "TICKS", "Answer", "Head", "Stale", "Violation", "Wire", "answer", "at_once", "beginning", "ending",
]  # fmt: skip

TICKS = 4
"""How often, within the time that a server may be silent, somebody looks whether it is."""

PATIENCE = 5
"""Times as long an answer may take altogether, however busily it trickles."""

_IDLE = TICKS
"""Ticks after which a connection that nobody needs is given up."""

_HEAD = 64 * 1024
_ERROR = 64 * 1024
"""Bytes that the head, and the body of an answer that is no success, may have."""

_APART = 64 * 1024
"""Bytes of a body that are too many to be put behind the head of the request first."""

_START = re.compile(r"HTTP/1\.([01]) (\d{3})(?: .*)?")
_ONCE = frozenset({"content-length", "transfer-encoding", "content-range", "etag"})


class Violation(Exception):
    """The server does not keep to HTTP."""


class Stale(ConnectionError):
    """The connection had been used before, and has ended without a byte of this answer: its server gave it up."""


class Head(NamedTuple):
    """How an answer begins.

    :param headers: by their names in lower case.
    :param final: the server ends the connection with it.
    """

    status: int
    headers: dict[str, str]
    final: bool


class Answer(NamedTuple):
    """A whole one; otherwise like :class:`Head`."""

    status: int
    headers: dict[str, str]
    body: bytes
    final: bool


def answer(bodiless: bool, most: int) -> Generator[None, bytes, Answer]:
    """Takes what arrives, returns the answer when it is whole. The end of the stream is thrown in as ``EOFError``.

    :param bodiless: the request was ``HEAD``.
    :param most: bytes that the body of a success may have.
    :raises Violation: for whatever is no answer.
    """
    head, held = yield from beginning()
    return (yield from ending(head, held, bodiless, most))


def at_once(data: bytes, bodiless: bool, most: int) -> Answer | None:
    """The answer if it has come whole in one packet, as that of a small object does; else None, and :func:`answer`
    takes it in pieces.
    """
    end = data.find(b"\r\n\r\n")
    length = len(data) - end - 4
    if end < 0 or length > most or bodiless:
        return None
    minor, status, headers = _head(data[:end])
    if status not in (200, 206) or headers.get("content-length") != str(length) or "transfer-encoding" in headers:
        return None
    return Answer(status, headers, data[end + 4 :], _is_final(minor, headers))


def beginning() -> Generator[None, bytes, tuple[Head, bytes]]:
    """The first half of :func:`answer`: its head, and what has come behind that."""
    held, status = (yield), 100
    while status < 200:  # 100 Continue and the like come before the answer
        while (end := held.find(b"\r\n\r\n")) < 0:
            if len(held) > _HEAD:
                raise Violation("a head without an end")
            held += yield
        minor, status, headers = _head(held[:end])
        held = held[end + 4 :]
    return Head(status, headers, _is_final(minor, headers)), held


def ending(head: Head, held: bytes, bodiless: bool, most: int) -> Generator[None, bytes, Answer]:
    """The second half of :func:`answer`."""
    status, headers, final = head
    most = most if status < 300 else _ERROR
    if bodiless or status in (204, 304):
        body = b""
    elif "transfer-encoding" in headers:
        body, held = yield from _chunked(headers, held, most)
    elif "content-length" in headers:
        body, held = yield from _exactly(length_in(headers), held, most)
    elif status >= 400:
        body, held, final = (yield from _to_the_end(held)), b"", True
    else:
        raise Violation("a body whose length is not said")
    if held:
        raise Violation("bytes behind the end of the answer")
    return Answer(status, headers, body, final)


def _head(head: bytes) -> tuple[str, int, dict[str, str]]:
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head or len(head) > _HEAD:
        raise Violation("a head that is none")
    first, *rest = head.decode("latin-1").split("\r\n")
    start = _START.fullmatch(first)
    if start is None or start[2] == "101" or start[2] < "100":
        raise Violation("an answer that does not begin as one")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t" or name[-1] in " \t":
            raise Violation("a header that is none")
        name, value = name.lower(), value.strip(" \t")
        if name in _ONCE and headers.get(name, value) != value:
            raise Violation(f"two different headers {name}")
        headers[name] = value
    return start[1], int(start[2]), headers


def _is_final(minor: str, headers: dict[str, str]) -> bool:
    return minor == "0" or "close" in headers.get("connection", "").lower()


def length_in(headers: dict[str, str]) -> int:
    """What ``Content-Length`` says."""
    text = headers.get("content-length", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Violation("a Content-Length that is no number")
    return int(text)


def _exactly(length: int, held: bytes, most: int) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """So many bytes, and what came behind them."""
    if length > most:
        raise Violation(f"a body of {length} bytes, where {most} were the most")
    if len(held) < length:
        pieces, got = [held], len(held)
        while got < length:
            pieces.append((yield))
            got += len(pieces[-1])
        held = b"".join(pieces)
    return held[:length], held[length:]


def _chunked(headers: dict[str, str], held: bytes, most: int) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """Section 7.1."""
    if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
        raise Violation("a body whose length is said in another way than one")
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
            raise Violation("a chunk that does not end where it should")
        body.append(chunk[:size])
        most -= size
    trailer = _HEAD
    while line:
        line, held = yield from _line(held)
        trailer -= len(line)
        if trailer < 0:
            raise Violation("a trailer without an end")
    return b"".join(body), held


def _line(held: bytes) -> Generator[None, bytes, tuple[bytes, bytes]]:
    while (end := held.find(b"\r\n")) < 0:
        if len(held) > _HEAD:
            raise Violation("a line without an end")
        held += yield
    return held[:end], held[end + 2 :]


def _to_the_end(held: bytes) -> Generator[None, bytes, bytes]:
    try:
        while len(held) <= _ERROR:
            held += yield
    except EOFError:
        return held
    raise Violation("an error without an end")


class Wire(asyncio.Protocol):
    """A connection. Whoever has taken it asks, waits for the answer, and looks whether it is :attr:`good` then."""

    def __init__(self) -> None:
        self.good = False
        self._transport: asyncio.Transport | None = None
        self._wanted = False, 0
        self._reader: Generator[None, bytes, Answer] | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._answered, self._heard = 0, False
        self._silent = self._age = self._left = 0

    def ask(
        self, request: bytes, data: bytes = b"", *, bodiless: bool = False, most: int = 0
    ) -> asyncio.Future[Answer]:
        """Send a request; the future fails with :class:`Violation`, :class:`Stale` or an ``OSError``.

        :param bodiless: it is ``HEAD``.
        :param most: bytes that the body of a success may have.
        """
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.good:
            self._fail(ConnectionResetError("the server ended the connection"))
            return waiting
        self._wanted = bodiless, most
        self._heard, self._silent, self._age, self._left = False, 0, 0, 0
        if len(data) <= _APART:
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
        """Called :data:`TICKS` times within the time that a server may be silent; gives up what takes too long."""
        if self._transport is None:
            return
        left = self._transport.get_write_buffer_size()
        moved, self._heard, self._left = self._heard or left < self._left, False, left
        self._silent = 0 if moved else self._silent + 1
        self._age += 1
        if self._waiting is None:
            if self._silent >= _IDLE:
                self.close()
        elif self._silent > TICKS or self._age > PATIENCE * TICKS:
            self._fail(TimeoutError("no answer"))

    def close(self) -> None:
        """Let go; what is under way fails."""
        self._fail(ConnectionAbortedError("the connection was closed"))

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.good = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._waiting is None:
            self.close()  # nobody has asked
            return
        try:
            if self._reader is None:
                if (found := at_once(data, *self._wanted)) is not None:
                    self._finish(found)
                    return
                self._reader = answer(*self._wanted)
                next(self._reader)
            self._reader.send(data)
        except StopIteration as done:
            self._finish(done.value)
        except Violation as error:
            self._fail(error)

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._transport = None

    def _end(self, error: Exception | None) -> None:
        if self._reader is not None and error is None:
            try:
                self._reader.throw(EOFError())
            except StopIteration as done:
                self._finish(done.value)
            except (EOFError, Violation):
                pass
        unheard = self._answered and not self._heard and not self._age
        self._fail(Stale() if unheard else ConnectionResetError("the server ended the connection"))

    def _finish(self, found: Answer) -> None:
        waiting, self._waiting, self._reader = self._waiting, None, None
        self._answered += 1
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
