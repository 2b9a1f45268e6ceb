"""Our own connections to S3 against a server that answers by the byte: nothing wrong is ever taken for success."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Callable, Coroutine
from hashlib import md5
from typing import Any, cast

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    IntegrityError,
    NotFound,
    PermanentError,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files.stores import s3_wire_pool
from flowrunner_provider.files.stores.s3_objects import Found, Proof, Stored
from flowrunner_provider.files.stores.s3_wire import TICKS, Answer, Violation, Wire, answer, answer_in_one_packet
from flowrunner_provider.files.stores.s3_wire_address import BucketAddress
from flowrunner_provider.files.stores.s3_wire_blocking_pool import BlockingPool
from flowrunner_provider.files.stores.s3_wire_objects import WireObjects
from flowrunner_provider.files.stores.s3_wire_pool import Pool, Server

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\n\r\nabc'
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
GONE, SILENCE, TRICKLE = object(), object(), object()
"""What a script does instead of sending: break off, wait for ever, send one byte every now and then."""


def error(status: int, code: str = "", *headers: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode() if code else b""
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status} No\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


# -- the parser, whatever the packets


def fed(data: bytes, step: int, *, head: bool = False, most: int = 100) -> Answer:
    reader = answer(head, most)
    next(reader)
    try:
        for start in range(0, len(data), step):
            reader.send(data[start : start + step])
        reader.throw(EOFError())
    except StopIteration as done:
        found: Answer = done.value
        return found
    raise AssertionError("neither an answer nor an error")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK, (200, b"abc", False)),
        (CHUNKED, (200, b"abc", False)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, (200, b"abc", False)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", False)),
        (b"HTTP/1.1 200\r\nConnection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n", (200, b"", True)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", (200, b"x", True)),
        (b"HTTP/1.1 503 Busy\r\n\r\nsome text", (503, b"some text", True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", (200, b"", False)),
    ],
)
def test_answers_in_packets_of_any_size(data, expected, step):
    found = fed(data, step)
    assert (found.status, found.body, found.final) == expected


def test_an_answer_to_head_has_no_body_whatever_its_length():
    assert fed(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", 5, head=True).headers == {"content-length": "999"}


@pytest.mark.parametrize("cut", range(len(OK)))
def test_an_answer_that_is_cut_anywhere_is_none(cut):
    with pytest.raises(EOFError):
        fed(OK[:cut], 50)


@pytest.mark.parametrize("cut", range(0, len(CHUNKED), 3))
def test_chunks_that_are_cut_anywhere_are_none(cut):
    with pytest.raises(EOFError):
        fed(CHUNKED[:cut], 50)


START = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        START + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        START + b"ETag: a\r\nETag: b\r\nContent-Length: 0\r\n\r\n",
        START + b"Content-Length: -1\r\n\r\n",
        START + b"Content-Length: 1_0\r\n\r\n",
        START + b"Content-Length: \xb2\r\n\r\n",
        START + b"Content-Length: 99999999999999999999\r\n\r\n",
        START + b"Content-Length: 101\r\n\r\n",
        START + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        START + b"Content-Length : 1\r\n\r\na",
        START + b"A: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        START + b"A: 1\nB: 2\r\nContent-Length: 0\r\n\r\n",
        START + b"A: 1\rB: 2\r\nContent-Length: 0\r\n\r\n",
        START + b"A: \0\r\nContent-Length: 0\r\n\r\n",
        START + b"no colon\r\nContent-Length: 0\r\n\r\n",
        START + b"\r\nthe length is not said",
        START + b"A: " + b"x" * 70_000 + b"\r\n\r\n",
        START + b"A: " + b"x" * 70_000,
        START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n65\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n" + b"x" * 70_000,
        b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 70_000,
        b"HTTP/1.1 500 No\r\nContent-Length: 65537\r\n\r\n",
    ],
)
def test_what_is_no_answer(data):
    for step in (len(data), 1 + len(data) // 100):
        with pytest.raises(Violation):
            fed(data, step)


@pytest.mark.parametrize("data", [OK, CHUNKED, error(404, "NoSuchKey"), EMPTY])
def test_more_than_an_answer_is_none(data):
    with pytest.raises(Violation):
        fed(data + b"x", 1000)


def test_garbage_never_does_anything_else_than_be_refused():
    draw = random.Random("garbage")
    for _ in range(2_000):
        data = bytearray(draw.choice([OK, CHUNKED, error(503, "SlowDown")]))
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice(b"\0\r\n :;09af\xff")
        try:
            found = fed(bytes(data), draw.randint(1, 80))
        except (Violation, EOFError):
            continue
        assert len(found.body) <= 100


def read(take: Callable[[], Answer | None]) -> Any:
    """An answer, or what is said instead of one."""
    try:
        return take()
    except (Violation, EOFError) as refusal:
        return type(refusal)


def test_what_comes_in_one_packet_is_read_as_what_comes_in_many():
    draw, short = random.Random("packets"), OK.replace(b"200", b"206").replace(b"OK", b"Partial Content")
    assert answer_in_one_packet(OK, False, 3) == fed(OK, 1)
    assert answer_in_one_packet(OK, False, 2) is None
    assert answer_in_one_packet(OK, True, 3) is None
    for _ in range(4_000):
        data = bytearray(draw.choice([OK, short, CHUNKED, EMPTY, error(404, "NoSuchKey"), OK[:30], OK + b"x"]))
        for _ in range(draw.randint(0, 2)):
            data[draw.randrange(len(data))] = draw.choice(b"\0\r\n :;09af\xff")
        head = draw.random() < 0.1
        found = read(lambda: answer_in_one_packet(bytes(data), head, 50))  # noqa: B023 - called at once
        assert found is None or found == read(lambda: fed(bytes(data), 9, head=head, most=50))  # noqa: B023


# -- requests, and a server that keeps to its script


class Script:
    """A server: for each connection in turn what it answers to each request, as bytes or as one of the above."""

    def __init__(self, *connections: list[Any], tls: ssl.SSLContext | None = None) -> None:
        self._scripts, self._tls = list(connections), tls
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.hold = False  # whether a connection stays when its script has ended
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __aenter__(self) -> Script:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[self.connections] if self.connections < len(self._scripts) else []
        self.connections += 1
        self.writers.append(writer)
        try:
            for step in script:
                await self._receive(reader)
                if step is SILENCE:
                    await reader.read()
                while step is TRICKLE:
                    writer.write(b"x")
                    await asyncio.sleep(0.01)
                    await writer.drain()
                if isinstance(step, bytes):
                    writer.write(step)
            if self.hold:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((first, headers, body))


def run(
    script: Script,
    act: Callable[[WireObjects], Coroutine[Any, Any, Any]],
    *,
    tries: int = 3,
    timeout: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Any:
    """What ``act`` returns, and whether nothing is left of the connections."""

    async def body() -> Any:
        async with asyncio.timeout(20), script:
            server = Server(host="127.0.0.1", port=script.port, tls=tls, connect_timeout=1.0, timeout=timeout)
            netloc = f"127.0.0.1:{script.port}"
            address = BucketAddress(
                secure=False, host="127.0.0.1", port=script.port, netloc=netloc, prefix="/b", region="us-east-1"
            )
            plan = RetryPlan(attempts=tries, backoff=Backoff(base=0.001))
            lines = BlockingPool(server)
            objects = WireObjects(address, Pool(server), None, plan, blocking=lines, settings={}, sign_bodies=False)
            try:
                return await act(objects)
            finally:
                objects.close()

    return asyncio.run(body())


def get(objects: WireObjects, offset: int = 0, wanted: int = 10, version: str = "") -> Coroutine[Any, Any, Any]:
    return objects.get("reading", "k", offset, wanted, version)


def put(objects: WireObjects, *, create: bool = False) -> Coroutine[Any, Any, Any]:
    return objects.put("writing", "k", b"data", Proof(md5="x"), create=create)


def test_one_connection_serves_many_requests():
    script = Script([OK, EMPTY, b"HTTP/1.1 204 No Content\r\n\r\n", CHUNKED])

    async def act(objects):
        assert await get(objects) == (3, '"e"', b"abc")
        assert await put(objects) == Stored("", "")
        await objects.delete("deleting", "k")
        assert (await get(objects))[2] == b"abc"

    run(script, act)
    assert script.connections == 1
    assert [first for first, _, _ in script.requests] == [
        "GET /b/k HTTP/1.1", "PUT /b/k HTTP/1.1", "DELETE /b/k HTTP/1.1", "GET /b/k HTTP/1.1",
    ]  # fmt: skip
    assert script.requests[1][2] == b"data"


def test_no_more_connections_than_are_allowed(monkeypatch):
    monkeypatch.setattr(s3_wire_pool, "_MAX_CONNECTIONS", 4)
    script = Script(*[[OK] * 40 for _ in range(10)])

    async def act(objects):
        assert {found[2] for found in await asyncio.gather(*(get(objects) for _ in range(40)))} == {b"abc"}

    run(script, act)
    assert (script.connections, len(script.requests)) == (4, 40)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_what_passes_is_tried_again(status):
    script = Script([error(status, "", "Retry-After: 0"), OK])
    assert run(script, get)[2] == b"abc"
    assert script.connections == 1


def test_a_server_that_stays_busy_says_how_long_to_wait():
    script = Script([error(503, "SlowDown", "Retry-After: 99", "x-amz-request-id: AB12=")])
    with pytest.raises(Throttled, match=r"SlowDown \(request AB12=\)") as caught:
        run(script, get)
    assert caught.value.retry_after == 99
    assert len(script.requests) == 1  # such a wait is not held a worker slot for


def test_a_connection_that_the_server_gave_up_is_replaced_at_once():
    script = Script([OK, GONE], [OK])

    async def act(objects):
        assert (await get(objects))[2] == (await get(objects))[2] == b"abc"

    run(script, act, tries=1)
    assert (script.connections, len(script.requests)) == (2, 3)


def test_a_new_connection_that_breaks_is_not_replaced_for_ever():
    script = Script([GONE], [GONE], [GONE], [OK])
    with pytest.raises(ConnectionLost):
        run(script, get)
    assert script.connections == 3


def test_nobody_listens():
    script = Script()

    async def act(objects):
        script._server.close()
        await script._server.wait_closed()
        await get(objects)

    with pytest.raises(ConnectionLost) as caught:
        run(script, act)
    assert f"127.0.0.1:{script.port}" in caught.value.message
    assert "endpoint_url" in caught.value.remedy


@pytest.mark.parametrize("cut", [1, 20, len(OK) - 1])
def test_an_answer_that_breaks_off_is_asked_for_again(cut):
    script = Script([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[:cut]], [OK])
    assert run(script, get)[2] == b"abc"


@pytest.mark.parametrize("act", [get, put])
def test_bytes_behind_the_answer_are_no_success(act):
    with pytest.raises(IntegrityError, match="behind the end"):
        run(Script([OK + b"more"]), act)


def test_bytes_that_nobody_asked_for_end_the_connection():
    script = Script([OK], [OK])

    async def act(objects):
        await get(objects)
        (wire,) = objects._pool._idle
        wire.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert (await get(objects))[2] == b"abc"

    run(script, act)
    assert script.connections == 2


def test_silence_and_a_trickle_end_in_time():
    for script in (Script([SILENCE]), Script([TRICKLE]), Script([OK[:40], SILENCE])):
        with pytest.raises((TimedOut, IntegrityError)):
            run(script, get, tries=1, timeout=0.2)
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

    class Slowly(Script):
        async def _serve(self, reader, writer):
            await self._receive(reader)
            writer.write(slow)
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.01)

    with pytest.raises(TimedOut):
        run(Slowly(), lambda objects: get(objects, wanted=1_000_000), tries=1, timeout=0.1)


class Slow:
    """A transport whose other side takes what it is given little by little."""

    def __init__(self) -> None:
        self.left, self.aborted = 1_000, False

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.left


def test_a_long_upload_is_no_silence_but_ends_in_time_too():
    async def body(ticks: int, moving: int) -> asyncio.Future[Answer]:
        wire, transport = Wire(), Slow()
        wire.connection_made(cast("asyncio.BaseTransport", transport))
        waiting = wire.ask(b"PUT / HTTP/1.1\r\n\r\n", b"x" * 1_000)
        for number in range(ticks):
            assert not waiting.done()
            transport.left -= number < moving
            wire.tick()
        assert transport.aborted == waiting.done()
        return waiting

    assert not asyncio.run(body(5 * TICKS, 5 * TICKS)).done()
    for ticks, moving in ((5 * TICKS + 1, 99), (3 * TICKS + 1, 2 * TICKS), (TICKS + 1, 0)):
        assert isinstance(asyncio.run(body(ticks, moving)).exception(), TimeoutError)


def test_an_answer_before_the_end_of_an_upload_is_taken_and_the_connection_is_not_used_again():
    async def body() -> None:
        wire, transport = Wire(), Slow()
        wire.connection_made(cast("asyncio.BaseTransport", transport))
        waiting = wire.ask(b"PUT / HTTP/1.1\r\n\r\n", b"x" * 1_000)
        wire.data_received(error(403, "AccessDenied"))
        assert (await waiting).status == 403
        assert (transport.aborted, wire.good) == (True, False)

    asyncio.run(body())


def test_a_request_that_is_given_up_leaves_no_connection_behind():
    script = Script([SILENCE], [OK])

    async def act(objects):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await get(objects)
        assert not objects._pool._all
        assert (await get(objects))[2] == b"abc"

    run(script, act)


def test_an_idle_connection_is_given_up():
    script = Script([OK, OK], [OK])

    async def act(objects):
        await get(objects)
        while objects._pool._all:
            await asyncio.sleep(0.01)
        await get(objects)

    run(script, act, timeout=0.1)
    assert script.connections == 2


# -- what the answers mean


def test_what_is_there_already_is_not_replaced():
    script = Script([error(412)])
    with pytest.raises(AlreadyExists):
        run(script, lambda objects: put(objects, create=True))
    assert script.requests[0][1]["if-none-match"] == "*"


def about(data: bytes) -> bytes:
    etag = md5(data, usedforsecurity=False).hexdigest()
    return f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: {len(data)}\r\n\r\n'.encode()


def test_after_a_lost_answer_our_own_object_is_known():
    for first in ([GONE], [error(500)], [EMPTY[:10]]):
        script = Script(first, [error(412), about(b"data")])
        if first == [error(500)]:
            script = Script([error(500), error(412), about(b"data")])
        assert run(script, lambda objects: put(objects, create=True)) == Stored("", "")
    script = Script([OK, GONE], [error(412), about(b"data")])  # on a connection that had been used before

    async def act(objects):
        await get(objects)
        return await put(objects, create=True)

    assert run(script, act) == Stored("", "")


@pytest.mark.parametrize("there", [about(b"other"), error(404)])
def test_after_a_lost_answer_the_object_of_somebody_else_is_known(there):
    with pytest.raises(AlreadyExists):
        run(Script([GONE], [error(412), there]), lambda objects: put(objects, create=True))


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",  # the range was not looked at
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 4-6/99\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 5-7/99\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 5-8/9\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nContent-Range: bytes 5-7/*\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 11\r\nContent-Range: bytes 5-15/99\r\n\r\nabcdefghijk",
    ],
)
def test_another_range_than_was_asked_for_is_no_success(reply):
    with pytest.raises(IntegrityError):
        run(Script([reply]), lambda objects: get(objects, 5))


def test_ranges():
    part = b'HTTP/1.1 206 Partial\r\nContent-Length: 3\r\nETag: "e"\r\nContent-Range: bytes 5-7/8\r\n\r\nabc'
    script = Script([part, error(416, "InvalidRange"), part])

    async def act(objects):
        assert await get(objects, 5, version='"e"') == (8, '"e"', b"abc")
        assert await get(objects, 8) is None
        with pytest.raises(IntegrityError, match="changed"):
            await get(objects, 5, version='"another"')  # and the server did not look at if-match

    run(script, act)
    assert script.requests[0][1] | {"range": "bytes=5-14", "if-match": '"e"'} == script.requests[0][1]


@pytest.mark.parametrize(
    ("reply", "expected", "said"),
    [
        (error(404, "NoSuchKey"), NotFound, "does not exist"),
        (error(403, "AccessDenied", "x-amz-request-id: <b>"), AccessDenied, "403 AccessDenied ->"),
        (error(403, "RequestTimeTooSkewed"), AccessDenied, "correct the clock"),
        (error(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1"), ConfigError, "it is in eu-west-1"),
        (error(307, "TemporaryRedirect", "Location: http://evil/"), ConfigError, "redirects to another address"),
        (error(412, "PreconditionFailed"), IntegrityError, "changed"),
        (error(400, "BadDigest"), Unavailable, "damaged in transit"),
        (error(403, "SignatureDoesNotMatch"), AccessDenied, "credentials"),
    ],
)
def test_refusals(reply, expected, said):
    with pytest.raises(expected, match=said):
        run(Script([reply]), get, tries=1)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nx-amz-bucket-region: eu-west-1\r\n\r\n", "eu-west-1"),
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (error(301, "", "x-amz-bucket-region: eu-west-1"), "eu-west-1"),
        (error(400, "", "x-amz-bucket-region: eu-west-1"), "eu-west-1"),
        (error(403, "", "x-amz-bucket-region: eu-west-1"), "eu-west-1"),
        (error(403), AccessDenied),
        (error(404), NotFound),
        (error(301), ConfigError),
    ],
)
def test_where_the_bucket_is(reply, expected):
    script = Script([reply])
    if isinstance(expected, str):
        assert run(script, lambda objects: objects.region("connecting")) == expected
    else:
        with pytest.raises(expected):
            run(script, lambda objects: objects.region("connecting"), tries=1)
    assert script.requests[0][0] == "HEAD /b HTTP/1.1"


def test_a_look():
    when = "Last-Modified: Sat, 21 Nov 2026 10:00:00 GMT"
    script = Script(
        [f"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: e\r\n{when}\r\n\r\n".encode(), b"HTTP/1.1 200 OK\r\n\r\n"]
    )

    async def act(objects):
        found = await objects.head("looking", "k")
        assert isinstance(found, Found)
        assert (found.size, found.etag, str(found.modified)) == (7, "e", "2026-11-21 10:00:00+00:00")
        with pytest.raises(IntegrityError):
            await objects.head("looking", "k")

    run(script, act)


def test_keys_cannot_write_headers():
    script = Script([OK, OK])

    async def act(objects):
        await objects.get("reading", "a b\r\nX: y?#%/\u00e9\0/../~", 0, 9, "")
        with pytest.raises(PermanentError):
            await objects.get("reading", "k", 0, 9, '"e"\r\nX-Evil: 1')
        with pytest.raises(PermanentError):
            await objects.get("reading", "\udcff", 0, 9, "")

    run(script, act)
    ((first, headers, _),) = script.requests
    assert first == "GET /b/a%20b%0D%0AX%3A%20y%3F%23%25/%C3%A9%00/../~ HTTP/1.1"
    assert not {name.lower() for name in headers} & {"x", "x-evil"}


# -- listings


def listing(text: str) -> bytes:
    body = text.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_page():
    script = Script(
        [
            listing(
                '<ListBucketResult xmlns="urn:x"><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>'
                "<NextContinuationToken>a+/=</NextContinuationToken><Contents><Key>a+b%2Bc%20d</Key><Size>5</Size>"
                "<ETag>e</ETag><LastModified>2026-11-21T10:00:00.000Z</LastModified></Contents>"
                "<CommonPrefixes><Prefix>d+e/</Prefix></CommonPrefixes></ListBucketResult>"
            ),
            listing("<ListBucketResult/>"),
        ]
    )

    async def act(objects):
        page = await objects.page("listing", {"Prefix": "a &"})
        assert [row["Key"] for row in page["Contents"]] == ["a b+c d"]
        assert page["CommonPrefixes"] == [{"Prefix": "d e/"}]
        assert page["IsTruncated"] is True
        await objects.page("listing", {"Prefix": "", "ContinuationToken": page["NextContinuationToken"]})

    run(script, act)
    assert [re.sub(" HTTP.*", "", first) for first, _, _ in script.requests] == [
        "GET /b?encoding-type=url&list-type=2&prefix=a%20%26",
        "GET /b?continuation-token=a%2B%2F%3D&encoding-type=url&list-type=2&prefix=",
    ]


BOMB = "<!DOCTYPE b [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY a{n} '{'&a' + str(n - 1 or '') + ';'}'>" for n in range(1, 30)
)


@pytest.mark.parametrize(
    "reply",
    [
        listing(BOMB + "]><ListBucketResult>&a29;</ListBucketResult>"),
        listing("<!DOCTYPE b SYSTEM 'file:///etc/passwd'><ListBucketResult/>"),
        listing("<html><body>Welcome to the hotel</body></html>"),
        listing("<Error><Code>InternalError</Code></Error>"),
        listing("<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"),
        listing("<ListBucketResult><Contents>"),
        listing(""),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<\0L\0/\0>\0\0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ],
)
def test_what_is_no_page_is_never_an_empty_one(reply):
    with pytest.raises(IntegrityError):
        run(Script([reply]), lambda objects: objects.page("listing", {"Prefix": ""}))
