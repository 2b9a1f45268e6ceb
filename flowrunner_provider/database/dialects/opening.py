"""What the opening of a connection to any server has in common."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.database.config import MssqlConfig, MysqlConfig, PostgresConfig

__all__ = ["GRACE", "guarded", "place_of"]

GRACE = 5.0
"""Seconds after the deadline in which the server's own time-out may still answer."""


def place_of(config: MssqlConfig | MysqlConfig | PostgresConfig, deadline: Deadline) -> str:
    """What the messages call the database.

    :raises TransientError: when there is no time left to connect to it.
    """
    place = f"{config.schema or config.login} at {config.host}:{config.port}"
    deadline.check(f"connecting to {place}")
    return place


def guarded(deadline: Deadline, cut: Callable[[], None]) -> threading.Timer:
    """Ends the connection when the deadline is over and the server silent; to be cancelled before that.

    :param cut: ends it below the driver.
    """
    guard = threading.Timer(deadline.remaining() + GRACE, cut)
    guard.daemon = True
    guard.start()
    return guard
