"""Tuning a connection changes nothing that passes through it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from asyncssh.encryption import get_encryption
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.transport import ssh
from flowrunner_provider.transport.ssh_tuning import BatchingTransport, ReceiveBuffer, keep_key, tune
from tests.contracts.store_contract import collect, write
from tests.files.conftest import target_of


@given(st.lists(st.tuples(st.binary(max_size=40), st.lists(st.integers(0, 50), max_size=4))))
def test_a_receive_buffer_is_like_bytes(steps):
    plain, buffer = b"", ReceiveBuffer(b"")
    for data, cuts in steps:
        plain, buffer = plain + data, buffer + data
        for cut in cuts:
            assert buffer[:cut] == plain[:cut]
            assert buffer[cut : cut + 5] == plain[cut : cut + 5]
            assert buffer[3:-2] == plain[3:-2]
            assert buffer.find(b"\n", 0, cut) == plain.find(b"\n", 0, cut)
            before = bytes(buffer)
            plain, left = plain[cut:], buffer[cut:]
            assert bytes(buffer) == before
            buffer = left
            assert (bytes(buffer), len(buffer), bool(buffer)) == (plain, len(plain), bool(plain))


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def write_eof(self) -> None:
        self.writes.append(b"")

    def get_extra_info(self, name: str) -> None:
        assert name == "socket"

    def close(self) -> None:
        self.closed = True


def test_writes_of_one_turn_are_gathered_in_their_order():
    async def body() -> None:
        real = Transport()
        transport: Any = BatchingTransport(real)  # type: ignore[arg-type]
        transport.write(b"a")
        transport.write(b"b")
        assert real.writes == []
        await asyncio.sleep(0)
        transport.write(b"c")
        transport.write(b"x" * 70_000)
        transport.write(b"d")
        transport.writelines([b"e", b"f"])
        transport.write_eof()
        assert real.writes == [b"ab", b"c" + b"x" * 70_000, b"def", b""]
        transport.write(b"g")
        transport.close()
        assert real.writes[4:] == [b"g"]
        assert real.closed

    asyncio.run(body())


class Peer:
    """A socket that is told how to acknowledge, and is closed at last."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def setsockopt(self, *option: int) -> None:
        self.told.append(option)  # type: ignore[arg-type]
        if len(self.told) == 2:
            raise OSError(9, "Bad file descriptor")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="there is no such option here")
def test_answers_are_acknowledged_at_once_until_a_session_has_begun():
    async def body() -> None:
        real, peer = Transport(), Peer()
        real.get_extra_info = lambda name: peer  # type: ignore[method-assign,assignment,return-value]
        transport: Any = BatchingTransport(real)  # type: ignore[arg-type]
        for number in range(10):
            transport.write(b"x")
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(peer.told) == min(number + 1, 4)
        assert set(peer.told) == {(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)}

    asyncio.run(body())


class Connection:
    def __init__(self, cipher: str) -> None:
        self.cipher, self.sent = cipher, []

    def get_extra_info(self, name: str) -> str:
        return self.cipher if name == "send_cipher" else ""

    def send_packet(self, kind: int, *parts: bytes, handler: object = None) -> None:
        if kind != 2:
            self.send_packet(2)
        self.sent.append(kind)


def test_empty_messages_are_sent_only_where_they_are_of_use():
    for cipher, expected in (("aes128-gcm@openssh.com", [94]), ("aes128-cbc", [2, 94])):
        connection = Connection(cipher)
        tune(connection)
        connection.send_packet(94, b"data", handler=None)
        assert connection.sent == expected


INNER = ("_transport", "_inpbuf", "send_packet", "_send_encryption", "_recv_encryption", "send_newkeys")


class Renamed:
    """A connection of a release of asyncssh that calls some things otherwise."""

    def __init__(self, real: Any, missing: tuple[str, ...]) -> None:
        object.__setattr__(self, "of", (real, missing))

    def __getattr__(self, name: str) -> Any:
        real, missing = self.of
        if name in missing:
            raise AttributeError(name)
        return getattr(real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        real, missing = self.of
        assert name not in missing
        setattr(real, name, value)


@pytest.mark.backend
@pytest.mark.parametrize(
    "missing", [(), *((name,) for name in INNER), INNER], ids=lambda names: " ".join(names) or "none"
)
def test_files_come_and_go_whatever_asyncssh_calls_its_inner_things(sshd, monkeypatch, missing):
    root, data = str(sshd.root()), os.urandom(3_000_000)
    monkeypatch.setattr(ssh, "tune", lambda connection: tune(Renamed(connection, missing)))

    async def body() -> None:
        async with asyncio.timeout(30), SftpStore(target_of(sshd)) as store:
            await write(store, f"{root}/large", data)
            await asyncio.gather(*(write(store, f"{root}/{number}", b"small") for number in range(50)))
            assert await collect(store.read(f"{root}/large")) == data
            assert len([entry async for entry in store.list(root)]) == 51

    asyncio.run(body())


@pytest.mark.parametrize("name", [b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com"])
def test_a_kept_key_encrypts_and_decrypts_the_same(name):
    def direction() -> Any:
        return get_encryption(name, b"k" * (16 if b"128" in name else 32), b"\0" * 4 + b"\xff" * 8)

    plain, kept, reader, kept_reader = (direction() for _ in range(4))
    keep_key(kept)
    keep_key(kept_reader)
    for seq in range(5):
        packet, header = os.urandom(16 * (seq + 1)), (16 * (seq + 1)).to_bytes(4, "big")
        sealed = b"".join(plain.encrypt_packet(seq, header, packet))
        assert b"".join(kept.encrypt_packet(seq, header, packet)) == sealed
        wrong = bytes((sealed[-1] ^ (seq == 3),))
        arrived = seq, sealed[:16], sealed[16:-16], 4, sealed[-16:-1] + wrong
        for end in (reader, kept_reader):  # a forged packet is refused, and the nonce counts on
            assert end.decrypt_packet(*arrived) == (None if seq == 3 else packet)


def test_other_ciphers_are_left_alone():
    for name, size in ((b"chacha20-poly1305@openssh.com", 64), (b"aes128-ctr", 16)):
        encryption = get_encryption(name, b"k" * size, b"i" * 16, b"hmac-sha2-256", b"m" * 32)
        keep_key(encryption)
        assert "encrypt_packet" not in vars(encryption)
    keep_key(None)


@pytest.mark.backend
def test_a_new_key_is_kept_too(sshd, monkeypatch):
    root, data, opened = str(sshd.root()), os.urandom(3_000_000), []
    monkeypatch.setattr(ssh, "tune", lambda connection: (opened.append(connection), tune(connection)))

    async def body() -> None:
        async with asyncio.timeout(30), SftpStore(target_of(sshd)) as store:
            (connection,) = opened
            first = connection._send_encryption, connection._recv_encryption
            connection._rekey_bytes = 1_000_000
            await write(store, f"{root}/large", data)
            assert await collect(store.read(f"{root}/large")) == data
            last = connection._send_encryption, connection._recv_encryption
            assert not {*map(id, first)} & {*map(id, last)}
            assert all("encrypt_packet" in vars(encryption) for encryption in (*first, *last))

    asyncio.run(body())
