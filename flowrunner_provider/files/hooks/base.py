"""The base class of the hooks that open stores."""

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
    """A hook whose connection leads to a store of files."""

    @abstractmethod
    def store(self, location: Location | None = None, *, field: str = "path") -> Store:
        """Return the store of the connection; enter it with ``async with``.

        :param location: an address in the store, which may name scheme and bucket; None uses those of the connection.
        :param field: the parameter that the address comes from, for messages.
        :raises ConfigError: if the connection does not fit the address or is incomplete.
        """

    @property
    def pacer(self) -> Pacer | None:
        """The rate limit of the connection, shared by all its tasks; None if it has none."""
        limit = getattr(self.config, "rate_limit", None)
        return pacer_for(self.conn_id, limit, getattr(self.config, "burst", 1)) if limit else None

    def refuse_other_host(self, location: Location, host: str, field: str) -> None:
        """Raise ``ConfigError`` if the address names another host than the connection."""
        if location.host not in ("", host):
            raise ConfigError(
                f"{location.root} names another host than the connection {location.conn_id!r}, whose host is {host}",
                field=field,
                remedy=f"write {location.scheme}://{location.conn_id}@/path",
            )
