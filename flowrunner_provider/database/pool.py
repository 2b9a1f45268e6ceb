"""Connection pools of this process, one per Airflow connection whose extra sets ``max_connections``.

A returned connection is reset by the server and kept for the next task. A forked child starts without pools, because
the sockets belong to its parent.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import FlowRunnerError, Unavailable
from flowrunner_provider.database.dialects.base import Session

__all__ = ["acquire"]


class _Pool:
    def __init__(self, settings: Hashable, limit: int) -> None:
        self.settings, self._limit = settings, limit
        self._slots = threading.BoundedSemaphore(limit)
        self._idle: list[Session] = []
        self._retired = False

    def acquire(self, deadline: Deadline, connect: Callable[[], Session], name: str) -> Session:
        if not self._slots.acquire(timeout=deadline.remaining()):
            raise Unavailable(
                f"all {self._limit} connections of {name} are in use",
                remedy="raise max_connections in the connection's extra, or run fewer tasks at once",
            )
        try:
            session = self._resume_idle(deadline) or connect()
        except BaseException:
            self._slots.release()
            raise
        session.return_to_pool = self._release
        return session

    def _resume_idle(self, deadline: Deadline) -> Session | None:
        while self._idle:
            try:
                session = self._idle.pop()
            except IndexError:  # another thread took the last one
                return None
            try:
                session.prepare(deadline)
            except FlowRunnerError:  # the server has closed it meanwhile
                session.end()
            else:
                return session
        return None

    def _release(self, session: Session) -> None:
        reusable = False
        try:
            with suppress(FlowRunnerError):
                reusable = session.reset()
            if reusable:
                self._idle.append(session)
            else:
                session.end()
            if self._retired:
                self.end_idle()
        finally:
            self._slots.release()

    def retire(self) -> None:
        """End idle connections now, and those in use when they are returned."""
        self._retired = True
        self.end_idle()

    def end_idle(self) -> None:
        while self._idle:
            with suppress(FlowRunnerError, IndexError):
                self._idle.pop().end()


_pools: dict[str, _Pool] = {}
_parents_pools: list[dict[str, _Pool]] = []  # kept alive: collecting them would end the parent's connections
_lock = threading.Lock()


def _forget_parents_pools() -> None:
    global _pools, _lock
    _parents_pools.append(_pools)
    _pools, _lock = {}, threading.Lock()


def _end_all() -> None:
    for pool in _pools.values():
        pool.end_idle()


os.register_at_fork(after_in_child=_forget_parents_pools)
atexit.register(_end_all)


def acquire(
    conn_id: str, settings: Hashable, limit: int, deadline: Deadline, connect: Callable[[], Session]
) -> Session:
    """Return a connection that goes back to the pool when it is closed; wait while all are in use.

    :param settings: of the connection, with its credentials. New settings retire the pool of the old ones: an IAM
        token, for example, is another one each time.
    :param limit: the maximum number of connections in this process.
    :param connect: opens a connection.
    :raises Unavailable: if the deadline passes first.
    """
    with _lock:
        current = _pools.get(conn_id)
        if current is None or current.settings != settings:
            _pools[conn_id] = _Pool(settings, limit)
        pool = _pools[conn_id]
    if current is not None and current is not pool:
        current.retire()
    return pool.acquire(deadline, connect, f"connection {conn_id!r}")
