"""Opening a connection to a database server, and ending it with the deadline."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.database.config import MssqlConfig, MysqlConfig, PostgresConfig

__all__ = ["Remote", "shut"]

C = TypeVar("C", bound=MssqlConfig | MysqlConfig | PostgresConfig)

GRACE = 5.0
"""Seconds after the deadline in which the server's own timeout may still answer."""


class Remote(ABC, Generic[C]):
    """The part of a session that opens a connection to a server, and ends it with the deadline.

    :raises TransientError: if no time is left, or the server cannot be reached now.
    """

    user_placeholder: ClassVar[str] = "%s"
    user_named_placeholder: ClassVar[str] = "%({})s"

    def __init__(self, config: C, deadline: Deadline) -> None:
        self._config, self._deadline = config, deadline
        self._where = f"{config.schema or config.login} at {config.host}:{config.port}"
        deadline.check(f"connecting to {self._where}")
        self._connect(config, deadline)
        try:
            self.prepare(deadline)
        except BaseException:
            self.end()
            raise

    @abstractmethod
    def _connect(self, config: C, deadline: Deadline) -> None:
        """Open the connection and log in."""

    @abstractmethod
    def _shut_socket(self) -> None:
        """Shut the socket down below the driver, when the deadline has passed and the server is silent."""

    @abstractmethod
    def end(self) -> None:
        """End the connection."""

    @property
    def _silence(self) -> float:
        """Seconds of silence after which no attempt uses the connection any more."""
        return self._deadline.remaining() + 2 * GRACE

    @property
    def _lock_wait(self) -> float:
        """Seconds to wait for a lock of another connection."""
        return self._deadline.limit(self._config.lock_timeout.total_seconds())

    def user_text(self, text: str) -> str:
        """See :meth:`Session.user_text`: for these drivers ``%`` begins a placeholder."""
        return text.replace("%", "%%")

    def prepare(self, deadline: Deadline) -> None:
        """Start using the connection; it is cut shortly after the deadline if the server is silent."""
        self._deadline = deadline
        self._guard = _guarded(deadline, self._shut_socket)


def shut(descriptor: int) -> None:
    """Shut down the connection of a socket that other code keeps open."""
    with socket.socket(fileno=socket.dup(descriptor)) as end:
        end.shutdown(socket.SHUT_RDWR)


def _guarded(deadline: Deadline, cut: Callable[[], None]) -> threading.Timer:
    guard = threading.Timer(deadline.remaining() + GRACE, cut)
    guard.daemon = True
    guard.start()
    return guard
