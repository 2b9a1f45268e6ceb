"""The base of every asset watcher: it looks for ever, never dies silently, and tells each thing once.

Airflow restarts a watcher that ends, every two seconds and without a word in the UI; so this one does not end.
What it has told is kept in the asset's state store (before Airflow 3.3 in a file), and survives the triggerer. Only
one that finds that another triggerer has taken over ends: Airflow starts it again if it is still wanted here.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, Json
from flowrunner_provider.core.retry import Backoff, apause
from flowrunner_provider.runtime.boundary import aoutcome_of
from flowrunner_provider.runtime.masking import redact
from flowrunner_provider.runtime.watch_record import Seen, Superseded, WatchRecord

__all__ = ["FlowRunnerWatcher", "Seen"]

SETTLE = 10.0
"""Seconds after which an event that was handed over counts as stored: Airflow takes about one."""

HEARTBEAT = 900.0
"""Seconds between two lines in the log of a watcher with nothing to tell."""

LONGEST_WAIT = 600.0
"""Seconds between two looks at something that fails, unless the watcher's own interval is longer."""


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
        self._record: WatchRecord | None = None

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

    @property
    def _identity(self) -> str:
        """What the record belongs to: a watcher with another interval goes on where this one was."""
        return fingerprint("watcher", type(self).__qualname__, self.name, self.arguments())

    @property
    def epoch(self) -> int:
        """How many times this has been taken over, for a look that keeps something outside the record."""
        return 0 if self._record is None else self._record.epoch

    async def assure(self) -> None:
        """To be called by a look before it writes outside the record.

        :raises Superseded: another triggerer has taken over; a look lets this pass.
        """
        if self._record is not None:
            await self._record.assure()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield events until another triggerer takes over; ``payload`` is one of :attr:`Seen.events`."""
        record = WatchRecord(getattr(self, "asset_state_store", None), self._identity)
        failures, told = 0, 0
        self._record = record
        spoke_at = SYSTEM_CLOCK.monotonic()
        while True:
            seen = await aoutcome_of(self._looked(record))
            if isinstance(seen, FlowRunnerError):
                failures += 1
                await self._wait_out(failures, seen)
                continue
            if seen is None:
                break
            failures = 0
            for event in seen.events:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            told += len(seen.events)
            if seen.events:
                await apause(self.settle)
                if not await self._settled(record, seen):
                    break
            if seen.events or SYSTEM_CLOCK.monotonic() - spoke_at >= HEARTBEAT:
                spoke_at = SYSTEM_CLOCK.monotonic()
                self.log.info("Watching: %d told now, %d since the start.", len(seen.events), told)
            await apause(0.0 if seen.more else self.poll_interval)
        self.log.warning("Another triggerer watches this now. This one ends; Airflow starts it again if it is wanted.")
        # Airflow cancels what it does not want here within seconds. What it wants takes over again, a while later:
        # two that both believe that they are wanted must leave each other the time for a look.
        await apause(max(self.settle, self.poll_interval))

    async def _looked(self, record: WatchRecord) -> Seen | None:
        """What is to be told, written down; None when it is another one's to tell."""
        try:
            if (begun := await record.begun()) is not None:
                return begun
            seen = await self.look(record.cursor)
            if seen.events:
                await record.begin(seen)
            elif seen.cursor != record.cursor:
                await record.settle(seen.cursor)
        except Superseded:
            return None
        return seen

    async def _settled(self, record: WatchRecord, seen: Seen) -> bool:
        """Until the record says so, nothing else is told: otherwise a restart would repeat what is long done.

        :return: whether this watcher goes on.
        """
        failures = 0
        while True:
            try:
                await record.settle(seen.cursor)
            except Superseded:
                return False
            except FlowRunnerError as error:
                failures += 1
                await self._wait_out(failures, error)
            else:
                return True

    async def _wait_out(self, failures: int, error: FlowRunnerError) -> None:
        cap = max(LONGEST_WAIT, self.poll_interval)
        backoff = Backoff(base=self.poll_interval, cap=cap)
        seconds = max(self.poll_interval, backoff.delay(failures, random.Random()))  # noqa: S311 - jitter
        told = redact(str(error))
        self.log.error("Look %d in a row has failed, the next one is in %.0f s: %s", failures, seconds, told)
        await apause(seconds)
