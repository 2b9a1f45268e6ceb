"""The base of the hooks of SQL databases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import secret_fields
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.pool import lend
from flowrunner_provider.runtime.hook import FlowRunnerHook

__all__ = ["SqlHook"]

C = TypeVar("C")

_CHECK_SECONDS = 30.0


class SqlHook(FlowRunnerHook[C]):
    """A hook that opens sessions."""

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        """A connection to the database.

        :param create: make a database file that is missing, where the database is a file.
        """
        raise ConfigError(f"{type(self).__name__} opens nothing", field="conn_type")

    def lent(self, deadline: Deadline, make: Callable[[], Session], most: int | None) -> Session:
        """A connection of this process's pool, or a new one where the connection's extra names no cap.

        :raises ConfigError: if the cap is none.
        """
        if most is not None and most < 1:
            raise ConfigError(
                f"connection {self.conn_id!r}: max_connections must be 1 or more",
                field="max_connections",
                remedy="correct it under 'flowrunner' in the extra",
            )
        return lend(
            (self.conn_id, repr(self.config), self._digest), most, deadline, make, f"connection {self.conn_id!r}"
        )

    @property
    def _digest(self) -> str:
        """Of the settings that are not shown."""
        values = [str(getattr(self.config, name)) for name in secret_fields(self.config_type)]
        return hashlib.sha256("\0".join(values).encode()).hexdigest()

    def check(self) -> str:
        with self.open(Deadline(_CHECK_SECONDS)) as session:
            return session.describe()
