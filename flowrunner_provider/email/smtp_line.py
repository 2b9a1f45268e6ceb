"""Commands and replies of SMTP (RFC 5321) on a connection that is already open and logged in.

If the server supports PIPELINING (RFC 2920), several commands go out in one write and their replies come back in the
same order. An unexpected, malformed or late reply makes that order unreliable: the line is then *spoilt*, and every
further command fails.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple

__all__ = ["Reply", "SmtpLine", "Spoilt"]

_REPLY = re.compile(rb"(\d{3})(?:([ -])(.*))?", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LONGEST_REPLY = 32 * 1024
_CHUNK = 64 * 1024


class Spoilt(ConnectionError):
    """The server sent something that is not a valid reply."""


class Reply(NamedTuple):
    """A reply to one command; the lines of its text are separated by line breaks."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        return 200 <= self.code < 300


class SmtpLine(asyncio.Protocol):
    """Takes over an open connection.

    :param transport: its asyncio transport; the greeting was read and no reply is pending.
    :param tls: whether the connection is encrypted.
    """

    def __init__(self, transport: Any, *, tls: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._buffer = bytearray()
        self._text: list[bytes] = []
        self._replies: list[Reply] = []
        self._wanted = 0
        self._failure: OSError | None = None
        self._paused = self._sending = False
        self._waiter: asyncio.Future[None] | None = None
        # asyncio's TLS pauses at the mark and not above it: with 0 an empty buffer would never let go again.
        transport.set_write_buffer_limits(high=1 if tls else 0, low=0)
        transport.set_protocol(self)

    def info(self, name: str) -> Any:
        """Return extra information of the transport, e.g. ``cipher``."""
        return self._transport.get_extra_info(name)

    @property
    def alive(self) -> bool:
        """Whether a command may be sent."""
        return self._failure is None and not self._transport.is_closing()

    async def ask(self, *commands: bytes, timeout: float) -> list[Reply]:
        """Send commands in one write and return their replies.

        There are fewer replies than commands if the server closed the connection after some; none at all is an error.

        :raises TimeoutError: when no further reply arrived within ``timeout`` seconds.
        :raises OSError: when the connection is lost.
        """
        for command in commands:
            if _CONTROL.search(command):
                raise ValueError("a command holds a control character")
        self._expect(len(commands))
        self._transport.write(b"\r\n".join((*commands, b"")))
        return await self._answers(timeout)

    async def write(self, message: bytes, timeout: float) -> None:
        """Write a message with its final dot; then call :meth:`reply`.

        On return, the operating system has the complete message, or the server has refused it before its end. After an
        error, the dot was not sent and never will be.

        :param timeout: seconds for each 64 KiB.
        """
        self._expect(1)
        self._sending = True
        try:
            for start in range(0, len(message), _CHUNK):
                self._transport.write(message if len(message) <= _CHUNK else message[start : start + _CHUNK])
                gone = not self._transport.is_closing()
                if gone and self._paused:
                    await self._wait(timeout)
                    gone = not self._paused
                if not gone:
                    self._fail(ConnectionResetError("connection lost"))
                if self._failure is not None and not (gone and start + _CHUNK >= len(message)):
                    if self._replies:  # it has refused the message, and will not read on
                        break
                    raise self._failure
        except BaseException:
            self._transport.abort()  # to close it would write the rest
            raise
        finally:
            self._sending = False

    async def reply(self, timeout: float) -> Reply:
        """Return the reply to the message that was written."""
        return (await self._answers(timeout))[0]

    def close(self) -> None:
        """Close the connection without QUIT."""
        spoilt = self._failure is not None or self._paused
        self._fail(ConnectionResetError("closed"))
        (self._transport.abort if spoilt else self._transport.close)()

    # What is awaited

    def _expect(self, replies: int) -> None:
        if self._failure is None and self._transport.is_closing():
            self._fail(ConnectionResetError("connection lost"))
        if self._failure is not None:
            raise self._failure
        self._replies, self._wanted = [], replies

    async def _answers(self, timeout: float) -> list[Reply]:
        while self._wanted and self._failure is None:
            await self._wait(timeout)
        if self._failure is not None and not self._replies:
            raise self._failure
        return self._replies

    async def _wait(self, timeout: float) -> None:
        self._waiter = waiter = self._loop.create_future()
        self._timer = self._loop.call_later(timeout, self._on_timeout, timeout, len(self._replies))
        try:
            await waiter
        finally:
            self._timer.cancel()
            self._waiter = None

    def _on_timeout(self, timeout: float, heard: int) -> None:
        if len(self._replies) > heard:  # it is slow, but goes on
            self._timer = self._loop.call_later(timeout, self._on_timeout, timeout, len(self._replies))
            return
        self._replies = []
        self._fail(TimeoutError("no answer in time"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: OSError) -> None:
        self._failure = self._failure or error
        self._wanted = 0
        self._wake()

    # Callbacks of the transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip()
            del self._buffer[: end + 1]
            self._on_line(line)
        if len(self._buffer) > _LONGEST_REPLY:
            self._fail(Spoilt("its reply has no end"))
        if not self._wanted and not self._paused:
            self._wake()

    def _on_line(self, line: bytes) -> None:
        found = _REPLY.fullmatch(line)
        if not self._wanted or found is None:
            self._fail(Spoilt(line.decode("utf-8", "replace")))
            return
        if self._sending and self._paused and found[1] < b"400":  # its end has not gone out
            self._fail(Spoilt("it took a message of which it has not seen the end"))
            return
        self._text.append((found[3] or b"").strip())
        if sum(map(len, self._text)) > _LONGEST_REPLY:
            self._fail(Spoilt("its reply has no end"))
        if found[2] == b"-":
            return
        self._replies.append(Reply(int(found[1]), b"\n".join(self._text).decode("utf-8", "replace")))
        self._text.clear()
        self._wanted -= 1
        if found[1] == b"421":  # and hangs up
            self._fail(ConnectionResetError("closed by the server"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        if self._paused:
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        lost = ConnectionResetError("connection lost")
        lost.__cause__ = exc
        self._fail(lost)
