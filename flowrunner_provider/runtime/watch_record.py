"""State of an asset watcher: the events it has emitted, kept in the asset's state store, and its current owner.

A triggerer that was frozen while another one took over its watchers continues when it wakes. The stores offer no
compare-and-set, so each takeover has an epoch, and owners with an even epoch write to another key than those with an
odd one. An owner checks its ownership *after* writing the events it is about to emit, and a new owner reads them
*after* registering itself. So either the old owner notices that it is superseded and emits nothing, or the new owner
sees the pending events and emits the same ones, with the same ids.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow.sdk.exceptions import AirflowRuntimeError

from flowrunner_provider.core.errors import ConfigError, Json, Unavailable
from flowrunner_provider.runtime.checkpoint_store import FileStore
from flowrunner_provider.runtime.settings import state_path

__all__ = ["Seen", "Superseded", "WatchRecord"]

_OWNER = ".owner"
_KEY_SUFFIXES = ("", ".odd")
"""Keys for even and odd epochs; versions without owners wrote to the first."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Result of one poll.

    :param events: events to emit, each with an ``id`` that is the same if it is emitted again.
    :param cursor: where the next poll continues once these events are emitted. Together below 48 KB as JSON.
    :param more: there are more events: poll again at once.
    """

    events: tuple[dict[str, Json], ...]
    cursor: Json
    more: bool = False


class Superseded(Exception):
    """Another watcher has taken over; this one must not emit or write anything."""


class WatchRecord:
    """``{"epoch": ..., "cursor": ..., "open": {"events": [...], "cursor": ...}}``, with its owner beside it.

    While events are open, the previous cursor is not needed and left out, because cursors may be long.

    :param accessor: the asset's state store; None before Airflow 3.3.
    :param identity: identifies what is watched.
    """

    def __init__(self, accessor: Any, identity: str) -> None:
        self._store: _Store = _File(identity) if accessor is None else _Asset(accessor, identity)
        self._token = secrets.token_hex(8)
        self._taken = False
        self.epoch = 0
        self.cursor: Json = None

    async def begun(self) -> Seen | None:
        """On the first call, take over; return the events that an earlier owner may have emitted without settling."""
        if self._taken:
            return None
        newest = await self._take()
        self._taken, self.cursor = True, newest["cursor"]
        if (opened := newest.get("open")) is None:
            return None
        return Seen(events=tuple(opened["events"]), cursor=opened["cursor"])

    async def begin(self, seen: Seen) -> None:
        """Record the events; once it returns, they may be emitted.

        :raises Superseded: they must not be emitted.
        """
        opened: Json = {"events": list(seen.events), "cursor": seen.cursor}
        await self._write({"cursor": None, "open": opened})

    async def settle(self, cursor: Json) -> None:
        """Record that the open events were emitted.

        :raises Superseded: the next owner emits the open events again.
        """
        await self._write({"cursor": cursor})
        self.cursor = cursor

    async def assure(self) -> None:
        """Raise unless this watcher is still the owner; a deleted owner entry does not count as a takeover.

        :raises Superseded: another watcher has taken over.
        """
        owner = await self._store.get(_OWNER)
        if owner is not None and (not isinstance(owner, Mapping) or owner.get("owner") != self._token):
            raise Superseded

    async def _write(self, record: dict[str, Json]) -> None:
        await self.assure()
        await self._store.set(_KEY_SUFFIXES[self.epoch % 2], {"epoch": self.epoch, **record})
        await self.assure()

    async def _take(self) -> dict[str, Any]:
        """Register as owner, then return the newest record."""
        owner = await self._store.get(_OWNER)
        self.epoch = 0 if owner is None else _epoch(owner, "owner")
        while True:
            self.epoch += 1
            await self._store.set(_OWNER, {"owner": self._token, "epoch": self.epoch})
            newest = await self._newest()
            if (epoch := _epoch(newest, "cursor")) < self.epoch:
                return newest
            self.epoch = epoch  # a concurrent takeover, or the owner entry was deleted

    async def _newest(self) -> dict[str, Any]:
        records = [record for place in _KEY_SUFFIXES if (record := await self._store.get(place)) is not None]
        return max(records, key=lambda record: _epoch(record, "cursor"), default={"cursor": None})


def _epoch(entry: Any, needed: str) -> int:
    """Return the epoch in a record.

    :raises ConfigError: if it is not one of our records.
    """
    if isinstance(entry, Mapping) and needed in entry and isinstance(epoch := entry.get("epoch", 0), int):
        return epoch
    raise ConfigError(
        "the state of this watcher has an unknown format",
        field="asset state store",
        remedy="delete its entries on the asset's page to start over",
    )


class _Store(Protocol):
    async def get(self, place: str) -> Any: ...

    async def set(self, place: str, value: Json) -> None: ...


class _Asset:
    """The asset's state store (Airflow 3.3 and later)."""

    def __init__(self, accessor: Any, identity: str) -> None:
        self._accessor, self._key = accessor, f"flowrunner.{identity}"

    async def get(self, place: str) -> Any:
        return await self._call("get", self._key + place)

    async def set(self, place: str, value: Json) -> None:
        await self._call("set", self._key + place, value)

    async def _call(self, verb: str, *arguments: Any) -> Any:
        try:
            if hasattr(self._accessor, f"a{verb}"):
                return await getattr(self._accessor, f"a{verb}")(*arguments)
            return await asyncio.to_thread(getattr(self._accessor, verb), *arguments)
        except ValueError as error:
            raise ConfigError(
                "two assets share this watcher",
                field="name",
                remedy="give each asset's watcher a different name",
            ) from error
        except (AirflowRuntimeError, OSError) as error:
            raise Unavailable(f"the asset's state store cannot be reached ({type(error).__name__})") from error


class _File:
    """Files in ``[flowrunner] state_path``, for Airflow before 3.3."""

    def __init__(self, identity: str) -> None:
        self._files = FileStore(state_path() / "watchers", (identity,))

    async def get(self, place: str) -> Any:
        return await asyncio.to_thread(self._files.get, f"watcher{place}")

    async def set(self, place: str, value: Json) -> None:
        await asyncio.to_thread(self._files.set, f"watcher{place}", value)
