"""One mail on a connection, command by command and in one write (RFC 2920): what is known when it fails, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    ConnectionLost,
    FlowRunnerError,
    OutcomeUnknown,
    Rejected,
    Throttled,
    TimedOut,
)
from flowrunner_provider.email.message import build, compose
from flowrunner_provider.email.smtp import SmtpEnvelope, SmtpTransport
from flowrunner_provider.email.smtp_line import SmtpLine
from tests.email.test_message import DATE
from tests.email.test_smtp import PHASES, config, replies, scripted

MAIL = compose(sender="robot@example.com", to="a@example.com", subject="s", text=".\n..dots\nx.\n")
OFFERS = {True: "250-hi\r\n250-PIPELINING\r\n250 8BITMIME", False: "250-hi\r\n250 8BITMIME"}


def played(
    server: Any, *, mails: int = 1, mail: Any = MAIL, patience: float = 5.0, **more: Any
) -> list[dict[str, str]]:
    """Send ``mails`` copies as a batch does; for each, who was refused and why."""

    async def work() -> list[dict[str, str]]:
        given = config(server, timeout=patience, reply_timeout=patience)
        session = await SmtpTransport(given).login(Deadline(20.0))
        try:
            return [await one(session, build(mail, f"<{number}@example.com>", DATE)) for number in range(mails)]
        finally:
            await session.close()

    async def one(session: SmtpEnvelope, data: bytes) -> dict[str, str]:
        await session.announce(mail, mail.recipients, len(data), at_once=True)
        if len(session.refused) < len(mail.recipients):
            await session.data(data)
        else:
            await session.reset()
        return {who: str(why) for who, why in session.refused.items()}

    return asyncio.run(work())


@pytest.mark.parametrize("pipelining", [True, False])
def test_mail_after_mail_on_one_connection(pipelining: bool) -> None:
    with scripted(replies({"EHLO": OFFERS[pipelining]})) as server:
        assert played(server, mails=3) == [{}, {}, {}]
    commands = [line.split(" ")[0] for line in server.heard]
    assert (commands.count("MAIL"), commands.count("RCPT"), commands.count("DATA"), commands.count(".")) == (3, 3, 3, 3)
    assert [line for line in server.heard if line.startswith("..")] == ["..", "...dots"] * 3
    assert commands.count("QUIT") == 1


def test_what_goes_out_in_one_write() -> None:
    writes: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        for answer in (OFFERS[True].encode(), b"250 ok\r\n250 ok\r\n354 go", b"250 ok", b"221 bye"):
            writes.append(await reader.read(1 << 16))
            writer.write(answer + b"\r\n")
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        given = type("Server", (), {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]})
        session = await SmtpTransport(config(given)).login(Deadline(10.0))
        data = build(MAIL, "<1@example.com>", DATE)
        await session.announce(MAIL, MAIL.recipients, len(data), at_once=True)
        await session.data(data)
        await session.close()
        server.close()

    asyncio.run(work())
    assert writes[1] == b"MAIL FROM:<robot@example.com>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n"
    assert writes[2].startswith(b"From: ")
    assert writes[2].endswith(b"\r\n...dots\r\nx.\r\n.\r\n")
    assert writes[3] == b"QUIT\r\n"


FAULTS: list[tuple[dict[str, str | None], type[FlowRunnerError]]] = [
    *PHASES,
    ({"MAIL": "553 5.1.8 bad sender", "RCPT": "503 5.5.1 what", "DATA": "503 5.5.1 what"}, Rejected),
    ({"MAIL": "553 5.1.8 bad sender", "RCPT": "503 5.5.1 what", "DATA": "354 go"}, Rejected),
    ({"MAIL": "421 4.7.0 bye"}, Throttled),
    ({"MAIL": ""}, TimedOut),
    ({"MAIL": "nonsense"}, ConnectionLost),
    ({"MAIL": "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok"}, FlowRunnerError),
    ({"RCPT": ""}, TimedOut),
    ({"RCPT": "250-" + "x" * 40_000}, ConnectionLost),
    ({"DATA": "421 4.3.0 bye"}, Throttled),
    ({".": "250-half of a reply"}, OutcomeUnknown),
    ({".": "451 4.3.0 later"}, Throttled),
    ({".": "421 4.3.0 bye"}, Throttled),
    ({".": "554 5.6.0 no"}, Rejected),
]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(("changes", "error"), FAULTS)
def test_what_is_known_in_each_phase(
    changes: dict[str, str | None], error: type[FlowRunnerError], pipelining: bool
) -> None:
    slow = "" in changes.values() or any(str(each).startswith("250-half") for each in changes.values())
    with scripted(replies({"EHLO": OFFERS[pipelining], **changes})) as server, pytest.raises(error) as caught:
        played(server, patience=0.3 if slow else 5.0)
    assert error is FlowRunnerError or type(caught.value) is error
    assert not isinstance(caught.value, OutcomeUnknown) or "." in changes
    if "." not in changes:
        assert "." not in server.heard, "a message went out that was announced in vain"


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("answer", ["554 5.5.1 no valid recipients", "354 go"])
def test_a_refused_recipient_leaves_the_connection_good(pipelining: bool, answer: str) -> None:
    """Some servers wait for a message to nobody: they get an empty one."""
    usual = replies({"EHLO": OFFERS[pipelining], "RSET": "250 ok"})
    nth = {"RCPT": 0, "DATA": 0, ".": 0}

    def said(line: str) -> str | None:
        word = line.split(" ")[0]
        if word in nth:
            nth[word] += 1
            if nth[word] == 1 and word == "RCPT":
                return "550 5.1.1 unknown"
            if nth[word] == 1 and pipelining:
                return answer if word == "DATA" else "554 5.5.1 no valid recipients" if answer[0] == "3" else "250 ok"
        return usual(line)

    with scripted(said) as server:
        assert played(server, mails=2) == [{"a@example.com": "550 5.1.1 unknown"}, {}]
    assert [line for line in server.heard if line.startswith("From: ")] == ["From: robot@example.com"]


def test_some_of_many_recipients() -> None:
    many = compose(sender="r@example.com", to=[f"u{n}@example.com" for n in range(350)], subject="s", text="t")
    usual = replies({"EHLO": OFFERS[True]})

    def said(line: str) -> str | None:
        return "550 5.1.1 unknown" if line.startswith("RCPT") and line.endswith("7@example.com>") else usual(line)

    with scripted(said) as server:
        (refused,) = played(server, mail=many)
    assert sorted(refused) == sorted(who for who in many.recipients if who.endswith("7@example.com"))
    assert len([line for line in server.heard if line.startswith("RCPT")]) == 350


def test_a_reply_that_nobody_asked_for_spoils_the_connection() -> None:
    with (
        scripted(replies({"EHLO": OFFERS[True], ".": "250 ok\r\n250 and again"})) as server,
        pytest.raises(ConnectionLost),
    ):
        played(server, mails=2)
    assert server.heard.count(".") == 1


class _Wire(asyncio.Transport):
    """Takes as many bytes as it is told, like a full socket."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.out, self.kept, self.ended = room, bytearray(), bytearray(), ""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def set_protocol(self, protocol: Any) -> None:
        self.line: SmtpLine = protocol

    def is_closing(self) -> bool:
        return bool(self.ended)

    def write(self, data: Any) -> None:
        self.kept += data
        self.flow(0)

    def flow(self, room: int) -> None:
        self.room += room
        part = self.kept[: self.room]
        self.out += part
        del self.kept[: len(part)]
        self.room -= len(part)
        (self.line.pause_writing if self.kept else self.line.resume_writing)()

    def close(self) -> None:
        self.ended = self.ended or "closed"
        self.out += self.kept  # what a socket would do

    def abort(self) -> None:
        self.ended = "aborted"
        self.kept.clear()


async def _stuck(then: Callable[[_Wire], None], size: int = 50_000) -> tuple[_Wire, Any]:
    """Write a message into a wire that takes half of it; what came out in the end, and what the caller was told."""
    wire = _Wire(size // 2)
    line = SmtpLine(wire, tls=False)
    work = asyncio.create_task(line.write(b"x" * size + b"\r\n.\r\n", 0.2))
    for _ in range(3):
        await asyncio.sleep(0)
    then(wire)
    try:
        await work
        told: Any = await line.reply(0.2)
    except (OSError, asyncio.CancelledError) as error:
        told = error
    line.close()
    return wire, told


def _both(wire: _Wire) -> None:
    wire.flow(1 << 20)
    wire.line.connection_lost(None)


STUCK: list[tuple[str, Callable[[_Wire], Any], Any, bool]] = [
    ("nothing happens", lambda wire: None, TimeoutError, False),
    ("the server hangs up", lambda wire: wire.line.connection_lost(None), ConnectionResetError, False),
    ("it says nothing more", lambda wire: wire.line.eof_received(), ConnectionResetError, False),
    ("it refuses", lambda wire: (wire.line.data_received(b"552 5.3.4 no\r\n"), wire.flow(1 << 20)), 552, True),
    ("it refuses and hangs up", lambda wire: wire.line.data_received(b"421 4.3.0 no\r\n"), 421, False),
    ("it takes what it has not seen", lambda wire: wire.line.data_received(b"250 ok\r\n"), ConnectionError, False),
    ("all goes, no reply", lambda wire: wire.flow(1 << 20), TimeoutError, True),
    ("all goes, and it hangs up", _both, ConnectionResetError, True),
]


@pytest.mark.parametrize(("what", "then", "told", "whole"), STUCK, ids=[each[0] for each in STUCK])
@pytest.mark.parametrize("size", [50_000, 200_000])
def test_the_dot_never_goes_out_after_a_failure(
    what: str, then: Callable[[_Wire], None], told: Any, whole: bool, size: int
) -> None:
    wire, outcome = asyncio.run(_stuck(then, size))
    if isinstance(told, int):
        assert outcome.code == told
    else:
        assert isinstance(outcome, told)
    whole = whole and (told is not ConnectionResetError or size < 65_536)  # else it hung up before the last part
    assert wire.out.endswith(b"\r\n.\r\n") is whole, what


def test_the_dot_never_goes_out_after_a_cancelled_task() -> None:
    async def work() -> _Wire:
        wire = _Wire(10)
        line = SmtpLine(wire, tls=False)
        task = asyncio.create_task(line.write(b"x" * 1000 + b"\r\n.\r\n", 5.0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wire.close()
        return wire

    assert not asyncio.run(work()).out.endswith(b".\r\n")


def test_a_write_that_fails_at_once() -> None:
    class Dead(_Wire):
        def write(self, data: Any) -> None:
            self.ended = "broken"

    async def work() -> None:
        await SmtpLine(Dead(0), tls=False).write(b"x\r\n.\r\n", 5.0)

    with pytest.raises(ConnectionResetError):
        asyncio.run(work())


def test_a_control_character_in_a_command_is_refused() -> None:
    async def work() -> None:
        await SmtpLine(_Wire(99), tls=False).ask(b"RCPT TO:<a@b>\r\nDATA", timeout=1.0)

    with pytest.raises(ValueError, match="control character"):
        asyncio.run(work())
