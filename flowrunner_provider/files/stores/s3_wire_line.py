"""A connection for a thread: blocking, one request at a time. What is large goes between a socket and a buffer or file.

What a server says is read by the code of :mod:`.s3_wire`, and trusted no more than there.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.stores import s3_wire
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Stale, Violation
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["Give", "Line"]

Give = Callable[["Line"], None]
"""Sends the body of a request by :meth:`Line.send`, :meth:`Line.send_all` and :meth:`Line.send_file`."""

_ROOM = 64 * 1024
"""Bytes that are read at a time until it is known what they are."""

_PIECE = 1024 * 1024
"""Bytes of a file that have to be gone within the time of one answer."""

_TOGETHER = 64
"""Pieces that the system is given at a time; it takes a thousand."""

_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

_NOT_SO = (errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP)
"""What is wrong with a file, and not with the connection, when it cannot be sent from where it is."""

T = TypeVar("T")


class _Answered(Exception):
    """The server answers, or ends the connection, before it has got all: nobody needs to send it more."""


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
        except _Answered:
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
        """To be called by :data:`Give`."""
        rest, deadline = memoryview(data), Deadline(self._patience)
        while rest:
            rest = rest[self._sent(self._socket.send, rest) :]
            _check(deadline)

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """:meth:`send` for many of them, which the system takes together where it can."""
        if not self.plain:
            for piece in pieces:
                self.send(piece)
            return
        rest, deadline = deque([memoryview(piece) for piece in pieces]), Deadline(self._patience)
        while rest:
            sent = self._sent(self._socket.sendmsg, list(islice(rest, _TOGETHER)))
            while rest and sent >= len(rest[0]):
                sent -= len(rest.popleft())
                deadline = Deadline(self._patience)
            if sent:
                rest[0] = rest[0][sent:]
            _check(deadline)

    @property
    def plain(self) -> bool:
        """Whether bytes go out as they are: then the system may gather them, or take a file's from where they are."""
        return not isinstance(self._socket, ssl.SSLSocket)

    def send_file(self, file: OpenFile, offset: int, length: int) -> int:
        """Send bytes of a file without looking at them; how many. They are fewer where it ends or cannot be read so."""
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
                raise _Answered from None  # maybe: what came before the end is still there to be read

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
                raise _Answered

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
