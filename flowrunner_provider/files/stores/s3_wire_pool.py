"""A pool of connections to one server: each is taken for one request, and one timer watches all of them."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from flowrunner_provider.files.stores.s3_wire import TICKS, Answer, Stale, Wire

__all__ = ["Pool", "Server"]

_MAX_CONNECTIONS = 64
"""The most connections; further requests wait for one."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """The address of a server, and the timeouts.

    :param tls: the TLS context; None for no TLS.
    :param connect_timeout: seconds for a connection, including TLS.
    :param timeout: seconds without progress; a complete answer may take five times as long.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    connect_timeout: float
    timeout: float


class Pool:
    """A pool of connections, for one event loop; call :meth:`close` at the end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._idle: list[Wire] = []
        self._all: set[Wire] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(
        self, request: bytes, data: bytes = b"", *, bodiless: bool = False, most: int = 0, resend: bool = True
    ) -> Answer:
        """Send a request on a free connection.

        :param bodiless: whether the request is ``HEAD``.
        :param most: the largest body of a success, in bytes.
        :param resend: send the request again on a new connection if the server closed the idle one meanwhile; it may
            have executed the first one.
        :raises Violation: if the server violates HTTP.
        :raises OSError: if the connection fails; ``TimeoutError`` if the server does not answer in time.
        """
        await self._slots.acquire()
        try:
            wire = self._take_idle() or await self._connect()
            try:
                return await wire.ask(request, data, bodiless=bodiless, most=most)
            except Stale:
                self._close_idle()  # the others are as old
                if not resend:
                    raise
            finally:
                self._release(wire)
            wire = await self._connect()
            try:
                return await wire.ask(request, data, bodiless=bodiless, most=most)
            finally:
                self._release(wire)
        finally:
            self._slots.release()

    def _release(self, wire: Wire) -> None:
        if wire.busy:  # the caller was cancelled
            wire.close()
        if wire.good:
            self._idle.append(wire)
        else:
            self._all.discard(wire)

    def _take_idle(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if wire.good:
                return wire
            self._all.discard(wire)
        return None

    async def _connect(self) -> Wire:
        server = self.server
        async with asyncio.timeout(server.connect_timeout):
            _, wire = await asyncio.get_running_loop().create_connection(
                Wire, server.host, server.port, ssl=server.tls, server_hostname=server.host if server.tls else None
            )
        self._all.add(wire)
        if self._timer is None:
            self._tick()
        return wire

    def _tick(self) -> None:
        for wire in self._all:
            wire.tick()
        self._all = {wire for wire in self._all if wire.good or wire.busy}
        self._timer = asyncio.get_running_loop().call_later(self.server.timeout / TICKS, self._tick)

    def _close_idle(self) -> None:
        while self._idle:
            wire = self._idle.pop()
            wire.close()
            self._all.discard(wire)

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for wire in self._all:
            wire.close()
        self._all.clear()
        self._idle.clear()
