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
from flowrunner_provider.files.stores.s3_wire_line import Line, SendBody
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["Lines", "ReceiveBody"]

ReceiveBody = Callable[[Head, Callable[[memoryview], int]], None]
"""Receives the head of a success, and a function that reads its body into a buffer, completely unless it ends."""

_MAX_ANSWER = 64 * 1024
"""The largest answer to an upload, in bytes."""

T = TypeVar("T")


class Lines:
    """A pool with one connection per working thread; call :meth:`close` at the end.

    :param threads: the executor whose threads do the blocking requests.
    """

    def __init__(self, server: Server, threads: Executor | None = None) -> None:
        self._server, self._threads = server, threads
        self._idle: list[Line] = []
        self._all: set[Line] = set()
        self._lock, self._closed = Lock(), False

    async def ask(self, request: bytes, receive_body: ReceiveBody) -> Answer | None:
        """Send a request without a body; return the answer unless it is a success.

        If the server closed an idle connection meanwhile, the request is sent again on a new one.

        :param receive_body: called in the thread.
        :raises Violation: if the server violates HTTP.
        :raises OSError: if the connection fails; ``TimeoutError`` if the server does not answer in time.
        """

        def work(line: Line) -> Answer | None:
            head = line.ask(request)
            if head.status >= 300:
                return line.read_rest(head, 0)
            line.expect(head)
            receive_body(head, line.read)
            return None

        return await self._in_thread(work)

    async def ask_with_body(self, request: bytes, send_body: SendBody) -> Answer:
        """Send a request with a body and return the answer; otherwise like :meth:`ask`.

        :param send_body: called in the thread, again if the request is sent again.
        """
        return await self._in_thread(lambda line: line.read_rest(line.ask_with_body(request, send_body), _MAX_ANSWER))

    async def _in_thread(self, work: Callable[[Line], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_line, work)

    def _with_line(self, work: Callable[[Line], T]) -> T:
        line = self._take_idle()
        if line is not None:
            with suppress(Stale):
                return self._run(line, work)
            self._close_idle()  # the others are as old
        return self._run(self._connect(), work)

    def _run(self, line: Line, work: Callable[[Line], T]) -> T:
        try:
            return work(line)
        finally:
            with self._lock:
                if line.good and not self._closed:
                    line.fresh = Deadline(self._server.timeout)
                    self._idle.append(line)
                else:
                    self._drop(line)

    def _take_idle(self) -> Line | None:
        with self._lock:
            while self._idle:
                line = self._idle.pop()
                if line.quiet and not line.fresh.expired:
                    return line
                self._drop(line)
        return None

    def _connect(self) -> Line:
        line = Line(self._server)
        with self._lock:
            self._all.add(line)
            if self._closed:
                self._drop(line)
                raise ConnectionAbortedError("the pool was closed")
        return line

    def _drop(self, line: Line) -> None:
        self._all.discard(line)
        line.close()

    def _close_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        self._close_idle()
        with self._lock:
            self._closed = True
            for line in self._all:
                line.interrupt()
