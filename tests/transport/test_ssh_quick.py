"""What makes a connection quicker changes nothing that passes through it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.transport import ssh
from flowrunner_provider.transport.ssh_quick import Gathering, Inbox, quicken
from tests.contracts.store_contract import collect, write
from tests.files.conftest import target_of


@given(st.lists(st.tuples(st.binary(max_size=40), st.lists(st.integers(0, 50), max_size=4))))
def test_an_inbox_is_like_bytes(steps):
    plain, inbox = b"", Inbox(b"")
    for data, cuts in steps:
        plain, inbox = plain + data, inbox + data
        for cut in cuts:
            assert inbox[:cut] == plain[:cut]
            assert inbox[cut : cut + 5] == plain[cut : cut + 5]
            assert inbox[3:-2] == plain[3:-2]
            assert inbox.find(b"\n", 0, cut) == plain.find(b"\n", 0, cut)
            before = bytes(inbox)
            plain, left = plain[cut:], inbox[cut:]
            assert bytes(inbox) == before
            inbox = left
            assert (bytes(inbox), len(inbox), bool(inbox)) == (plain, len(plain), bool(plain))


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
        transport: Any = Gathering(real)  # type: ignore[arg-type]
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
        transport: Any = Gathering(real)  # type: ignore[arg-type]
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
        quicken(connection)
        connection.send_packet(94, b"data", handler=None)
        assert connection.sent == expected


INNER = ("_transport", "_inpbuf", "send_packet")


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
    monkeypatch.setattr(ssh, "quicken", lambda connection: quicken(Renamed(connection, missing)))

    async def body() -> None:
        async with asyncio.timeout(30), SftpStore(target_of(sshd)) as store:
            await write(store, f"{root}/large", data)
            await asyncio.gather(*(write(store, f"{root}/{number}", b"small") for number in range(50)))
            assert await collect(store.read(f"{root}/large")) == data
            assert len([entry async for entry in store.list(root)]) == 51

    asyncio.run(body())
