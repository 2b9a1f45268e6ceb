"""Connections to one server for threads: what is large goes from a socket into a buffer, and no event loop sees it.

What a server says is read by the code of :mod:`.s3_wire`, and trusted no more than there.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.files.stores import s3_wire
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Stale, Violation
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["Lines", "Take"]

_ROOM = 64 * 1024
"""Bytes that are read at a time until it is known what they are."""

Take = Callable[[Head, Callable[[memoryview], int]], None]
"""Gets the head of a success, and what fills a buffer with its body: to the buffer's end unless there is no more."""

T = TypeVar("T")


class Lines:
    """Keeps connections to one server, as many as there are threads at work. To be closed.

    :param threads: who waits for the answers.
    """

    def __init__(self, server: Server, threads: Executor | None = None) -> None:
        self._server, self._threads = server, threads
        self._idle: list[_Line] = []
        self._all: set[_Line] = set()
        self._lock, self._closed = Lock(), False

    async def ask(self, request: bytes, take: Take) -> Answer | None:
        """Send a request without a body. What is no success is returned.

        A connection that its server has given up meanwhile is replaced, and the request goes out twice then.

        :param take: called in the thread.
        :raises Violation: for what is no answer of HTTP.
        :raises OSError: for a connection that cannot be made or breaks, ``TimeoutError`` for silence.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, request, take)

    def _ask(self, request: bytes, take: Take) -> Answer | None:
        line = self._free()
        if line is not None:
            with suppress(Stale):
                return self._asked(line, request, take)
            self._forget()  # the others are as old
        return self._asked(self._connect(), request, take)

    def _asked(self, line: _Line, request: bytes, take: Take) -> Answer | None:
        try:
            head = line.ask(request)
            if head.status >= 300:
                return line.rest(head)
            line.expect(head)
            take(head, line.read)
        finally:
            with self._lock:
                if line.good and not self._closed:
                    line.fresh = Deadline(self._server.timeout)
                    self._idle.append(line)
                else:
                    self._drop(line)
        return None

    def _free(self) -> _Line | None:
        with self._lock:
            while self._idle:
                line = self._idle.pop()
                if line.quiet and not line.fresh.expired:
                    return line
                self._drop(line)
        return None

    def _connect(self) -> _Line:
        line = _Line(self._server)
        with self._lock:
            self._all.add(line)
            if self._closed:
                self._drop(line)
                raise ConnectionAbortedError("nobody waits any more")
        return line

    def _drop(self, line: _Line) -> None:
        self._all.discard(line)
        line.close()

    def _forget(self) -> None:
        with self._lock:
            while self._idle:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """End all connections; what is under way fails."""
        self._forget()
        with self._lock:
            self._closed = True
            for line in self._all:
                line.interrupt()


class _Line:
    """A connection; blocking, one request at a time.

    :param good: it can be used for another one.
    :param fresh: until when.
    """

    def __init__(self, server: Server) -> None:
        self.good = self._answered = self._heard = False
        self.fresh = Deadline(server.connect_timeout)
        self._patience = s3_wire.PATIENCE * server.timeout
        self._held, self._left, self._final = b"", 0, False
        self._socket = socket.create_connection((server.host, server.port), server.connect_timeout)
        try:
            if server.tls is not None:
                self._socket.settimeout(max(0.001, self.fresh.remaining()))
                self._socket = server.tls.wrap_socket(self._socket, server_hostname=server.host)
            self._socket.settimeout(server.timeout)
        except OSError:
            self._socket.close()
            raise

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody asked for; the end is such a thing, too."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0) and not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending())

    def ask(self, request: bytes) -> Head:
        """Send a request; the head of its answer, to be followed by :meth:`rest` or :meth:`expect`."""
        self.good = self._heard = False
        try:
            self._socket.sendall(request)
            head, self._held = self._read(s3_wire.beginning())
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            if self._answered and not self._heard:
                raise Stale from None
            raise
        self._answered = True
        return head

    def rest(self, head: Head) -> Answer:
        """All of an answer that is no success."""
        answer = self._read(s3_wire.ending(head, self._held, False, 0))
        self.good = not answer.final
        return answer

    def _read(self, reader: Generator[None, bytes, T]) -> T:
        deadline = Deadline(self._patience)
        try:
            next(reader)
            while data := self._socket.recv(_ROOM):
                self._heard = True
                reader.send(data)
                _check(deadline)
            reader.throw(EOFError())
        except StopIteration as done:
            found: T = done.value
            return found
        except EOFError:
            pass
        raise ConnectionResetError("the server ended the connection")

    def expect(self, head: Head) -> None:
        """Make ready to :meth:`read` the body of a success."""
        if "transfer-encoding" in head.headers:
            raise Violation("a body whose length is not said before it comes")
        self._left, self._final = s3_wire.length_in(head.headers), head.final
        if len(self._held) > self._left:
            raise Violation("bytes behind the end of the answer")

    def read(self, buffer: memoryview) -> int:
        """Fill a buffer; fewer bytes at the end of the body, or where the connection ends before it."""
        buffer = buffer[: self._left]
        got = min(len(buffer), len(self._held))
        buffer[:got], self._held = self._held[:got], self._held[got:]
        deadline = Deadline(self._patience)
        while got < len(buffer) and (more := self._socket.recv_into(buffer[got:])):
            got += more
            _check(deadline)
        self._left -= got
        self.good = not self._left and not self._final
        return got

    def interrupt(self) -> None:
        """From another thread: have what waits for the socket fail."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would have it read on in the clear

    def close(self) -> None:
        """To be called when no thread uses it."""
        self._socket.close()


def _check(deadline: Deadline) -> None:
    if deadline.expired:
        raise TimeoutError("no end of the answer")
