"""The connections to one server: taken one request long, kept a while, watched by one timer."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from flowrunner_provider.files.stores.s3_wire import TICKS, Answer, Stale, Wire

__all__ = ["Pool", "Server"]

_MOST = 64
"""Connections at a time; who needs another one waits."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to connect to, and how long to wait.

    :param tls: whom to trust; None for no TLS.
    :param connect_timeout: seconds for a connection to be there, TLS included.
    :param timeout: seconds that a server may be silent; five times as long it may take for an answer.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    connect_timeout: float
    timeout: float


class Pool:
    """Keeps connections to one server. Used within one event loop; to be closed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._slots = asyncio.Semaphore(_MOST)
        self._idle: list[Wire] = []
        self._all: set[Wire] = set()
        self._watch: asyncio.TimerHandle | None = None

    async def ask(
        self, request: bytes, data: bytes = b"", *, bodiless: bool = False, most: int = 0, again: bool = True
    ) -> Answer:
        """Send a request on a free connection.

        :param bodiless: it is ``HEAD``.
        :param most: bytes that the body of a success may have.
        :param again: replace a connection that its server has given up meanwhile. The request goes out twice then; it
            is not known whether it was served the first time.
        :raises Violation: for what is no answer of HTTP.
        :raises OSError: for a connection that cannot be made or breaks, ``TimeoutError`` for silence.
        """
        await self._slots.acquire()
        try:
            wire = self._free() or await self._connect()
            try:
                return await wire.ask(request, data, bodiless=bodiless, most=most)
            except Stale:
                self._forget()  # the others are as old
                if not again:
                    raise
            finally:
                self._take_back(wire)
            wire = await self._connect()
            try:
                return await wire.ask(request, data, bodiless=bodiless, most=most)
            finally:
                self._take_back(wire)
        finally:
            self._slots.release()

    def _take_back(self, wire: Wire) -> None:
        if wire.busy:  # nobody waits for the answer any more
            wire.close()
        if wire.good:
            self._idle.append(wire)
        else:
            self._all.discard(wire)

    def _free(self) -> Wire | None:
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
        if self._watch is None:
            self._tick()
        return wire

    def _tick(self) -> None:
        for wire in self._all:
            wire.tick()
        self._all = {wire for wire in self._all if wire.good or wire.busy}
        self._watch = asyncio.get_running_loop().call_later(self.server.timeout / TICKS, self._tick)

    def _forget(self) -> None:
        while self._idle:
            wire = self._idle.pop()
            wire.close()
            self._all.discard(wire)

    def close(self) -> None:
        """End all connections; what is under way fails."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for wire in self._all:
            wire.close()
        self._all.clear()
        self._idle.clear()
