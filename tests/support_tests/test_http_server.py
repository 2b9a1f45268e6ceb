"""The programmable HTTP server puts on the wire what it was told to."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from typing import Any

import pytest

from tests.support.http_server import (
    Blob,
    Effects,
    HttpServer,
    Reply,
    drop,
    gzipped,
    in_turn,
    json_reply,
    redirect,
    throttled,
)
from tests.support.tls import Tls


def call(server: HttpServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    """The response, its body read into ``content``."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response
    finally:
        connection.close()


def test_routes_answer_and_requests_are_recorded(http_server: HttpServer) -> None:
    http_server.route("POST", "/orders", lambda request: json_reply({"got": request.json()}, 201))
    response = call(http_server, "POST", "/orders?a=1&a=2", b'{"x": 1}', X_Api_Key="secret")
    assert (response.status, json.loads(response.content)) == (201, {"got": {"x": 1}})
    (request,) = http_server.requests
    assert (request.method, request.path, request.query) == ("POST", "/orders", {"a": ["1", "2"]})
    assert (request.headers["x-api-key"], request.body) == ("secret", b'{"x": 1}')
    assert 0 <= time.monotonic() - request.at < 5
    assert call(http_server, "GET", "/other").status == 404


def test_chunked_requests_are_read(http_server: HttpServer) -> None:
    http_server.route("PUT", "/x", Reply(204))
    connection = http.client.HTTPConnection(http_server.host, http_server.port, timeout=5)
    connection.request("PUT", "/x", iter([b"ab", b"cde"]), encode_chunked=True)
    assert connection.getresponse().status == 204
    connection.close()
    assert http_server.requests[0].body == b"abcde"


def test_throttled_in_turn(http_server: HttpServer) -> None:
    http_server.route("GET", "/x", in_turn(throttled("7"), throttled(status=503), Reply(200, b"ok")))
    answers = [call(http_server, "GET", "/x") for _ in range(4)]
    assert [answer.status for answer in answers] == [429, 503, 200, 200]
    assert [answer.headers["Retry-After"] for answer in answers[:2]] == ["7", None]


@pytest.mark.parametrize("rst", [False, True])
def test_drop_ends_the_connection_without_a_reply(http_server: HttpServer, rst: bool) -> None:
    http_server.route("POST", "/x", drop(rst=rst))
    with pytest.raises(ConnectionResetError):  # RemoteDisconnected is one
        call(http_server, "POST", "/x", b"body")
    assert http_server.requests[0].body == b"body"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"0123456789", cut=4),
        Reply(200, b"0123", claim=10),
        Reply(200, chunks=(b"01", b"23", b"45"), cut=2),
    ],
)
def test_short_bodies(http_server: HttpServer, reply: Reply) -> None:
    http_server.route("GET", "/x", reply)
    with pytest.raises(http.client.IncompleteRead) as short:
        call(http_server, "GET", "/x")
    assert short.value.partial == b"0123"


def test_chunked_and_gzipped_replies(http_server: HttpServer) -> None:
    http_server.route("GET", "/chunked", Reply(200, chunks=(b"01", b"23")))
    http_server.route("GET", "/gzip", gzipped(b"hello" * 100))
    assert call(http_server, "GET", "/chunked").content == b"0123"
    assert gzip.decompress(call(http_server, "GET", "/gzip").content) == b"hello" * 100


def test_a_slow_body_takes_its_time(http_server: HttpServer) -> None:
    http_server.route("GET", "/x", Reply(200, b"0123456789", every=0.02))
    began = time.monotonic()
    assert call(http_server, "GET", "/x").content == b"0123456789"
    assert time.monotonic() - began >= 9 * 0.02


def test_stopping_does_not_wait_for_slow_bodies() -> None:
    with HttpServer() as server:
        server.route("GET", "/x", Reply(200, b"01", every=60))
        connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
        connection.request("GET", "/x")
        assert connection.getresponse().read(1) == b"0"
        began = time.monotonic()
    connection.close()
    assert time.monotonic() - began < 5


def test_a_blob_honours_ranges_and_etags(http_server: HttpServer) -> None:
    http_server.route("GET", "/b", blob := Blob(b"0123456789", faults=[{"cut": 3}]))
    with pytest.raises(http.client.IncompleteRead):
        call(http_server, "GET", "/b")
    whole = call(http_server, "GET", "/b")
    etag = whole.headers["ETag"]
    assert (whole.content, whole.headers["Accept-Ranges"]) == (b"0123456789", "bytes")
    part = call(http_server, "GET", "/b", Range="bytes=3-", If_Range=etag)
    assert (part.status, part.content, part.headers["Content-Range"]) == (206, b"3456789", "bytes 3-9/10")
    assert call(http_server, "GET", "/b", Range="bytes=-2").content == b"89"
    assert call(http_server, "GET", "/b", Range="bytes=2-4").content == b"234"
    assert call(http_server, "GET", "/b", Range="bytes=10-").status == 416
    assert call(http_server, "GET", "/b", If_None_Match=etag).status == 304
    head = call(http_server, "HEAD", "/b")
    assert (head.headers["Content-Length"], head.content) == ("10", b"")
    blob.data = b"changed"
    changed = call(http_server, "GET", "/b", Range="bytes=3-", If_Range=etag)
    assert (changed.status, changed.content) == (200, b"changed")


def test_effects_happen_once_for_each_key(http_server: HttpServer) -> None:
    http_server.route("POST", "/pay", effects := Effects(lose_replies=1))
    with pytest.raises(ConnectionResetError):
        call(http_server, "POST", "/pay", b"1", Idempotency_Key="k")
    assert json.loads(call(http_server, "POST", "/pay", b"1", Idempotency_Key="k").content) == {"id": 1}
    call(http_server, "POST", "/pay", b"1")
    call(http_server, "POST", "/pay", b"1")
    assert len(effects.effects) == 3
    assert effects.find("k") is effects.effects[0]
    assert effects.find("unknown") is None


def test_redirects_and_tls(http_server: HttpServer, tls: Tls) -> None:
    http_server.route("GET", "/x", redirect("/y", 307))
    response = call(http_server, "GET", "/x")
    assert (response.status, response.headers["Location"]) == (307, "/y")
    with HttpServer(tls=tls.server_context()) as server:
        server.route("GET", "/x", Reply(200, b"ok"))
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=5, context=tls.client_context())
        connection.request("GET", "/x")
        assert connection.getresponse().read() == b"ok"
        connection.close()
