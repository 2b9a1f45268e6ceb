"""Ranges by our own connections in threads, against a server that answers by the byte."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    IntegrityError,
    NotFound,
    Rejected,
    Throttled,
    TimedOut,
)
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files.stores import s3_ranges
from flowrunner_provider.files.stores.s3_ranges import read_into
from flowrunner_provider.files.stores.s3_wire_objects import WireObjects
from tests.files.test_s3_wire import GONE, OK, SILENCE, TRICKLE, Script, error, run
from tests.support.tls import Tls

WHOLE = b"0123456789"
FIRST, LAST = 2, 7


def part(first: int = FIRST, last: int = LAST, *lines: str, end: int | None = None, etag: str = '"e"') -> bytes:
    """An answer with a range of the object, whose body may break off before ``end``."""
    more = "".join(f"{line}\r\n" for line in lines)
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len(WHOLE)}\r\nETag: {etag}\r\n{more}"
    return (
        f"{head}Content-Length: {last + 1 - first}\r\n\r\n".encode() + WHOLE[first : last + 1 if end is None else end]
    )


GOOD = part()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Fetches the range; what then is in the file, and nothing without its checksum."""

    async def fetch(objects: WireObjects, tries: int = 3) -> bytes:
        plan = RetryPlan(attempts=tries, backoff=Backoff(base=0.001))
        monkeypatch.setattr(s3_ranges, "RetryPlan", lambda **_: plan)
        path = tmp_path / "file"
        file = OpenFile(str(path), os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        checksum = await read_into(objects, "reading k", file, "k", FIRST, LAST + 1 - FIRST, '"e"')
        data = path.read_bytes()[FIRST:]
        assert checksum == zlib.crc32(data)
        return data

    return fetch


def test_one_connection_serves_range_after_range(read):
    script = Script([GOOD, b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD])

    async def act(objects):
        assert await read(objects) == await read(objects) == b"234567"

    run(script, act)
    assert script.connections == 1
    ((first, headers, _), _) = script.requests
    assert (first, headers["range"], headers["if-match"]) == ("GET /b/k HTTP/1.1", "bytes=2-7", '"e"')


def test_a_whole_object_is_a_range_of_itself(read, monkeypatch):
    monkeypatch.setitem(globals(), "FIRST", 0)
    reply = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 8\r\n\r\n01234567'
    assert run(Script([reply]), read) == b"01234567"


CHUNKED = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n"


@pytest.mark.parametrize("busy", [error(503, "SlowDown", "Retry-After: 0"), CHUNKED, error(500)])
def test_what_passes_is_tried_again_on_the_same_connection(read, busy):
    script = Script([busy, GOOD])
    assert run(script, read) == b"234567"
    assert script.connections == 1


def test_a_server_that_stays_busy_says_how_long_to_wait(read):
    with pytest.raises(Throttled) as caught:
        run(Script([error(503, "SlowDown", "Retry-After: 99")]), read)
    assert caught.value.retry_after == 99


def test_a_connection_that_is_not_kept_is_not_used_again(read):
    script = Script([part(FIRST, LAST, "Connection: close"), GOOD], [GOOD])

    async def act(objects):
        assert await read(objects, 1) == await read(objects, 1) == b"234567"

    run(script, act)
    assert script.connections == 2


@pytest.mark.parametrize("cut", [FIRST, FIRST + 1, LAST])
def test_a_body_that_breaks_off_is_gone_on_with_where_it_broke(read, cut):
    script = Script([part(end=cut)], [part(cut, LAST)])
    assert run(script, read) == b"234567"
    assert [headers["range"] for _, headers, _ in script.requests] == ["bytes=2-7", f"bytes={cut}-7"]


def test_a_connection_that_the_server_gave_up_is_replaced_at_no_cost(read):
    script = Script([GOOD, GONE], [GOOD])

    async def act(objects):
        assert await read(objects, 1) == await read(objects, 1) == b"234567"

    run(script, act)
    assert (script.connections, len(script.requests)) == (2, 3)


@pytest.mark.parametrize("reply", [GONE, b"HTTP/1.1 206 Par"])
def test_a_server_that_never_answers_whole_is_a_lost_connection(read, reply):
    script = Script([reply], [reply], [reply], [GOOD])
    with pytest.raises(ConnectionLost):
        run(script, read)
    assert script.connections == 3


def test_bytes_that_nobody_asked_for_end_the_connection(read):
    script = Script([GOOD], [GOOD])

    async def act(objects):
        await read(objects)
        (line,) = objects._blocking._idle
        writer = script.writers[0]
        writer.write(part(3, 8))
        await writer.drain()
        while line.quiet:
            await asyncio.sleep(0.001)
        assert await read(objects, 1) == b"234567"

    script.hold = True
    run(script, act)
    assert script.connections == 2


@pytest.mark.parametrize("script", [[SILENCE], [TRICKLE], [GOOD[:30], SILENCE], [GOOD[:-3], SILENCE]])
def test_silence_and_a_trickle_end_in_time(read, script):
    quiet = Script(script)
    quiet.hold = True
    with pytest.raises(TimedOut):
        run(quiet, lambda objects: read(objects, 1), timeout=0.1)


def test_a_body_that_trickles_ends_in_time(read, monkeypatch):
    class Slowly(Script):
        async def _serve(self, reader, writer):
            await self._receive(reader)
            writer.write(b'HTTP/1.1 206 OK\r\nETag: "e"\r\nContent-Length: 999\r\n')
            writer.write(b"Content-Range: bytes 2-1000/2000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.01)

    monkeypatch.setitem(globals(), "LAST", 1000)
    with pytest.raises(TimedOut):
        run(Slowly(), lambda objects: read(objects, 1), timeout=0.1)


@pytest.mark.parametrize(
    "reply",
    [
        part(1, LAST),
        part(FIRST, LAST - 1),
        part(FIRST, LAST + 1),
        GOOD.replace(b"bytes 2-7/10", b"bytes 2-7/*"),
        GOOD.replace(b"bytes 2-7/10", b"bytes 3-8/10"),
        GOOD.replace(b"Content-Range", b"X-Range"),
        GOOD.replace(b"Content-Length: 6", b"Content-Length: 5"),
        GOOD.replace(b"Content-Length: 6", b"Transfer-Encoding: chunked"),
        GOOD.replace(b"Content-Length: 6\r\n", b""),
        GOOD.replace(b"206 Partial Content", b"200 OK"),
        GOOD + b"more",
        part(etag='"another"'),
        part(FIRST, 5).replace(b"/10", b"/6"),
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 206 " + b"x" * 70_000,
        error(412, "PreconditionFailed"),
    ],
)
def test_what_is_not_what_was_asked_for_is_refused_before_a_byte_is_written(read, tmp_path, reply):
    script = Script([reply])
    with pytest.raises(IntegrityError):
        run(script, read)
    assert (tmp_path / "file").read_bytes() == b""
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(404, "NoSuchKey"), NotFound),
        (error(403, "AccessDenied"), AccessDenied),
        (error(416, "InvalidRange"), Rejected),
        (error(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1"), ConfigError),
        (b"HTTP/1.1 403 No\r\n\r\n<Code>AccessDenied</Code>", AccessDenied),
        (b"HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n", IntegrityError),
    ],
)
def test_refusals(read, reply, expected):
    with pytest.raises(expected):
        run(Script([reply]), lambda objects: read(objects, 1))


def test_what_nobody_waits_for_ends_with_the_store(read):
    """The threads, too: the loop waits for them as it ends."""

    async def act(objects: WireObjects) -> Any:
        task = asyncio.create_task(read(objects))
        while not script.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return objects

    script, begun = Script([SILENCE]), time.monotonic()
    objects = run(script, act, timeout=60.0)
    assert time.monotonic() - begun < 10
    assert (objects._blocking._all, objects._blocking._idle) == (set(), [])


# -- TLS


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Tls.create(Path(tmp_path_factory.mktemp("stranger")))


def test_over_tls(read, tls):
    script = Script([GOOD, GONE], [GOOD, part(end=4)], [part(4, LAST)], tls=tls.server_context())

    async def act(objects):
        return [await read(objects, tries) for tries in (1, 1, 2)]

    assert run(script, act, tls=tls.client_context()) == [b"234567"] * 3
    assert script.connections == 3


def test_a_server_that_nobody_vouches_for_gets_no_request(read, tls, stranger):
    script = Script([GOOD], tls=stranger.server_context())
    with pytest.raises(ConfigError, match="not trusted"):
        run(script, read, tls=tls.client_context())
    assert not script.requests
