"""Parts and their calls by our own connections, against a server that answers by the byte, or before it has got all."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    Rejected,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files.stores.s3_body import Body, FileBody, PiecesBody
from flowrunner_provider.files.stores.s3_objects import Proof, Stored
from flowrunner_provider.files.stores.s3_uploads import Part, PartsPage, UnfinishedUpload
from flowrunner_provider.files.stores.s3_wire_address import BucketAddress
from flowrunner_provider.files.stores.s3_wire_blocking_pool import BlockingPool
from flowrunner_provider.files.stores.s3_wire_pool import Pool, Server
from flowrunner_provider.files.stores.s3_wire_uploads import WireUploads
from tests.files.test_s3_wire import GONE, SILENCE, Script, error
from tests.support.tls import Tls

MIB = 1024 * 1024
SIZE = 24 * MIB + 7
"""More than the buffers of two sockets take."""

GOOD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nx-amz-checksum-crc32: c\r\nContent-Length: 0\r\n\r\n'
STORED = Stored('"e"', "c")
Act = Callable[[WireUploads], Coroutine[Any, Any, Any]]


class Hasty(Script):
    """Answers when it has got so many bytes of a body; what comes then, nobody reads while it holds."""

    def __init__(self, *connections: list[Any], takes: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(*connections, tls=tls)
        self._takes = takes

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        self.requests.append((head.split("\r\n")[0], {}, await reader.readexactly(self._takes)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hold:
            reader.read = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        await super()._serve(reader, writer)


def run(
    script: Script, act: Act, *, tries: int = 3, timeout: float = 5.0, tls: ssl.SSLContext | None = None
) -> Any:  # fmt: skip
    """What ``act`` returns."""

    async def body() -> Any:
        async with asyncio.timeout(30), script:
            server = Server(host="127.0.0.1", port=script.port, tls=tls, connect_timeout=2.0, timeout=timeout)
            address = BucketAddress(secure=False, host="", port=0, netloc="host", prefix="/b", region="us-east-1")
            plan = RetryPlan(attempts=tries, backoff=Backoff(base=0.001))
            settings = {"ServerSideEncryption": "AES256"}
            uploads = WireUploads(
                address, Pool(server), None, plan, blocking=BlockingPool(server), settings=settings, sign_bodies=False
            )
            try:
                return await act(uploads)
            finally:
                uploads.close()

    return asyncio.run(body())


CRC = Proof(crc32="c")


def part(data: Body, number: int = 1, proof: Proof = CRC) -> Act:
    return lambda uploads: uploads.send("writing", "k", "u/1", number, data, proof)


@pytest.fixture
def in_a_file(tmp_path):
    """A body of these bytes in the middle of a file."""

    def body(data: bytes) -> FileBody:
        (tmp_path / "file").write_bytes(b"before" + data + b"behind")
        return FileBody(OpenFile.to_read(str(tmp_path / "file")), 6, len(data))

    return body


@pytest.fixture(params=["file", "pieces"])
def body_of(request, in_a_file):
    return in_a_file if request.param == "file" else lambda data: PiecesBody([data[:9], data[9:]])


# -- parts that arrive


def test_one_connection_takes_part_after_part(body_of):
    script, data = Script([GOOD, GOOD, GOOD]), os.urandom(SIZE)

    async def act(uploads):
        assert await part(body_of(data))(uploads) == STORED
        assert await part(body_of(b"0123456789"), 2, Proof(md5="m"))(uploads) == STORED
        assert await part(PiecesBody([b"x"]), 3)(uploads) == STORED

    run(script, act)
    assert script.connections == 1
    (first, headers, body), (second, others, rest), _ = script.requests
    assert (first, headers["x-amz-checksum-crc32"]) == ("PUT /b/k?partNumber=1&uploadId=u%2F1 HTTP/1.1", "c")
    assert (headers["content-length"], "content-md5" in headers) == (str(SIZE), False)
    assert body == data
    assert (second, others["content-md5"]) == ("PUT /b/k?partNumber=2&uploadId=u%2F1 HTTP/1.1", "m")
    assert rest == b"0123456789"


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("length", [1, 4099, 255 * 1024, 3 * MIB + 1])
def test_pieces_of_any_length_arrive_in_order(tls, length, secure):
    """Also empty ones, and more than are sent together."""
    data = os.urandom(min(SIZE, 300 * length))
    pieces = [data[at : at + length] for at in range(0, len(data), length)]
    script = Script([GOOD], tls=tls.server_context() if secure else None)
    body = PiecesBody([b"", *pieces[:5], b"", *pieces[5:], b""])
    assert run(script, part(body), tls=tls.client_context() if secure else None) == STORED
    assert script.requests[0][2] == data


def test_over_tls(body_of, tls):
    script, data = Script([GOOD, GOOD, GONE], [GOOD], tls=tls.server_context()), os.urandom(SIZE)

    async def act(uploads):
        return [await part(body_of(data))(uploads) for _ in range(3)]

    assert run(script, act, tries=1, tls=tls.client_context()) == [STORED] * 3
    assert [body == data for *_, body in script.requests] == [True] * 4


@pytest.mark.parametrize("busy", [error(503, "SlowDown", "Retry-After: 0"), error(500), error(400, "RequestTimeout")])
def test_what_passes_is_tried_again_on_the_same_connection(body_of, busy):
    script = Script([busy, GOOD])
    assert run(script, part(body_of(b"0123456789"))) == STORED
    assert script.connections == 1
    assert [body for *_, body in script.requests] == [b"0123456789"] * 2


def test_a_server_that_stays_busy_says_how_long_to_wait(body_of):
    with pytest.raises(Throttled) as caught:
        run(Script([error(503, "SlowDown", "Retry-After: 99")]), part(body_of(b"0123456789")))
    assert caught.value.retry_after == 99


def test_a_connection_that_the_server_gave_up_is_replaced_at_no_cost(body_of):
    script = Script([GOOD, GONE], [GOOD])

    async def act(uploads):
        assert await part(body_of(b"0123456789"))(uploads) == await part(body_of(b"0123456789"))(uploads) == STORED

    run(script, act, tries=1)
    assert (script.connections, len(script.requests)) == (2, 3)


def test_a_file_that_cannot_be_sent_from_where_it_is(in_a_file, monkeypatch):
    def cannot(*_: int) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "sendfile", cannot)
    script, data = Script([GOOD]), os.urandom(3 * MIB + 1)
    assert run(script, part(in_a_file(data))) == STORED
    assert script.requests[0][2] == data


# -- answers before all is sent


@pytest.mark.parametrize("hold", [True, False], ids=["stays", "goes"])
@pytest.mark.parametrize("takes", [0, 3 * MIB])
@pytest.mark.parametrize("secure", [False, True])
def test_who_refuses_early_is_heard(body_of, tls, takes, hold, secure):
    """And is sent no more."""
    script = Hasty([error(403, "AccessDenied")], takes=takes, tls=tls.server_context() if secure else None)
    script.hold = hold
    with pytest.raises(AccessDenied):
        run(script, part(body_of(os.urandom(SIZE))), tls=tls.client_context() if secure else None)
    assert (script.connections, len(script.requests)) == (1, 1)


def test_who_is_busy_early_is_asked_again_on_another_connection(body_of):
    script, data = Hasty([error(503, "SlowDown")], takes=MIB), os.urandom(SIZE)
    patient = Script([GOOD])

    async def act(uploads):
        with pytest.raises(Throttled):
            await part(body_of(data))(uploads)
        async with patient:
            uploads._blocking._server = Server(
                host="127.0.0.1", port=patient.port, tls=None, connect_timeout=2.0, timeout=5.0
            )  # fmt: skip
            return await part(body_of(data))(uploads)

    script.hold = True
    assert run(script, act, tries=1) == STORED
    assert patient.requests[0][2] == data


def test_a_success_before_all_is_sent_is_none(body_of):
    script = Hasty([GOOD], takes=MIB)
    script.hold = True
    with pytest.raises(IntegrityError, match="before the request was complete"):
        run(script, part(body_of(bytes(SIZE))))
    assert len(script.requests) == 1


@pytest.mark.parametrize("takes", [0, 3 * MIB])
def test_a_connection_that_breaks_in_the_middle(body_of, takes):
    script = Hasty([GONE], [GONE], [GONE], [GOOD], takes=takes)
    with pytest.raises(ConnectionLost):
        run(script, part(body_of(bytes(SIZE))))
    assert script.connections == 3


@pytest.mark.parametrize("secure", [False, True])
def test_a_server_that_takes_no_more(body_of, tls, secure):
    script = Hasty([SILENCE], takes=MIB, tls=tls.server_context() if secure else None)
    script.hold = True
    with pytest.raises(TimedOut):
        run(script, part(body_of(bytes(SIZE))), tries=1, timeout=0.3, tls=tls.client_context() if secure else None)


def test_a_server_that_takes_all_and_is_silent(body_of):
    with pytest.raises(TimedOut):
        run(Script([SILENCE]), part(body_of(b"0123456789")), tries=1, timeout=0.2)


def test_a_server_that_takes_it_bit_by_bit(body_of):
    class Slowly(Script):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                await asyncio.sleep(0.02)

    with pytest.raises(TimedOut):
        run(Slowly(), part(body_of(bytes(SIZE))), tries=1, timeout=0.2)


def test_what_nobody_waits_for_ends_with_the_store(body_of):
    async def act(uploads):
        task = asyncio.create_task(part(body_of(bytes(SIZE)))(uploads))
        while not script.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return uploads

    script, begun = Hasty([SILENCE], takes=0), time.monotonic()
    script.hold = True
    uploads = run(script, act, timeout=60.0)
    assert time.monotonic() - begun < 10
    assert uploads._blocking._all == set()


# -- parts that do not arrive as they were sent


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentChecksumMismatch"])
def test_a_damaged_part_is_not_sent_again_from_here(body_of, code):
    """As it is mostly the file that has changed since its checksum was taken."""
    script = Script([error(400, code), GOOD])
    with pytest.raises(Unavailable, match="damaged in transit"):
        run(script, part(body_of(b"0123456789")))
    assert len(script.requests) == 1


@pytest.mark.parametrize("secure", [False, True])
def test_a_file_that_has_become_shorter(in_a_file, tmp_path, tls, secure):
    script, body = Script([GOOD], tls=tls.server_context() if secure else None), in_a_file(bytes(SIZE))
    os.truncate(tmp_path / "file", 2 * MIB)
    with pytest.raises(IntegrityError, match="was truncated"):
        run(script, part(body), tls=tls.client_context() if secure else None)
    assert script.connections <= 1  # and it may not have seen even that one
    assert not script.requests


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(404, "NoSuchUpload"), Rejected),
        (error(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1"), ConfigError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", IntegrityError),
        (GOOD + b"more", IntegrityError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", IntegrityError),
    ],
)
def test_refusals(body_of, reply, expected):
    with pytest.raises(expected):
        run(Script([reply]), part(body_of(b"0123456789")), tries=1)


def test_a_server_that_nobody_vouches_for_gets_no_byte(body_of, tls, tmp_path_factory):
    script = Script([GOOD], tls=Tls.create(tmp_path_factory.mktemp("stranger")).server_context())
    with pytest.raises(ConfigError, match="not trusted"):
        run(script, part(body_of(b"0123456789")), tls=tls.client_context())
    assert not script.requests


# -- calls


def xml(text: str, *lines: str) -> bytes:
    body = f'<?xml version="1.0"?>\n{text}'.encode()
    more = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("space", ["", SPACE])
def test_an_upload_is_begun(space):
    text = f"<InitiateMultipartUploadResult {space}><UploadId>u&amp;1</UploadId></InitiateMultipartUploadResult>"
    script = Script([xml(text, "x-amz-checksum-algorithm: CRC32"), xml(text)])

    async def act(uploads):
        return [await uploads.create("writing", "k", algorithm) for algorithm in ("CRC32", "")]

    assert run(script, act) == [("u&1", "CRC32"), ("u&1", "")]
    (first, headers, _), (_, others, _) = script.requests
    assert (first, headers["x-amz-checksum-algorithm"]) == ("POST /b/k?uploads= HTTP/1.1", "CRC32")
    assert (headers["content-length"], headers["x-amz-server-side-encryption"]) == ("0", "AES256")
    assert "x-amz-checksum-algorithm" not in others


def test_unfinished_uploads():
    row = "<Key>a+b%41&amp;</Key><UploadId>u</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated>"
    rows = f"<Upload>{row}<Initiator><ID>me</ID></Initiator></Upload><Upload>{row}</Upload>"
    script = Script([xml(f"<ListMultipartUploadsResult {SPACE}>{rows}</ListMultipartUploadsResult>")])
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = run(script, lambda uploads: uploads.unfinished("writing", "a+b", 7))
    assert found == [UnfinishedUpload("a+b%41&", "u", "me", at), UnfinishedUpload("a+b%41&", "u", "", at)]
    assert script.requests[0][0] == "GET /b?max-uploads=7&prefix=a%2Bb&uploads= HTTP/1.1"


def test_parts_that_are_held():
    row = "<Part><PartNumber>{0}</PartNumber><ETag>&quot;e{0}&quot;</ETag><Size>5</Size>{1}</Part>"
    text = (
        f"<ListPartsResult {SPACE}><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><IsTruncated>true</IsTruncated>"
        f"<NextPartNumberMarker>9</NextPartNumberMarker>{row.format(8, '<ChecksumCRC32>c</ChecksumCRC32>')}"
        f"{row.format(9, '')}</ListPartsResult>"
    )
    script = Script(
        [xml(text), xml("<ListPartsResult><NextPartNumberMarker>9</NextPartNumberMarker></ListPartsResult>")]
    )

    async def act(uploads):
        return [await uploads.parts_page("writing", "k", "u", after) for after in (7, 9)]

    assert run(script, act) == [PartsPage({8: Part("e8", 5, "c"), 9: Part("e9", 5)}, "CRC32", 9), PartsPage({}, "", 0)]
    assert script.requests[0][0] == "GET /b/k?max-parts=1000&part-number-marker=7&uploadId=u HTTP/1.1"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa">]>'


@pytest.mark.parametrize(
    "text",
    ["", "no document", "<Other/>", "<{0}>", "<{0}><UploadId/><Upload/><Part/></{0}>", BOMB + "<{0}>&a;</{0}>"],
)
def test_answers_that_are_none(text):
    calls: dict[str, Act] = {
        "InitiateMultipartUploadResult": lambda uploads: uploads.create("writing", "k", ""),
        "ListPartsResult": lambda uploads: uploads.parts_page("writing", "k", "u", 0),
    }
    for name, act in calls.items():
        with pytest.raises(IntegrityError, match=f"not the document {name}"):
            run(Script([xml(text.format(name))]), act)
    listing = Script([xml(text.format("ListMultipartUploadsResult"))])
    assert run(listing, lambda uploads: uploads.unfinished("writing", "k", 1)) == []  # then nothing is taken up


# -- completion

PARTS = {2: Part("e&2", 5), 1: Part("e1", 5, "c==")}
MADE = xml(f"<CompleteMultipartUploadResult {SPACE}><ETag>x</ETag></CompleteMultipartUploadResult>")
FAILED = xml("<Error><Code>InternalError</Code></Error>")


def completion(*answers: bool, create: bool = False) -> tuple[Act, list[bool]]:
    """The call, and what is not asked of whether the object is there."""
    left = list(answers)

    async def there() -> bool:
        return left.pop(0)

    return lambda uploads: uploads.complete("writing", "k", "u", PARTS, create=create, is_complete=there), left


@pytest.mark.parametrize("create", [False, True])
def test_a_completion_names_all_parts(create):
    script = Script([MADE])
    act, _ = completion(create=create)
    run(script, act)
    ((first, headers, body),) = script.requests
    assert (first, headers.get("if-none-match")) == ("POST /b/k?uploadId=u HTTP/1.1", "*" if create else None)
    assert body.decode() == (
        f"<CompleteMultipartUpload {SPACE}><Part><PartNumber>1</PartNumber><ETag>&quot;e1&quot;</ETag>"
        "<ChecksumCRC32>c==</ChecksumCRC32></Part><Part><PartNumber>2</PartNumber>"
        "<ETag>&quot;e&amp;2&quot;</ETag></Part></CompleteMultipartUpload>"
    )


@pytest.mark.parametrize(
    ("script", "answers"),
    [
        ([[FAILED, MADE]], [False]),
        ([[error(503, "SlowDown"), MADE]], [False]),
        ([[error(503, "SlowDown")]], [True]),
        ([[GONE]], [True]),
        ([[GONE], [MADE]], [False]),
        ([[GONE], [error(404, "NoSuchUpload")]], [False, True]),
        ([[error(404, "NoSuchUpload")]], [True]),
        ([[GONE], [error(412, "PreconditionFailed")]], [False, True]),
    ],
)
def test_a_completion_whose_answer_was_lost_or_an_error(script, answers):
    act, left = completion(*answers, create=True)
    run(Script(*script), act)
    assert left == []


@pytest.mark.parametrize(
    ("script", "answers", "expected"),
    [
        ([[FAILED] * 3], [False] * 3, Unavailable),
        ([[xml("")] * 3], [False] * 3, Unavailable),
        ([[xml("<html/>")] * 3], [False] * 3, Unavailable),
        ([[GONE]] * 3, [False] * 3, ConnectionLost),
        ([[error(404, "NoSuchUpload")]], [False], Rejected),
        ([[error(400, "InvalidPart")]], [False], Rejected),
        ([[error(412, "PreconditionFailed")]], [], AlreadyExists),
        ([[GONE], [error(412, "PreconditionFailed")]], [False, False], AlreadyExists),
    ],
)
def test_what_is_no_completion(script, answers, expected):
    act, left = completion(*answers, create=True)
    with pytest.raises(expected) as caught:
        run(Script(*script), act)
    assert isinstance(caught.value, FlowRunnerError)
    assert left == []


def test_an_abort():
    script = Script([b"HTTP/1.1 204 No Content\r\n\r\n"])
    run(script, lambda uploads: uploads.abort("writing", "k", "u"))
    assert script.requests[0][0] == "DELETE /b/k?uploadId=u HTTP/1.1"
