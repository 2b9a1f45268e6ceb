"""A TCP proxy that adds a fixed time of travel in each direction, in a process of its own.

``python -m tests.benchmarks.delay TARGET_PORT ONE_WAY_MS`` prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from typing import cast

import uvloop

HIGH, LOW = 64 << 20, 32 << 20
"""Bytes that may be on the way before a sender is stopped, and that let it go on."""


class Way(asyncio.Protocol):
    """One end of a connection: what it receives leaves through ``other`` after the delay."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: Way
        self.transport: asyncio.Transport | None = None
        self.travelling: deque[tuple[float, bytes]] = deque()
        self.bytes = 0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._depart(data)
        self.bytes += len(data)
        if self.bytes > HIGH and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._depart(b"")

    def _depart(self, data: bytes) -> None:
        self.travelling.append((asyncio.get_running_loop().time() + self.delay, data))
        self.arrive()

    def arrive(self) -> None:
        """Deliver what has arrived, and come back for the rest."""
        loop = asyncio.get_running_loop()
        target = self.other.transport
        if self.timer is not None or target is None:
            return
        while self.travelling and self.travelling[0][0] <= loop.time():
            data = self.travelling.popleft()[1]
            self.bytes -= len(data)
            if data:
                target.write(data)
            else:
                target.close()
        if self.bytes < LOW and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        if self.travelling:
            self.timer = loop.call_at(self.travelling[0][0], self._again)

    def _again(self) -> None:
        self.timer = None
        self.arrive()


async def serve(target_port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[None]] = set()

    def accept() -> Way:
        near, far = Way(delay), Way(delay)
        near.other, far.other = far, near

        async def connect() -> None:
            await asyncio.sleep(2 * delay)  # a handshake takes a round trip
            await loop.create_connection(lambda: far, "127.0.0.1", target_port)
            near.arrive()

        task = loop.create_task(connect())
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextlib.contextmanager
def delayed(port: int, milliseconds: float) -> Iterator[int]:
    """A port that leads to ``port`` with a round trip of ``milliseconds``."""
    command = [sys.executable, "-m", "tests.benchmarks.delay", str(port), str(milliseconds / 2)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
