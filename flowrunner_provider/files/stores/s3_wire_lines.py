"""Connections to one server for threads: what is large goes by them, and no event loop sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.files.stores.s3_wire import Answer, Head, Stale
from flowrunner_provider.files.stores.s3_wire_line import Give, Line
from flowrunner_provider.files.stores.s3_wire_pool import Server

__all__ = ["Lines", "Take"]

Take = Callable[[Head, Callable[[memoryview], int]], None]
"""Gets the head of a success, and what fills a buffer with its body: to the buffer's end unless there is no more."""

_MOST = 64 * 1024
"""Bytes that the answer to what was sent may have."""

T = TypeVar("T")


class Lines:
    """Keeps connections to one server, as many as there are threads at work. To be closed.

    :param threads: who waits for the answers.
    """

    def __init__(self, server: Server, threads: Executor | None = None) -> None:
        self._server, self._threads = server, threads
        self._idle: list[Line] = []
        self._all: set[Line] = set()
        self._lock, self._closed = Lock(), False

    async def ask(self, request: bytes, take: Take) -> Answer | None:
        """Send a request without a body. What is no success is returned.

        A connection that its server has given up meanwhile is replaced, and the request goes out twice then.

        :param take: called in the thread.
        :raises Violation: for what is no answer of HTTP.
        :raises OSError: for a connection that cannot be made or breaks, ``TimeoutError`` for silence.
        """

        def work(line: Line) -> Answer | None:
            head = line.ask(request)
            if head.status >= 300:
                return line.rest(head, 0)
            line.expect(head)
            take(head, line.read)
            return None

        return await self._in_thread(work)

    async def tell(self, request: bytes, give: Give) -> Answer:
        """Send a request with a body; otherwise like :meth:`ask`.

        :param give: called in the thread; the body goes out twice, too, where the request does.
        """
        return await self._in_thread(lambda line: line.rest(line.tell(request, give), _MOST))

    async def _in_thread(self, work: Callable[[Line], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._once_or_twice, work)

    def _once_or_twice(self, work: Callable[[Line], T]) -> T:
        line = self._free()
        if line is not None:
            with suppress(Stale):
                return self._done(line, work)
            self._forget()  # the others are as old
        return self._done(self._connect(), work)

    def _done(self, line: Line, work: Callable[[Line], T]) -> T:
        try:
            return work(line)
        finally:
            with self._lock:
                if line.good and not self._closed:
                    line.fresh = Deadline(self._server.timeout)
                    self._idle.append(line)
                else:
                    self._drop(line)

    def _free(self) -> Line | None:
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
                raise ConnectionAbortedError("nobody waits any more")
        return line

    def _drop(self, line: Line) -> None:
        self._all.discard(line)
        line.close()

    def _forget(self) -> None:
        with self._lock:
            while self._idle:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """End all connections; what is under way fails."""
        self._forget()
        with self._lock:
            self._closed = True
            for line in self._all:
                line.interrupt()
