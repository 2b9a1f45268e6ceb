"""What the opening of a connection to any server has in common."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.database.config import MssqlConfig, MysqlConfig, PostgresConfig

__all__ = ["GRACE", "Remote"]

C = TypeVar("C", bound=MssqlConfig | MysqlConfig | PostgresConfig)

GRACE = 5.0
"""Seconds after the deadline in which the server's own time-out may still answer."""


class Remote(ABC, Generic[C]):
    """The part of a session that opens a connection to a server, and ends it with the deadline.

    :raises TransientError: when there is no time left, or the server cannot be reached now.
    """

    def __init__(self, config: C, deadline: Deadline) -> None:
        self._config, self._deadline = config, deadline
        self._where = f"{config.schema or config.login} at {config.host}:{config.port}"
        deadline.check(f"connecting to {self._where}")
        self._connect(config, deadline)
        try:
            self.resume(deadline)
        except BaseException:
            self.end()
            raise

    @abstractmethod
    def _connect(self, config: C, deadline: Deadline) -> None:
        """Open the connection and log in."""

    @abstractmethod
    def _cut(self) -> None:
        """End the connection below the driver."""

    @abstractmethod
    def end(self) -> None:
        """End the connection."""

    def resume(self, deadline: Deadline) -> None:
        """Begin, or begin again: the connection is cut when the deadline is over and the server silent."""
        self._deadline = deadline
        self._guard = _guarded(deadline, self._cut)


def _guarded(deadline: Deadline, cut: Callable[[], None]) -> threading.Timer:
    guard = threading.Timer(deadline.remaining() + GRACE, cut)
    guard.daemon = True
    guard.start()
    return guard
