"""Connections to one server for threads: what is large goes between a socket and a buffer, and no event loop sees it.

What a server says is read by the code of :mod:`.s3_wire`, and trusted no more than there.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import ssl
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.stores import s3_wire
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Stale, Violation
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["Answered", "Give", "Line", "Lines", "Take"]

_ROOM = 64 * 1024
"""Bytes that are read at a time until it is known what they are."""

Take = Callable[[Head, Callable[[memoryview], int]], None]
"""Gets the head of a success, and what fills a buffer with its body: to the buffer's end unless there is no more."""

Give = Callable[["Line"], None]
"""Sends the body of a request by :meth:`Line.send` and :meth:`Line.send_file`."""

_PIECE = 1024 * 1024
"""Bytes of a file that have to be gone within the time of one answer."""

_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

_NOT_SO = (errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP)
"""What is wrong with a file, and not with the connection, when it cannot be sent from where it is."""

_MOST = 64 * 1024
"""Bytes that the answer to what was sent may have."""

T = TypeVar("T")


class Answered(Exception):
    """The server answers, or ends the connection, before it has got all: nobody needs to send it more."""


class Lines:
    """Keeps connections to one server, as many as there are threads at work. To be closed.

    :param threads: who waits for the answers.
    """

    def __init__(self, server: Server, threads: Executor | None = None) -> None:
        self._server, self._threads = server, threads
        self._idle: list[Line] = []
        self._all: set[Line] = set()
        self._lock, self._closed = Lock(), False

    async def ask(self, request: bytes, take: Take) -> Answer | None:
        """Send a request without a body. What is no success is returned.

        A connection that its server has given up meanwhile is replaced, and the request goes out twice then.

        :param take: called in the thread.
        :raises Violation: for what is no answer of HTTP.
        :raises OSError: for a connection that cannot be made or breaks, ``TimeoutError`` for silence.
        """

        def work(line: Line) -> Answer | None:
            head = line.ask(request)
            if head.status >= 300:
                return line.rest(head, 0)
            line.expect(head)
            take(head, line.read)
            return None

        return await self._in_thread(work)

    async def tell(self, request: bytes, give: Give) -> Answer:
        """Send a request with a body; otherwise like :meth:`ask`.

        :param give: called in the thread; the body goes out twice, too, where the request does.
        """
        return await self._in_thread(lambda line: line.rest(line.tell(request, give), _MOST))

    async def _in_thread(self, work: Callable[[Line], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._once_or_twice, work)

    def _once_or_twice(self, work: Callable[[Line], T]) -> T:
        line = self._free()
        if line is not None:
            with suppress(Stale):
                return self._done(line, work)
            self._forget()  # the others are as old
        return self._done(self._connect(), work)

    def _done(self, line: Line, work: Callable[[Line], T]) -> T:
        try:
            return work(line)
        finally:
            with self._lock:
                if line.good and not self._closed:
                    line.fresh = Deadline(self._server.timeout)
                    self._idle.append(line)
                else:
                    self._drop(line)

    def _free(self) -> Line | None:
        with self._lock:
            while self._idle:
                line = self._idle.pop()
                if line.quiet and not line.fresh.expired:
                    return line
                self._drop(line)
        return None

    def _connect(self) -> Line:
        line = Line(self._server)
        with self._lock:
            self._all.add(line)
            if self._closed:
                self._drop(line)
                raise ConnectionAbortedError("nobody waits any more")
        return line

    def _drop(self, line: Line) -> None:
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


class Line:
    """A connection; blocking, one request at a time.

    :param good: it can be used for another one.
    :param fresh: until when.
    """

    def __init__(self, server: Server) -> None:
        self.good = self._answered = self._heard = False
        self.fresh = Deadline(server.connect_timeout)
        self._timeout, self._patience = server.timeout, s3_wire.PATIENCE * server.timeout
        self._held, self._left, self._final = b"", 0, False
        self._early, self._whole = b"", True
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
        return self.tell(request, lambda line: None)

    def tell(self, request: bytes, give: Give) -> Head:
        """Send a request with a body; the head of its answer, which may come before all is sent."""
        self.good = self._heard = False
        try:
            self._whole = self._gone(request, give)
            head, self._held = self._read(s3_wire.beginning())
        except _ENDED:
            if self._answered and not self._heard:
                raise Stale from None
            raise
        self._answered = True
        return head

    def _gone(self, request: bytes, give: Give) -> bool:
        """Whether all was sent before an answer came."""
        self._socket.settimeout(0)  # so that both ways can be looked at while neither is open
        try:
            self.send(request)
            give(self)
        except Answered:
            return False
        finally:
            self._socket.settimeout(self._timeout)
        return True

    def rest(self, head: Head, most: int) -> Answer:
        """All of an answer.

        :param most: bytes that the body of a success may have.
        """
        if head.status < 300 and not self._whole:
            raise Violation("a success before it had got all")
        answer = self._read(s3_wire.ending(head, self._held, False, most))
        self.good = self._whole and not answer.final
        return answer

    def send(self, data: bytes | memoryview) -> None:
        """:raises Answered: if an answer comes first."""
        rest, deadline = memoryview(data), Deadline(self._patience)
        while rest:
            rest = rest[self._sent(self._socket.send, rest) :]
            _check(deadline)

    @property
    def sends_files(self) -> bool:
        """Whether the system may take a file's bytes from where they are."""
        return not isinstance(self._socket, ssl.SSLSocket)

    def send_file(self, file: OpenFile, offset: int, length: int) -> int:
        """Send bytes of a file without looking at them; how many. They are fewer where it ends or cannot be read so.

        :raises Answered: if an answer comes first.
        """
        at, end, deadline, due = offset, offset + length, Deadline(self._patience), offset + _PIECE
        try:
            while at < end and (sent := self._sent(file.send_to, self._socket.fileno(), at, end - at)):
                at += sent
                if at >= due:
                    due, deadline = at + _PIECE, Deadline(self._patience)
                _check(deadline)
        except OSError as error:
            if error.errno not in _NOT_SO:
                raise
        return at - offset

    def _sent(self, send: Callable[..., int], *arguments: object) -> int:
        """What ``send`` returns, as soon as it can."""
        while True:
            try:
                return send(*arguments)
            except _WOULD_WAIT:
                self._wait()
            except _ENDED:
                raise Answered from None  # maybe: what came before the end is still there to be read

    def _wait(self) -> None:
        """Until more can be sent. A look at what comes: over TLS that need not be an answer."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        ready = poll.poll(1000 * self._timeout)
        if not ready:
            raise TimeoutError("the server takes no more")
        if ready[0][1] & ~select.POLLOUT:
            with suppress(*_WOULD_WAIT):
                self._early = self._socket.recv(_ROOM)
                self._heard = bool(self._early)
                raise Answered

    def _read(self, reader: Generator[None, bytes, T]) -> T:
        deadline = Deadline(self._patience)
        try:
            next(reader)
            while data := self._early or self._socket.recv(_ROOM):
                self._heard, self._early = True, b""
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
