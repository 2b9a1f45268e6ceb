"""A session answers everybody who asked, whatever the server says, and does not hang; no network."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConnectionLost,
    NotFound,
    Rejected,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.transport.sftp_session import READ, SftpSession, abandon
from flowrunner_provider.transport.sftp_wire import (
    Attributes,
    Kind,
    StatusError,
    Violation,
    pack,
    pack_attributes,
    pack_string,
)
from flowrunner_provider.transport.ssh_errors import ssh_errors

NAMES = {value: name for name, value in vars(Kind).items() if isinstance(value, int)}


class Script:
    """The channel to a server that says only what the test says; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, bytes]] = []
        self.writes = 0
        self.aborted = False
        self.session: SftpSession

    def write(self, data: bytes) -> None:
        self.writes += 1
        while data:
            length, kind, number = struct.unpack_from(">IBI", data)
            self.asked.append((NAMES[kind], number, data[9 : 4 + length]))
            data = data[4 + length :]

    def abort(self) -> None:
        self.aborted = True

    def says(self, kind: int, number: int, body: bytes = b"") -> None:
        self.session.data_received(pack(kind, number, body), None)

    def refuses(self, number: int, code: int, reason: bytes = b"") -> None:
        self.says(Kind.STATUS, number, struct.pack(">I", code) + pack_string(reason) + pack_string(b""))

    async def number(self, index: int = -1) -> int:
        await asyncio.sleep(0)
        return self.asked[index][1]


def play(act: Callable[[SftpSession, Script], Awaitable[None]], timeout: float = 5, extensions: bytes = b"") -> Script:
    """Let ``act`` play the server, and the user, of a session that has begun."""
    script = Script()

    async def body() -> None:
        script.session = session = SftpSession(timeout)
        session.connection_made(script)
        start = asyncio.ensure_future(session.start())
        await asyncio.sleep(0)
        script.says(Kind.VERSION, 3, extensions)
        async with asyncio.timeout(20):
            await start
            await act(session, script)

    asyncio.run(body())
    return script


def test_requests_of_one_turn_leave_together_and_find_their_answers():
    async def act(session: SftpSession, script: Script) -> None:
        writes = script.writes
        first, second = session.lstat("a"), session.lstat("b")
        await script.number()
        assert script.writes == writes + 1
        numbers = [number for kind, number, _ in script.asked if kind == "LSTAT"]
        for number, size in zip(reversed(numbers), (2, 1), strict=True):
            script.says(Kind.ATTRS, number, pack_attributes(Attributes(size=size)))
        assert [(await first).size, (await second).size] == [1, 2]

    play(act)


def test_a_refusal_is_of_one_request_only():
    async def act(session: SftpSession, script: Script) -> None:
        refused = session.lstat("a")
        script.refuses(await script.number(), 3, b"no")
        with pytest.raises(StatusError, match="no"):
            await refused
        fine = session.close(b"h")
        script.refuses(await script.number(), 0)
        assert await fine is None

    play(act)


def test_the_end_of_a_file_and_of_a_folder():
    async def act(session: SftpSession, script: Script) -> None:
        data, names = session.read(b"h", 0, 10), session.readdir(b"h")
        await script.number()
        script.refuses(script.asked[-2][1], 1)
        script.refuses(script.asked[-1][1], 1)
        assert await data == b""
        assert await names is None

    play(act)


def twice(script: Script, number: int) -> None:
    for _ in range(2):
        script.says(Kind.DATA, number, pack_string(b""))


LIES: dict[str, Callable[[Script, int], None]] = {
    "an answer to nobody": lambda script, number: script.refuses(number + 7, 0),
    "a second greeting": lambda script, number: script.says(Kind.VERSION, number + 7),
    "a greeting for an answer": lambda script, number: script.says(Kind.VERSION, number),
    "OK without what was asked for": lambda script, number: script.refuses(number, 0),
    "another type of answer": lambda script, number: script.says(Kind.HANDLE, number, pack_string(b"h")),
    "an unknown type": lambda script, number: script.says(77, number),
    "more data than asked for": lambda script, number: script.says(Kind.DATA, number, pack_string(b"x" * 11)),
    "an empty status": lambda script, number: script.says(Kind.STATUS, number),
    "a huge message": lambda script, _: script.session.data_received(struct.pack(">IBI", 2**31, 103, 1), None),
    "the same answer twice": twice,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_session_for_all_who_wait(lie):
    async def act(session: SftpSession, script: Script) -> None:
        other, asked = session.lstat("a"), session.read(b"h", 0, 10)
        LIES[lie](script, await script.number())
        if "twice" not in lie:
            with pytest.raises(Violation):
                await asked
        for future in (other, session.lstat("b")):
            with pytest.raises(Violation):
                await future
        session.close_unawaited(b"h")

    assert play(act).aborted


@pytest.mark.parametrize("version", [2, 4, 6])
def test_another_version(version):
    async def body() -> None:
        script = Script()
        script.session = session = SftpSession(5)
        session.connection_made(script)
        start = asyncio.ensure_future(session.start())
        await asyncio.sleep(0)
        script.says(Kind.VERSION, version)
        with pytest.raises(Violation, match=f"version {version}"):
            await start

    asyncio.run(body())


@pytest.mark.parametrize(("told", "most"), [((0, 0), 32768), ((4096, 8192), 4096), ((2**40, 2**40), 255 * 1024)])
def test_limits_of_the_server(told, most):
    async def body() -> None:
        script = Script()
        script.session = session = SftpSession(5)
        session.connection_made(script)
        start = asyncio.ensure_future(session.start())
        await asyncio.sleep(0)
        script.says(Kind.VERSION, 3, pack_string(b"limits@openssh.com") + pack_string(b"1"))
        await asyncio.sleep(0)
        script.says(Kind.EXTENDED_REPLY, await script.number(), struct.pack(">4Q", 0, *told, 20))
        await start
        assert session.max_read == most
        assert session.max_folders == 10

    asyncio.run(body())


@pytest.mark.parametrize("others", [False, True])
def test_an_answer_that_does_not_come(others):
    """Also if others are answered meanwhile; all wait no longer than for one."""

    async def act(session: SftpSession, script: Script) -> None:
        silent, more = session.lstat("a"), session.lstat("b")
        while others and not silent.done():
            answered = session.close(b"h")
            script.refuses(await script.number(), 0)
            await answered
            await asyncio.sleep(0.01)
        for future in (silent, more):
            with pytest.raises(TimeoutError):
                await future
        with pytest.raises(TimeoutError):
            await session.lstat("c")

    assert play(act, timeout=0.2).aborted


def test_slow_answers_are_answers():
    async def act(session: SftpSession, script: Script) -> None:
        futures = [session.lstat(str(number)) for number in range(4)]
        await script.number()
        for (_, number, _), future in zip(script.asked[-4:], futures, strict=True):
            await asyncio.sleep(0.5)
            script.says(Kind.ATTRS, number, pack_attributes(Attributes(size=1)))
            assert (await future).size == 1

    play(act, timeout=1.5)


def test_a_handle_that_nobody_waits_for_is_closed():
    async def act(session: SftpSession, script: Script) -> None:
        given_up = session.open("a", READ)
        number = await script.number()
        given_up.cancel()
        script.says(Kind.HANDLE, number, pack_string(b"h"))
        await asyncio.sleep(0)
        assert script.asked[-1][0] == "CLOSE"
        assert script.asked[-1][2] == pack_string(b"h")

    play(act)


@pytest.mark.parametrize("end", ["eof", "lost", "ended"])
def test_the_end_is_told_to_all(end):
    async def act(session: SftpSession, script: Script) -> None:
        waiting = session.lstat("a")
        await script.number()
        if end == "eof":
            session.eof_received()
        elif end == "lost":
            session.connection_lost(None)
        else:
            session.end()
        for future in (waiting, session.lstat("b")):
            with pytest.raises(ConnectionError):
                await future

    play(act)


def test_errors_say_what_to_do():
    for error, expected in (
        (Violation("nonsense"), Unavailable),
        (TimeoutError("no answer"), TimedOut),
        (ConnectionResetError("gone"), ConnectionLost),
        (StatusError(2, ""), NotFound),
        (StatusError(3, ""), AccessDenied),
        (StatusError(4, "it is\nfull"), Rejected),
    ):
        with pytest.raises(expected, match="doing it"), ssh_errors("doing it"):
            raise error
    with pytest.raises(KeyError), ssh_errors("doing it"):
        raise KeyError


def test_what_is_let_go_is_not_reported(caplog):
    async def act(session: SftpSession, script: Script) -> None:
        failed, pending = session.lstat("a"), session.lstat("b")
        await script.number()
        script.refuses(script.asked[-2][1], 4)
        abandon([failed, pending])
        assert pending.cancelled()
        script.refuses(script.asked[-1][1], 4)

    play(act)
    assert not caplog.records
