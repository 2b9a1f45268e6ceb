"""moto's S3 in a process of its own: quick and lenient, a second opinion beside the real server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.rgw import S3Server
from tests.support.servers import HOST, Server, greets

__all__ = ["moto"]


@contextmanager
def moto(directory: Path) -> Iterator[S3Server]:
    """Run the server for the block; ``directory`` gets its log."""
    with Server(
        "moto",
        lambda port: [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        ready=lambda port: greets(port, b"HTTP/1.", say=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        log=directory / "moto.log",
    ) as server:
        yield S3Server(server)
