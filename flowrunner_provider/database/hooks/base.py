"""The base of the hooks of SQL databases."""

from __future__ import annotations

from typing import TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.base import Session
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

    def check(self) -> str:
        with self.open(Deadline(_CHECK_SECONDS)) as session:
            return session.describe()
