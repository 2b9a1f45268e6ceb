"""What makes an asyncssh connection quicker; where asyncssh works otherwise, things are slower and no less right.

Measured on trees of small files and on large files: what it costs is Python per packet, and copies.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

__all__ = ["Gathering", "Inbox", "quicken"]

_LARGE = 64 * 1024
"""From this size on a write is worth a system call of its own, in bytes."""

_FIRST = 4
"""Writes from the login to the first request of a session."""

_MSG_IGNORE = 2  # RFC 4253, section 11.2


class Gathering:
    """A transport that sends what is written within one turn of the event loop in one system call.

    Until a session has begun OpenSSH holds back an answer while an earlier one is not acknowledged, for which Linux
    takes 40 ms if it is not told otherwise; telling it lasts until something is sent, so it is told again.

    :param transport: the real one; everything but writing is left to it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._size = 0
        self._early = _FIRST

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _LARGE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            self._transport.write(data)
            if self._early:
                self._early -= 1
                self._loop.call_soon(self._acknowledge_at_once)

    def _acknowledge_at_once(self) -> None:
        peer = self._transport.get_extra_info("socket")
        if peer is not None and hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):  # closed meanwhile
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def writelines(self, lines: Iterable[bytes]) -> None:
        self.write(b"".join(lines))

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Inbox:
    """Bytes of which the first ones can be left out without a copy of the rest.

    asyncssh does that twice per packet; with the 256 KiB that come at a time it copies each byte eight times.

    :param data: the bytes.
    :param start: how many of them are left out.
    """

    __slots__ = ("_data", "_start")

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data, self._start = data, min(start, len(data))

    def __len__(self) -> int:
        return len(self._data) - self._start

    def __bytes__(self) -> bytes:
        return self._data[self._start :] if self._start else self._data

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.step is None:
            start, stop = index.start or 0, index.stop
            if start >= 0 and stop is None:
                return Inbox(self._data, self._start + start)
            if start >= 0 and stop >= 0:
                return self._data[self._start + start : self._start + stop]
        return bytes(self)[index]

    def __add__(self, more: bytes) -> Inbox:
        return Inbox(bytes(self) + more) if self else Inbox(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(bytes(self), name)


def quicken(connection: Any) -> None:
    """Fewer system calls, packets and copies.

    What it takes hold of has no promise to stay: whatever another release of asyncssh calls otherwise is left alone.

    asyncssh sends an empty message before each, which hides where a message begins. Only ciphers that chain one
    message to the next (CBC) need that.
    """
    if (transport := getattr(connection, "_transport", None)) is not None:
        connection._transport = Gathering(transport)
    if isinstance(getattr(connection, "_inpbuf", None), bytes):
        connection._inpbuf = Inbox(connection._inpbuf)
    send = getattr(connection, "send_packet", None)
    if send is None or str(connection.get_extra_info("send_cipher")).endswith("-cbc"):
        return

    def send_packet(kind: int, *parts: bytes, **more: Any) -> None:
        if kind != _MSG_IGNORE:
            send(kind, *parts, **more)

    connection.send_packet = send_packet
