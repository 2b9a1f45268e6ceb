"""A blocking HTTP connection for a thread, with one request at a time, for large bodies.

Bodies move directly between the socket and a buffer or file. Heads are parsed by :mod:`.s3_wire`.
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

__all__ = ["BlockingConnection", "SendBody"]

SendBody = Callable[["BlockingConnection"], None]
"""Sends the body of a request with the ``send`` methods of :class:`BlockingConnection`."""

_READ_SIZE = 64 * 1024
"""Bytes per read of a head."""

_PIECE = 1024 * 1024
"""Bytes of a file that must be sent within the longest time for an answer."""

_PIECES_PER_CALL = 64
"""Pieces per system call, which takes up to a thousand."""

_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ENDED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

_SENDFILE_ERRORS = (errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of ``sendfile`` that concern the file and not the connection."""

T = TypeVar("T")


class _Answered(Exception):
    """The server answered, or closed the connection, before it received the complete request."""


class BlockingConnection:
    """A blocking connection with one request at a time.

    It may be reused while it is :attr:`good` and :attr:`fresh` has not expired.
    """

    def __init__(self, server: Server) -> None:
        self.good = self._answered = self._heard = False
        self.fresh = Deadline(server.connect_timeout)
        self._timeout, self._patience = server.timeout, s3_wire.PATIENCE * server.timeout
        self._received, self._body_left, self._final = b"", 0, False
        self._early_answer, self._request_complete = b"", True
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
        """Whether the server has neither closed the idle connection nor sent unsolicited bytes."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0) and not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending())

    def ask(self, request: bytes) -> Head:
        """Send a request and return the head of its answer; call :meth:`read_rest` or :meth:`expect` next."""
        return self.ask_with_body(request, lambda connection: None)

    def ask_with_body(self, request: bytes, send_body: SendBody) -> Head:
        """Send a request with a body and return the head of its answer, which may arrive before all is sent."""
        self.good = self._heard = False
        try:
            self._request_complete = self._send_request(request, send_body)
            head, self._received = self._read(s3_wire.parse_head())
        except _ENDED:
            if self._answered and not self._heard:
                raise Stale from None
            raise
        self._answered = True
        return head

    def _send_request(self, request: bytes, send_body: SendBody) -> bool:
        """Send the request; return whether all was sent before an answer arrived."""
        self._socket.settimeout(0)  # non-blocking, to wait for both directions at once
        try:
            self.send(request)
            send_body(self)
        except _Answered:
            return False
        finally:
            self._socket.settimeout(self._timeout)
        return True

    def read_rest(self, head: Head, most: int) -> Answer:
        """Read the body of an answer.

        :param most: the largest body of a success, in bytes.
        """
        if head.status < 300 and not self._request_complete:
            raise Violation("a success before the request was complete")
        answer = self._read(s3_wire.parse_body(head, self._received, False, most))
        self.good = self._request_complete and not answer.final
        return answer

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes of the body."""
        unsent, deadline = memoryview(data), Deadline(self._patience)
        while unsent:
            unsent = unsent[self._when_writable(self._socket.send, unsent) :]
            _raise_if_expired(deadline)

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """:meth:`send` for many of them, which the system takes together where it can."""
        if not self.plain:
            for piece in pieces:
                self.send(piece)
            return
        unsent, deadline = deque([memoryview(piece) for piece in pieces]), Deadline(self._patience)
        while unsent:
            sent = self._when_writable(self._socket.sendmsg, list(islice(unsent, _PIECES_PER_CALL)))
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
                deadline = Deadline(self._patience)
            if sent:
                unsent[0] = unsent[0][sent:]
            _raise_if_expired(deadline)

    @property
    def plain(self) -> bool:
        """Whether the connection is unencrypted, so that the kernel can gather pieces or send a file."""
        return not isinstance(self._socket, ssl.SSLSocket)

    def send_file(self, file: OpenFile, offset: int, length: int) -> int:
        """Send bytes of a file with ``sendfile``; return how many, fewer if the file ends or does not support it."""
        at, end, deadline, next_deadline_at = offset, offset + length, Deadline(self._patience), offset + _PIECE
        try:
            while at < end and (sent := self._when_writable(file.send_to, self._socket.fileno(), at, end - at)):
                at += sent
                if at >= next_deadline_at:
                    next_deadline_at, deadline = at + _PIECE, Deadline(self._patience)
                _raise_if_expired(deadline)
        except OSError as error:
            if error.errno not in _SENDFILE_ERRORS:
                raise
        return at - offset

    def _when_writable(self, send: Callable[..., int], *arguments: object) -> int:
        """Call ``send`` once the socket is writable and return its result."""
        while True:
            try:
                return send(*arguments)
            except _WOULD_WAIT:
                self._wait_until_writable()
            except _ENDED:
                raise _Answered from None  # an answer that came before the end can still be read

    def _wait_until_writable(self) -> None:
        """Wait until the socket is writable; raise :class:`_Answered` if an answer arrives first."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        ready = poll.poll(1000 * self._timeout)
        if not ready:
            raise TimeoutError("the server stopped reading")
        if ready[0][1] & ~select.POLLOUT:
            with suppress(*_WOULD_WAIT):
                self._early_answer = self._socket.recv(_READ_SIZE)
                self._heard = bool(self._early_answer)
                raise _Answered

    def _read(self, reader: Generator[None, bytes, T]) -> T:
        deadline = Deadline(self._patience)
        try:
            next(reader)
            while data := self._early_answer or self._socket.recv(_READ_SIZE):
                self._heard, self._early_answer = True, b""
                reader.send(data)
                _raise_if_expired(deadline)
            reader.throw(EOFError())
        except StopIteration as done:
            found: T = done.value
            return found
        except EOFError:
            pass
        raise ConnectionResetError("the server ended the connection")

    def expect(self, head: Head) -> None:
        """Prepare to :meth:`read` the body of a success."""
        if "transfer-encoding" in head.headers:
            raise Violation("a body of unknown length")
        self._body_left, self._final = s3_wire.content_length(head.headers), head.final
        if len(self._received) > self._body_left:
            raise Violation("bytes behind the end of the answer")

    def read(self, buffer: memoryview) -> int:
        """Fill a buffer; return fewer bytes at the end of the body or of the connection."""
        buffer = buffer[: self._body_left]
        got = min(len(buffer), len(self._received))
        buffer[:got], self._received = self._received[:got], self._received[got:]
        deadline = Deadline(self._patience)
        while got < len(buffer) and (more := self._socket.recv_into(buffer[got:])):
            got += more
            _raise_if_expired(deadline)
        self._body_left -= got
        self.good = not self._body_left and not self._final
        return got

    def interrupt(self) -> None:
        """Fail the pending socket operation of another thread."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # that of SSLSocket would continue without TLS

    def close(self) -> None:
        """Close the socket, which no thread may be using."""
        self._socket.close()


def _raise_if_expired(deadline: Deadline) -> None:
    if deadline.expired:
        raise TimeoutError("the answer took too long")
