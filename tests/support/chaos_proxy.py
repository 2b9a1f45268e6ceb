"""A TCP proxy that breaks connections on purpose, after the model of toxiproxy.

::

    with ChaosProxy(server_host, server_port) as proxy:
        proxy.toxics = Toxics(cut_down=100_000, rst=True, connections=1)   # the first connection only
        connect_to(proxy.host, proxy.port)
        assert proxy.connections == 2
        proxy.reset()                                                      # healthy again

"up" is from client to server, "down" from server to client. Toxics are looked up for every chunk,
so a change acts on connections that are open already. The proxy lives in a thread of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.loop import LoopThread

__all__ = ["ChaosProxy", "Toxics"]

CHUNK = 16384
FOREVER = 3600.0
LINGER = 0.25


@dataclass(frozen=True, kw_only=True)
class Toxics:
    """What is wrong with the network; the default is nothing.

    :param latency: seconds that every chunk waits, in each direction.
    :param bandwidth: bytes per second, for each direction of each connection.
    :param slicer: forward in segments of so many bytes, each in a TCP segment of its own.
    :param cut_up: end the connection after exactly so many bytes from the client have passed.
    :param cut_down: the same for bytes from the server.
    :param rst: a cut is a reset (RST) instead of a regular end (FIN).
    :param blackhole_up: swallow what the client sends, silently; the connection stays open.
    :param blackhole_down: the same for what the server sends.
    :param connections: only so many connections suffer, counted from the assignment; None: all.
    """

    latency: float = 0.0
    bandwidth: float | None = None
    slicer: int | None = None
    cut_up: int | None = None
    cut_down: int | None = None
    rst: bool = False
    blackhole_up: bool = False
    blackhole_down: bool = False
    connections: int | None = None


class _Direction:
    """One half of a connection: how to read the toxics for it and where to count."""

    def __init__(self, name: str, toxics: Callable[[], Toxics]) -> None:
        self.name = name
        self.toxics = toxics
        self.passed = 0

    @property
    def cut(self) -> int | None:
        return self.toxics().cut_up if self.name == "up" else self.toxics().cut_down

    @property
    def blackhole(self) -> bool:
        return self.toxics().blackhole_up if self.name == "up" else self.toxics().blackhole_down


class ChaosProxy:
    """A proxy on a port of 127.0.0.1 in front of one TCP server."""

    host = "127.0.0.1"

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream = (upstream_host, upstream_port)
        self._loop = LoopThread("chaos-proxy")
        # Bound and never listening: it keeps the port ours while connections are refused.
        self._holder = _bound(self.host, 0)
        self.port: int = self._holder.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._reset_open = False
        self.reset_counters()
        self.toxics = Toxics()

    def reset_counters(self) -> None:
        """Start counting from zero."""
        self.connections = 0
        self.bytes = {"up": 0, "down": 0}

    @property
    def toxics(self) -> Toxics:
        """What is wrong now; assign another :class:`Toxics` to change it."""
        return self._toxics

    @toxics.setter
    def toxics(self, toxics: Toxics) -> None:
        self._toxics = toxics
        self._since = self.connections

    def reset(self) -> None:
        """Be a healthy network again and accept connections."""
        self.toxics = Toxics()
        self.refuse(False)

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections (ECONNREFUSED), or accept them again."""
        self._loop.run(self._unlisten() if refusing else self._listen())

    def drop_all(self, *, rst: bool = False) -> None:
        """End every open connection now."""
        self._reset_open = rst
        self._loop.run(self._cancel_all())

    def start(self) -> Self:
        """Begin to accept connections."""
        self._loop.start()
        self._loop.run(self._listen())
        return self

    def stop(self) -> None:
        """End every connection and the thread."""
        self._loop.run(self._unlisten())
        self.drop_all()
        self._loop.close()
        self._holder.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, sock=_bound(self.host, self.port))

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cancel_all(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        number, sides = self.connections, [(reader, writer)]

        def toxics() -> Toxics:
            limit = self._toxics.connections
            return self._toxics if limit is None or number - self._since <= limit else Toxics()

        rst = False
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.upstream)
            sides.append((server_reader, server_writer))
            pumps = {
                asyncio.ensure_future(self._pump(reader, server_writer, _Direction("up", toxics))),
                asyncio.ensure_future(self._pump(server_reader, writer, _Direction("down", toxics))),
            }
            try:
                while pumps:  # a clean end of one half leaves the other one open
                    done, pumps = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                    if any(pump.exception() or pump.result() for pump in done):
                        rst = toxics().rst or any(pump.exception() for pump in done)
                        break
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            rst = True  # the server is not there
        except asyncio.CancelledError:
            rst = self._reset_open
        finally:
            self._open.discard(task)
            for each_reader, each_writer in sides:
                await (_reset(each_writer) if rst else _finish(each_reader, each_writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Direction) -> bool:
        """Forward one direction; True when it ended in a cut."""
        writer.transport.set_write_buffer_limits(high=0)  # drain() waits until all is with the kernel
        if way.cut == 0:
            return True
        while data := await reader.read(CHUNK):
            if way.blackhole:
                continue
            if delay := way.toxics().latency:
                await asyncio.sleep(delay)
            while data:
                toxics, cut = way.toxics(), way.cut  # once: what is set meanwhile is for what comes next
                left = None if cut is None else max(0, cut - way.passed)
                size = min(x for x in (len(data), toxics.slicer, left) if x is not None)
                if toxics.bandwidth:
                    size = max(1, min(size, int(toxics.bandwidth / 20)))
                    await asyncio.sleep(size / toxics.bandwidth)
                piece, data = data[:size], data[size:]
                way.passed += len(piece)
                self.bytes[way.name] += len(piece)
                writer.write(piece)
                await writer.drain()
                if toxics.slicer or cut is not None:
                    await _acknowledged(writer)
                if cut is not None and way.passed >= cut:
                    return True
        if not way.blackhole:
            with suppress(OSError):
                writer.write_eof()
        else:
            await asyncio.sleep(FOREVER)  # silence: not even the end gets through
        return False


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


async def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End with FIN. What is still under way to us is read: closing on top of it would be a reset."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
            while await reader.read(CHUNK):
                continue
    writer.close()


async def _acknowledged(writer: asyncio.StreamWriter) -> None:
    """Wait until the other end's kernel has every byte: a reset would throw away what is under way."""
    connection: socket.socket = writer.get_extra_info("socket")
    for _ in range(2000):
        if connection.fileno() < 0 or not struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:
            return
        await asyncio.sleep(0.0005)
