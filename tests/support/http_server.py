"""A small HTTP server whose every answer, right or wrong on the wire, is up to the test.

::

    with HttpServer() as server:
        server.route("GET", "/orders", in_turn(throttled(retry_after="2"), Reply(200, b"[]")))
        server.route("GET", "/big.bin", Blob(data))
        server.route("POST", "/payments", payments := Effects(lose_replies=1))
        ...
        assert [request.path for request in server.requests] == [...]

A route is a :class:`Reply` or a function of the :class:`Request` that returns one. What is wrong with a
reply is said by its fields: ``drop``, ``cut``, ``every`` and so on.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

from tests.support.servers import HOST

__all__ = [
    "Blob",
    "Effects",
    "HttpServer",
    "Reply",
    "Request",
    "drop",
    "gzipped",
    "in_turn",
    "json_reply",
    "redirect",
    "throttled",
]


@dataclass(frozen=True)
class Request:
    """One request as it came; ``headers`` has lower-case names, ``at`` is ``time.monotonic()``."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    at: float
    peer: tuple[str, int]

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One reply, with what goes wrong while it is sent.

    :param chunks: send these with ``Transfer-Encoding: chunked`` instead of ``body``.
    :param wait: seconds of silence before the status line.
    :param drop: close without a reply; the request has been read and its effect has happened.
    :param cut: close after so many bytes of the body (``Content-Length`` still tells the full length),
        or after so many chunks (the last, empty chunk is never sent).
    :param claim: the ``Content-Length`` to send, whatever the length is.
    :param every: send the body one byte at a time, every so many seconds.
    :param rst: close with a reset instead of a regular end.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] | None = None
    wait: float = 0.0
    drop: bool = False
    cut: int | None = None
    claim: int | None = None
    every: float | None = None
    rst: bool = False

    @property
    def closes(self) -> bool:
        return self.drop or self.rst or self.cut is not None or self.claim is not None


Route: TypeAlias = Reply | Callable[[Request], Reply]


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """``value`` as JSON."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def throttled(retry_after: str | None = None, status: int = 429) -> Reply:
    """Too many requests (or 503), with ``Retry-After`` exactly as given."""
    return Reply(status, b"slow down", {} if retry_after is None else {"Retry-After": retry_after})


def drop(*, rst: bool = False) -> Reply:
    """Take the request and close without a word."""
    return Reply(drop=True, rst=rst)


def redirect(to: str, status: int = 302) -> Reply:
    """Point somewhere else."""
    return Reply(status, headers={"Location": to})


def gzipped(body: bytes, **headers: str) -> Reply:
    """``body`` with ``Content-Encoding: gzip``."""
    return Reply(200, gzip.compress(body, mtime=0), {"Content-Encoding": "gzip", **headers})


def in_turn(*routes: Route) -> Callable[[Request], Reply]:
    """The first request gets the first route, and so on; the last one stays."""
    lock, waiting = threading.Lock(), list(routes)

    def route(request: Request) -> Reply:
        with lock:
            current = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return current(request) if callable(current) else current

    return route


@dataclass
class Blob:
    """A route for a file: strong ETag, ``Range``, ``If-Range``, ``If-None-Match``, HEAD.

    Assign ``data`` to change the file under a reader. ``faults`` are fields of :class:`Reply` for the
    next replies, in turn, e.g. ``[{"cut": 1000}, {}]``. ``ranges=False`` ignores ``Range`` (200, whole).
    """

    data: bytes
    faults: list[dict[str, Any]] = field(default_factory=list)
    ranges: bool = True
    content_type: str = "application/octet-stream"

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'

    def __call__(self, request: Request) -> Reply:
        reply = self._reply(request)
        return replace(reply, **self.faults.pop(0)) if self.faults else reply

    def _reply(self, request: Request) -> Reply:
        headers = {"ETag": self.etag, "Content-Type": self.content_type}
        if self.etag in re.findall(r'"[^"]*"', request.headers.get("if-none-match", "")):
            return Reply(304, headers=headers)
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        wanted = request.headers.get("range")
        if wanted is None or not self.ranges or request.headers.get("if-range", self.etag) != self.etag:
            return Reply(200, self.data, headers)
        size = len(self.data)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if match is None or match.group(0) == "bytes=-":
            return Reply(200, self.data, headers)
        first, last = match.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= stop:
            return Reply(416, headers={**headers, "Content-Range": f"bytes */{size}"})
        return Reply(206, self.data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


@dataclass
class Effects:
    """A route for POST: every request that is not a known repetition is an effect, and effects are kept.

    :param key_header: the header with the idempotency key; a repetition gets the first reply again.
        None: the server knows no keys and does everything twice that it is told twice.
    :param lose_replies: drop the connection instead of the next so many replies, *after* the effect.
    """

    key_header: str | None = "Idempotency-Key"
    lose_replies: int = 0
    effects: list[Request] = field(default_factory=list)
    _replies: dict[str, Reply] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            key = request.headers.get(self.key_header.lower()) if self.key_header else None
            reply = self._replies.get(key) if key else None
            if reply is None:
                self.effects.append(request)
                reply = json_reply({"id": len(self.effects)}, 201)
                if key:
                    self._replies[key] = reply
            if self.lose_replies > 0:
                self.lose_replies -= 1
                return drop()
            return reply

    def find(self, key: str) -> Request | None:
        """The effect with this idempotency key, for a look-up route."""
        with self._lock:
            name = (self.key_header or "").lower()
            return next((effect for effect in self.effects if effect.headers.get(name) == key), None)


class HttpServer:
    """The server; it keeps every request in ``requests``. Unknown paths get 404.

    :param tls: wrap connections with this server-side context.
    """

    def __init__(self, *, tls: Any | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._routes: dict[tuple[str, str], Route] = {}
        self._httpd = _Threading((HOST, 0), _Handler)
        self._httpd.owner = self
        if tls is not None:
            self._httpd.socket = tls.wrap_socket(self._httpd.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), name="http-server", daemon=True)
        self.host = HOST
        self.port = int(self._httpd.server_address[1])

    @property
    def url(self) -> str:
        """The base address, without a slash at the end."""
        return f"{self._scheme}://{self.host}:{self.port}"

    def route(self, method: str, path: str, route: Route) -> None:
        """Answer ``method path`` with ``route`` from now on; method or path may be ``"*"``."""
        self._routes[method, path] = route

    def answer(self, request: Request) -> Reply:
        """The reply for a request; HEAD is GET without a body."""
        method = "GET" if request.method == "HEAD" else request.method
        for key in ((request.method, request.path), (method, request.path), ("*", request.path),
                    (method, "*"), ("*", "*")):  # fmt: skip
            if (route := self._routes.get(key)) is not None:
                return route(request) if callable(route) else route
        return Reply(404, b"no such route")

    def start(self) -> Self:
        """Begin to serve; the port listens since construction."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the server and every reply that is still being sent."""
        self.stopping.set()
        self._httpd.shutdown()
        self._httpd.close_connections()
        self._httpd.server_close()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Threading(ThreadingHTTPServer):
    """One thread per connection, all of them ended by :meth:`close_connections`."""

    daemon_threads = True
    block_on_close = True
    request_queue_size = 256
    owner: HttpServer

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
            self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about: not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Threading

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Quiet: the requests are recorded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        owner = self.server.owner
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, url.path, query, headers, self._body(), time.monotonic(), self.client_address)
        owner.requests.append(request)
        try:
            self._send(owner.answer(request))
        except OSError:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return body

    def _send(self, reply: Reply) -> None:
        if reply.closes:
            self.close_connection = True
        if reply.wait:
            self.server.owner.stopping.wait(reply.wait)
        if not reply.drop:
            self._send_head(reply)
            if self.command != "HEAD":
                for piece in self._pieces(reply):
                    self.wfile.write(piece)
        if reply.rst:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send_head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunks is not None:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.status != 304:
            self.send_header("Content-Length", str(len(reply.body) if reply.claim is None else reply.claim))
        self.end_headers()

    def _pieces(self, reply: Reply) -> Iterable[bytes]:
        if reply.chunks is not None:
            for chunk in reply.chunks[: reply.cut]:
                yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
            if reply.cut is None:
                yield b"0\r\n\r\n"
        elif reply.every is None:
            yield reply.body[: reply.cut]
        else:
            for byte in reply.body[: reply.cut]:
                yield bytes([byte])
                if self.server.owner.stopping.wait(reply.every):
                    return
