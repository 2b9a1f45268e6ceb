"""The connections of this process, as many per Airflow connection as its extra allows.

A connection that is given back is cleaned by the server and kept for the next one who asks. A fork starts with none:
the parent's sockets are its own.
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

__all__ = ["lend"]


class _Pool:
    def __init__(self, most: int) -> None:
        self.most = most
        self.slots = threading.BoundedSemaphore(most)
        self.idle: list[Session] = []

    def lend(self, deadline: Deadline, make: Callable[[], Session], name: str) -> Session:
        if not self.slots.acquire(timeout=deadline.remaining()):
            raise Unavailable(
                f"all {self.most} connections of {name} are in use",
                remedy="raise max_connections in the connection's extra, or run fewer tasks at once",
            )
        try:
            session = self._kept(deadline) or make()
        except BaseException:
            self.slots.release()
            raise
        session.home = self.take_back
        return session

    def _kept(self, deadline: Deadline) -> Session | None:
        while True:
            try:
                session = self.idle.pop()
            except IndexError:
                return None
            try:
                session.resume(deadline)
            except FlowRunnerError:  # the server has ended it meanwhile
                session.end()
            else:
                return session

    def take_back(self, session: Session) -> None:
        kept = False
        try:
            with suppress(FlowRunnerError):
                kept = session.park()
            if kept:
                self.idle.append(session)
            else:
                session.end()
        finally:
            self.slots.release()


_pools: dict[Hashable, _Pool] = {}
_of_the_parent: list[dict[Hashable, _Pool]] = []  # never used and never collected: that would end its connections
_lock = threading.Lock()


def _forked() -> None:
    global _pools, _lock
    _of_the_parent.append(_pools)
    _pools, _lock = {}, threading.Lock()


def _end() -> None:
    for pool in _pools.values():
        while pool.idle:
            with suppress(FlowRunnerError):
                pool.idle.pop().end()


os.register_at_fork(after_in_child=_forked)
atexit.register(_end)


def lend(key: Hashable, most: int | None, deadline: Deadline, make: Callable[[], Session], name: str) -> Session:
    """A connection, which goes back when it is closed; waits while as many as allowed are in use.

    :param key: equal for connections that can stand in for each other.
    :param most: how many of them there may be in this process; None for any number, none of them kept.
    :param make: opens one.
    :param name: for messages.
    :raises Unavailable: if the deadline passes first.
    """
    if most is None:
        return make()
    with _lock:
        pool = _pools.setdefault(key, _Pool(most))
    return pool.lend(deadline, make, name)
