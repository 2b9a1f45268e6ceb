"""The worst of all servers: it lets one log in, refuses, and repeats what it was told and what that decodes to."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Literal

__all__ = ["EchoServer", "Kind", "decoded", "echo_server"]

Kind = Literal["http", "ftp", "smtp", "imap", "postgres"]

_GREETING = {"ftp": b"220 ready\r\n", "smtp": b"220 mail.test ESMTP\r\n", "imap": b"* OK ready\r\n"}
_MOST = 20
"""Lines of one connection that are answered."""


def decoded(said: bytes) -> bytes:
    """What its words are in base64, where they are that: ``AUTH PLAIN``, ``Authorization: Basic``."""
    found = []
    for word in re.findall(rb"[A-Za-z0-9+/]{12,}={0,2}", said):
        with suppress(ValueError):
            found.append(base64.b64decode(word, validate=True))
    return re.sub(rb"[\0\r\n]", b" ", b" ".join(found))


class EchoServer(ThreadingTCPServer):
    """Listens on a free port of this machine; ``heard`` is what it was told."""

    daemon_threads = True

    def __init__(self, kind: Kind) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind: Kind = kind
        self.heard: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def echo(self, said: bytes) -> bytes:
        """What was said, and what it means."""
        self.heard.append(said)
        return said + b" " + decoded(said)


@contextmanager
def echo_server(kind: Kind) -> Iterator[EchoServer]:
    """Run it for the block."""
    with EchoServer(kind) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(StreamRequestHandler):
    server: EchoServer
    timeout = 3.0

    def handle(self) -> None:
        with suppress(OSError, struct.error):
            if self.server.kind == "http":
                self._http()
            elif self.server.kind == "postgres":
                self._postgres()
            else:
                self._lines()

    def _lines(self) -> None:
        self.wfile.write(_GREETING[self.server.kind])
        for _ in range(_MOST):
            if not (line := self.rfile.readline(10_000).strip()):
                return
            self.wfile.write(self._reply(line, self.server.echo(line)))

    def _reply(self, line: bytes, echo: bytes) -> bytes:
        tag, _, rest = line.partition(b" ")
        match self.server.kind, tag.upper(), rest.upper():
            case "smtp", b"EHLO", _:
                return b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n"
            case "smtp", _, _:
                return b"535 5.7.8 " + echo + b"\r\n"
            case "ftp", b"USER", _:
                return b"331 password?\r\n"
            case "ftp", _, _:
                return b"530 " + echo + b"\r\n"
            case _, _, b"CAPABILITY":
                return b"* CAPABILITY IMAP4rev1\r\n" + tag + b" OK done\r\n"
        return tag + b" NO " + echo + b"\r\n"

    def _http(self) -> None:
        head = b""
        while (line := self.rfile.readline(10_000)).strip():
            head += line
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        body = self.server.echo(head + self.rfile.read(int(length[1]) if length else 0))
        self.wfile.write(b"HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def _postgres(self) -> None:
        """Ask for the password in clear (protocol 3.0), and say it again in the error."""
        while True:
            (length,) = struct.unpack("!I", self.rfile.read(4))
            start = self.rfile.read(length - 4)
            if struct.unpack("!I", start[:4])[0] >> 16 == 3:
                break
            self.wfile.write(b"N")  # neither TLS nor GSS
        self.wfile.write(struct.pack("!cII", b"R", 8, 3))
        _, length = struct.unpack("!cI", self.rfile.read(5))
        text = self.server.echo(self.rfile.read(length - 4).rstrip(b"\0"))
        fields = b"SFATAL\0VFATAL\0C28P01\0Mno: " + text + b"\0\0"
        self.wfile.write(struct.pack("!cI", b"E", len(fields) + 4) + fields)
