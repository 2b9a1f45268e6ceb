"""What a watcher has told, kept in the asset's state store, and who watches.

A triggerer that was frozen while another one took its watchers over goes on where it was when it wakes. The stores
cannot compare before they write; so each taking over has a number, and owners with an even number write to another
place than those with an odd one. An owner looks whether it still is the owner *after* it has written down what it is
about to tell, and one that takes over reads *after* it has made itself known: either the earlier one sees that it is
superseded and does not tell, or the later one sees what is being told and tells the same, with the same ids.
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
_PLACES = ("", ".odd")
"""Of even and of odd owners; versions that knew no owners have written to the first."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look has found.

    :param events: what to tell, each with an ``id`` that is the same whenever the same thing is told again.
    :param cursor: where the next look goes on, once these have been told. Together below 48 KB as JSON.
    :param more: there is more to tell: the next look comes at once.
    """

    events: tuple[dict[str, Json], ...]
    cursor: Json
    more: bool = False


class Superseded(Exception):
    """Another watcher has taken over; this one tells and writes nothing any more."""


class WatchRecord:
    """``{"epoch": ..., "cursor": ..., "open": {"events": [...], "cursor": ...}}``, and its owner beside it.

    While events are open, nobody needs the cursor from before them: it is left out, as cursors may be long.

    :param accessor: the asset's state store; None before Airflow 3.3.
    :param identity: of what is watched.
    """

    def __init__(self, accessor: Any, identity: str) -> None:
        self._store: _Store = _File(identity) if accessor is None else _Asset(accessor, identity)
        self._token = secrets.token_hex(8)
        self._taken = False
        self.epoch = 0
        self.cursor: Json = None

    async def begun(self) -> Seen | None:
        """On the first call, take over; what an earlier owner may have told and had not settled."""
        if self._taken:
            return None
        newest = await self._take()
        self._taken, self.cursor = True, newest["cursor"]
        if (opened := newest.get("open")) is None:
            return None
        return Seen(events=tuple(opened["events"]), cursor=opened["cursor"])

    async def begin(self, seen: Seen) -> None:
        """When it returns, the events may be told.

        :raises Superseded: they must not.
        """
        opened: Json = {"events": list(seen.events), "cursor": seen.cursor}
        await self._write({"cursor": None, "open": opened})

    async def settle(self, cursor: Json) -> None:
        """:raises Superseded: the next owner tells what was open once more."""
        await self._write({"cursor": cursor})
        self.cursor = cursor

    async def assure(self) -> None:
        """An entry that somebody has deleted on the asset's page takes the watch from nobody.

        :raises Superseded: somebody has taken over.
        """
        owner = await self._store.get(_OWNER)
        if owner is not None and (not isinstance(owner, Mapping) or owner.get("owner") != self._token):
            raise Superseded

    async def _write(self, record: dict[str, Json]) -> None:
        await self.assure()
        await self._store.set(_PLACES[self.epoch % 2], {"epoch": self.epoch, **record})
        await self.assure()

    async def _take(self) -> dict[str, Any]:
        """The newest record, once everybody else can see that it is ours."""
        owner = await self._store.get(_OWNER)
        self.epoch = 0 if owner is None else _epoch(owner, "owner")
        while True:
            self.epoch += 1
            await self._store.set(_OWNER, {"owner": self._token, "epoch": self.epoch})
            newest = await self._newest()
            if (epoch := _epoch(newest, "cursor")) < self.epoch:
                return newest
            self.epoch = epoch  # a rival took over at the same moment, or the owner's entry was deleted

    async def _newest(self) -> dict[str, Any]:
        records = [record for place in _PLACES if (record := await self._store.get(place)) is not None]
        return max(records, key=lambda record: _epoch(record, "cursor"), default={"cursor": None})


def _epoch(entry: Any, needed: str) -> int:
    """The number of the owner who wrote it.

    :raises ConfigError: none of ours did.
    """
    if isinstance(entry, Mapping) and needed in entry and isinstance(epoch := entry.get("epoch", 0), int):
        return epoch
    raise ConfigError(
        "the state of this watcher is none of ours",
        field="asset state store",
        remedy="delete its entries on the asset's page; it starts afresh then",
    )


class _Store(Protocol):
    async def get(self, place: str) -> Any: ...

    async def set(self, place: str, value: Json) -> None: ...


class _Asset:
    """The asset's own store (Airflow 3.3 and later)."""

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
                "two assets share this watcher, so it has no state of its own",
                field="name",
                remedy="give the watcher of each asset another name",
            ) from error
        except (AirflowRuntimeError, OSError) as error:
            raise Unavailable(f"the asset's state store does not answer ({type(error).__name__})") from error


class _File:
    """Files below ``[flowrunner] state_path``, for Airflow before 3.3."""

    def __init__(self, identity: str) -> None:
        self._files = FileStore(state_path() / "watchers", (identity,))

    async def get(self, place: str) -> Any:
        return await asyncio.to_thread(self._files.get, f"watcher{place}")

    async def set(self, place: str, value: Json) -> None:
        await asyncio.to_thread(self._files.set, f"watcher{place}", value)
