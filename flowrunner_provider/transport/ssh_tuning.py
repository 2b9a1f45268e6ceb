"""Make an asyncssh connection faster: less Python per packet, fewer system calls, fewer copies.

All of it replaces private attributes of one connection, which another release of asyncssh may rename. An attribute
that is missing is left alone: the connection is slower then, and no less correct.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

__all__ = ["BatchingTransport", "ReceiveBuffer", "keep_key", "tune", "tune_channel"]

_WORTH_A_CALL = 64 * 1024
"""Bytes from which a write gets a system call to itself."""

_WRITES_BEFORE_SESSION = 4
"""Writes from the login to the first request of a session."""

_MSG_IGNORE = 2  # RFC 4253, section 11.2


class BatchingTransport:
    """A transport that sends everything written within one turn of the event loop in one system call.

    Until a session has begun, OpenSSH delays an answer while an earlier one is unacknowledged, and Linux delays the
    acknowledgement by 40 ms unless ``TCP_QUICKACK`` is set. The option only holds until the next send, so it is set
    after each of the first writes.

    :param transport: the real transport, which handles everything except writing.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._early_writes = _WRITES_BEFORE_SESSION

    def write(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _WORTH_A_CALL:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            self._transport.write(data)
            if self._early_writes:
                self._early_writes -= 1
                self._loop.call_soon(self._acknowledge_at_once)

    def _acknowledge_at_once(self) -> None:
        peer = self._transport.get_extra_info("socket")
        if peer is not None and hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):  # the socket was closed meanwhile
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


class ReceiveBuffer:
    """Received bytes that can be consumed from the front without copying the rest.

    asyncssh consumes twice per packet. Of the 256 KiB that arrive at a time it would copy each byte eight times.

    :param data: the bytes.
    :param start: the number of bytes that are consumed already.
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
                return ReceiveBuffer(self._data, self._start + start)
            if start >= 0 and stop >= 0:
                return self._data[self._start + start : self._start + stop]
        return bytes(self)[index]

    def __add__(self, more: bytes) -> ReceiveBuffer:
        return ReceiveBuffer(bytes(self) + more) if self else ReceiveBuffer(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(bytes(self), name)


def tune(connection: Any) -> None:
    """Tune a connection that has logged in."""
    if (transport := getattr(connection, "_transport", None)) is not None:
        connection._transport = BatchingTransport(transport)
    if isinstance(getattr(connection, "_inpbuf", None), bytes):
        connection._inpbuf = ReceiveBuffer(connection._inpbuf)
    _keep_keys(connection)
    _omit_empty_messages(connection)


def tune_channel(channel: Any) -> None:
    """Tune a channel: format no debug message for each of its packets."""
    for name in ("log_sent_packet", "log_received_packet"):
        if hasattr(channel, name):
            setattr(channel, name, _log_nothing)


def _log_nothing(*_: Any, **__: Any) -> None: ...


def _omit_empty_messages(connection: Any) -> None:
    """Omit the empty message that asyncssh sends before each message to hide where that begins.

    Only ciphers that chain one message to the next (CBC) need it.
    """
    send = getattr(connection, "send_packet", None)
    if send is None or str(connection.get_extra_info("send_cipher")).endswith("-cbc"):
        return

    def send_packet(kind: int, *parts: bytes, **more: Any) -> None:
        if kind != _MSG_IGNORE:
            send(kind, *parts, **more)

    connection.send_packet = send_packet


def _keep_keys(connection: Any) -> None:
    """Apply :func:`keep_key` to both directions, now and after every key exchange."""
    for name in ("_send_encryption", "_recv_encryption"):
        keep_key(getattr(connection, name, None))
    exchange: Callable[[bytes, bytes], None] | None = getattr(connection, "send_newkeys", None)
    if exchange is None:
        return

    def send_newkeys(secret: bytes, digest: bytes) -> None:
        exchange(secret, digest)
        for name in ("_send_encryption", "_next_recv_encryption"):
            keep_key(getattr(connection, name, None))

    connection.send_newkeys = send_newkeys


def keep_key(encryption: Any) -> None:
    """Set up the key of an AES-GCM direction once; asyncssh does it for every packet, which doubles the cost.

    asyncssh still chooses the nonce and counts it up.
    """
    cipher: Any = getattr(encryption, "_cipher", None)
    if not all(hasattr(cipher, name) for name in ("_key", "_iv", "_update_iv", "verify_and_decrypt")):
        return  # another cipher, or another release
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = AESGCM(cipher._key)

    def encrypt_packet(seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        sealed = key.encrypt(cipher._iv, packet, header)
        cipher._update_iv()
        return header + sealed, b""

    def decrypt_packet(seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        try:
            return key.decrypt(cipher._iv, b"".join((first[header_len:], rest, mac)), first[:header_len])
        except InvalidTag:
            return None
        finally:
            cipher._update_iv()

    encryption.encrypt_packet, encryption.decrypt_packet = encrypt_packet, decrypt_packet
