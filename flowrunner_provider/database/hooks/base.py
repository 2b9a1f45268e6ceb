"""The base class of the database hooks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import secret_fields
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.pool import acquire
from flowrunner_provider.runtime.hook import FlowRunnerHook

__all__ = ["SqlHook"]

C = TypeVar("C")

_CHECK_SECONDS = 30.0


class SqlHook(FlowRunnerHook[C]):
    """A hook that opens database sessions."""

    def open(self, deadline: Deadline, *, create: bool = False) -> Session:
        """Open a connection to the database.

        :param create: create a missing database file, where the database is a file.
        """
        raise ConfigError(f"{type(self).__name__} does not open connections", field="conn_type")

    def open_pooled(self, deadline: Deadline, connect: Callable[[], Session], max_connections: int | None) -> Session:
        """Take a connection from this process's pool; without ``max_connections`` in the extra, open a new one.

        :raises ConfigError: if ``max_connections`` is less than 1.
        """
        if max_connections is not None and max_connections < 1:
            raise ConfigError(
                f"connection {self.conn_id!r}: max_connections must be 1 or more",
                field="max_connections",
                remedy="correct it under 'flowrunner' in the extra",
            )
        if max_connections is None:
            return connect()
        settings = repr(self.config), self._secrets_digest
        return acquire(self.conn_id, settings, max_connections, deadline, connect)

    @property
    def _secrets_digest(self) -> str:
        """A digest of the secret settings."""
        values = [str(getattr(self.config, name)) for name in secret_fields(self.config_type)]
        return hashlib.sha256("\0".join(values).encode()).hexdigest()

    def check(self) -> str:
        with self.open(Deadline(_CHECK_SECONDS)) as session:
            return session.describe()
