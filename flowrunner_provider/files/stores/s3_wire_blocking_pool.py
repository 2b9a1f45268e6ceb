"""A pool of blocking connections to one server, for large bodies, which bypass the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Stale
from flowrunner_provider.files.stores.s3_wire_blocking import BlockingConnection, SendBody
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["BlockingPool", "ReceiveBody"]

ReceiveBody = Callable[[Head, Callable[[memoryview], int]], None]
"""Receives the head of a success, and a function that reads its body into a buffer, completely unless it ends."""

_MAX_ANSWER = 64 * 1024
"""The largest answer to an upload, in bytes."""

T = TypeVar("T")


class BlockingPool:
    """A pool with one connection per working thread; call :meth:`close` at the end.

    :param threads: the executor whose threads do the blocking requests.
    """

    def __init__(self, server: Server, threads: Executor | None = None) -> None:
        self._server, self._threads = server, threads
        self._idle: list[BlockingConnection] = []
        self._all: set[BlockingConnection] = set()
        self._lock, self._closed = Lock(), False

    async def ask(self, request: bytes, receive_body: ReceiveBody) -> Answer | None:
        """Send a request without a body; return the answer unless it is a success.

        If the server closed an idle connection meanwhile, the request is sent again on a new one.

        :param receive_body: called in the thread.
        :raises Violation: if the server violates HTTP.
        :raises OSError: if the connection fails; ``TimeoutError`` if the server does not answer in time.
        """

        def work(connection: BlockingConnection) -> Answer | None:
            head = connection.ask(request)
            if head.status >= 300:
                return connection.read_rest(head, 0)
            connection.expect(head)
            receive_body(head, connection.read)
            return None

        return await self._in_thread(work)

    async def ask_with_body(self, request: bytes, send_body: SendBody) -> Answer:
        """Send a request with a body and return the answer; otherwise like :meth:`ask`.

        :param send_body: called in the thread, again if the request is sent again.
        """
        return await self._in_thread(
            lambda connection: connection.read_rest(connection.ask_with_body(request, send_body), _MAX_ANSWER)
        )

    async def _in_thread(self, work: Callable[[BlockingConnection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_connection, work)

    def _with_connection(self, work: Callable[[BlockingConnection], T]) -> T:
        connection = self._take_idle()
        if connection is not None:
            with suppress(Stale):
                return self._run(connection, work)
            self._close_idle()  # the others are as old
        return self._run(self._connect(), work)

    def _run(self, connection: BlockingConnection, work: Callable[[BlockingConnection], T]) -> T:
        try:
            return work(connection)
        finally:
            with self._lock:
                if connection.good and not self._closed:
                    connection.fresh = Deadline(self._server.timeout)
                    self._idle.append(connection)
                else:
                    self._drop(connection)

    def _take_idle(self) -> BlockingConnection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.quiet and not connection.fresh.expired:
                    return connection
                self._drop(connection)
        return None

    def _connect(self) -> BlockingConnection:
        connection = BlockingConnection(self._server)
        with self._lock:
            self._all.add(connection)
            if self._closed:
                self._drop(connection)
                raise ConnectionAbortedError("the pool was closed")
        return connection

    def _drop(self, connection: BlockingConnection) -> None:
        self._all.discard(connection)
        connection.close()

    def _close_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        self._close_idle()
        with self._lock:
            self._closed = True
            for connection in self._all:
                connection.interrupt()
