"""What the hooks of all stores share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.rate_limit import Pacer
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.hook import FlowRunnerHook
from flowrunner_provider.runtime.rate_limits import pacer_for

__all__ = ["StoreHook"]

C = TypeVar("C")


class StoreHook(FlowRunnerHook[C]):
    """A hook whose connection is a place with files."""

    @abstractmethod
    def store(self, location: Location | None = None, *, field: str = "path") -> Store:
        """The connection's files; enter it with ``async with``.

        :param location: an address in it, for its scheme and its bucket; None for what the connection itself names.
        :param field: the parameter that the address was given as, for messages.
        :raises ConfigError: if the connection is not for this address, and what it lacks.
        """

    @property
    def pacer(self) -> Pacer | None:
        """The connection's rate limit, shared by all its tasks; None without one."""
        limit = getattr(self.config, "rate_limit", None)
        return pacer_for(self.conn_id, limit, getattr(self.config, "burst", 1)) if limit else None

    def refuse_other_host(self, location: Location, host: str, field: str) -> None:
        """An address may repeat the connection's host and name no other one."""
        if location.host not in ("", host):
            raise ConfigError(
                f"{location.root} names another host than the connection {location.conn_id!r}, which is for {host}",
                field=field,
                remedy=f"write {location.scheme}://{location.conn_id}@/path",
            )
