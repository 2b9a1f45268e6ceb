"""The base of every asset watcher: it looks for ever, never dies silently, and tells each thing once.

Airflow restarts a watcher that ends, every two seconds and without a word in the UI; so this one does not end.
What it has told is kept in the asset's state store (before Airflow 3.3 in a file), and survives the triggerer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, Json, Unavailable
from flowrunner_provider.core.retry import Backoff, apause
from flowrunner_provider.runtime.boundary import aoutcome_of
from flowrunner_provider.runtime.checkpoint_store import FileStore
from flowrunner_provider.runtime.masking import redact
from flowrunner_provider.runtime.settings import state_path

__all__ = ["FlowRunnerWatcher", "Seen"]

SETTLE = 10.0
"""Seconds after which an event that was handed over counts as stored: Airflow takes about one."""

HEARTBEAT = 900.0
"""Seconds between two lines in the log of a watcher with nothing to tell."""

LONGEST_WAIT = 600.0
"""Seconds between two looks at something that fails, unless the watcher's own interval is longer."""


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


class FlowRunnerWatcher(BaseEventTrigger):
    """Tells an asset of each new thing at a far side, which it only observes.

    An event is written down before it is handed to Airflow and settled some seconds later. A triggerer that is
    killed in between repeats it, with the same ``id``, and never loses it. Errors are logged and waited out,
    longer each time. The asset's state store belongs to one asset: give each watcher a ``name`` of its own.

    :param name: tells apart two watchers of the same thing; it is part of Airflow's identity of the watcher.
    :param poll_interval: seconds between two looks.
    """

    action: ClassVar[str] = ""

    returns: ClassVar[Any] = None
    """The dataclass whose JSON form an event is, for the catalogue."""

    settle: ClassVar[float] = SETTLE

    def __init__(self, *, name: str = "", poll_interval: float = 60.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.name = name
        self.poll_interval = poll_interval

    def arguments(self) -> dict[str, Any]:
        """The subclass's own constructor arguments: JSON values, connection ids, never secrets."""
        return {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = {"name": self.name, "poll_interval": self.poll_interval}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**own, **self.arguments()}

    async def look(self, cursor: Json) -> Seen:
        """One look, without side effects.

        :param cursor: of the last look that is settled; None at first.
        :raises FlowRunnerError: when it cannot be seen; nothing is told, and the next look starts from there again.
        """
        raise ConfigError(f"{type(self).__name__} looks at nothing", field="trigger")

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield events for ever; ``payload`` is one of :attr:`Seen.events`."""
        memory, failures, told = _Memory(self), 0, 0
        spoke_at = SYSTEM_CLOCK.monotonic()
        while True:
            seen = await aoutcome_of(self._looked(memory))
            if isinstance(seen, FlowRunnerError):
                failures += 1
                await self._wait_out(failures, seen)
                continue
            failures = 0
            for event in seen.events:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            told += len(seen.events)
            if seen.events:
                await apause(self.settle)
                await self._settled(memory, seen)
            if seen.events or SYSTEM_CLOCK.monotonic() - spoke_at >= HEARTBEAT:
                spoke_at = SYSTEM_CLOCK.monotonic()
                self.log.info("Watching: %d told now, %d since the start.", len(seen.events), told)
            await apause(0.0 if seen.more else self.poll_interval)

    async def _looked(self, memory: _Memory) -> Seen:
        if (begun := await memory.begun()) is not None:
            return begun
        seen = await self.look(memory.cursor)
        if seen.events:
            await memory.begin(seen)
        elif seen.cursor != memory.cursor:
            await memory.settle(seen.cursor)
        return seen

    async def _settled(self, memory: _Memory, seen: Seen) -> None:
        """Until the record says so, nothing else is told: otherwise a restart would repeat what is long done."""
        failures = 0
        while True:
            try:
                await memory.settle(seen.cursor)
            except FlowRunnerError as error:
                failures += 1
                await self._wait_out(failures, error)
            else:
                return

    async def _wait_out(self, failures: int, error: FlowRunnerError) -> None:
        cap = max(LONGEST_WAIT, self.poll_interval)
        backoff = Backoff(base=self.poll_interval, cap=cap)
        seconds = max(self.poll_interval, backoff.delay(failures, random.Random()))  # noqa: S311 - jitter
        told = redact(str(error))
        self.log.error("Look %d in a row has failed, the next one is in %.0f s: %s", failures, seconds, told)
        await apause(seconds)


class _Store(Protocol):
    async def get(self) -> Any: ...

    async def set(self, value: Json) -> None: ...


class _Memory:
    """The record of a watcher: ``{"cursor": ..., "open": {"events": [...], "cursor": ...}}``.

    While events are open, nobody needs the cursor from before them: it is left out, as cursors may be long.
    """

    def __init__(self, watcher: FlowRunnerWatcher) -> None:
        accessor = getattr(watcher, "asset_state_store", None)
        self._store: _Store = _File(watcher) if accessor is None else _Asset(accessor, watcher)
        self._read = False
        self.cursor: Json = None

    async def begun(self) -> Seen | None:
        """On the first call, what an earlier process may have told and had not settled."""
        if self._read:
            return None
        record = await self._store.get()
        if record is None:
            self._read = True
            return None
        if not isinstance(record, Mapping) or "cursor" not in record:
            raise ConfigError(
                "the state of this watcher is none of ours",
                field="asset state store",
                remedy="delete its entry on the asset's page; it starts afresh then",
            )
        self._read, self.cursor = True, record["cursor"]
        if (opened := record.get("open")) is None:
            return None
        return Seen(events=tuple(opened["events"]), cursor=opened["cursor"])

    async def begin(self, seen: Seen) -> None:
        opened: Json = {"events": list(seen.events), "cursor": seen.cursor}
        await self._store.set({"cursor": None, "open": opened})

    async def settle(self, cursor: Json) -> None:
        await self._store.set({"cursor": cursor})
        self.cursor = cursor


def _identity(watcher: FlowRunnerWatcher) -> str:
    """What the record belongs to: a watcher with another interval goes on where this one was."""
    return fingerprint("watcher", type(watcher).__qualname__, watcher.name, watcher.arguments())


class _Asset:
    """The asset's own store (Airflow 3.3 and later)."""

    def __init__(self, accessor: Any, watcher: FlowRunnerWatcher) -> None:
        self._accessor, self._key = accessor, f"flowrunner.{_identity(watcher)}"

    async def get(self) -> Any:
        return await self._call("get", self._key)

    async def set(self, value: Json) -> None:
        await self._call("set", self._key, value)

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
    """A file below ``[flowrunner] state_path``, for Airflow before 3.3."""

    def __init__(self, watcher: FlowRunnerWatcher) -> None:
        self._files = FileStore(state_path() / "watchers", (_identity(watcher),))

    async def get(self) -> Any:
        return await asyncio.to_thread(self._files.get, "watcher")

    async def set(self, value: Json) -> None:
        await asyncio.to_thread(self._files.set, "watcher", value)
