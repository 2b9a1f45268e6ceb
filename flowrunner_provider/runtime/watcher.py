"""Base class of all asset watchers: it polls forever, logs its errors, and emits each event once.

Airflow restarts a watcher that ends every two seconds without any message in the UI, so this one does not end. Emitted
events are recorded in the asset's state store (before Airflow 3.3 in a file) and survive the triggerer. Only a watcher
whose asset was taken over by another triggerer ends; Airflow restarts it if it is still needed.
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
"""Seconds after which an emitted event counts as stored; Airflow needs about one."""

HEARTBEAT = 900.0
"""Seconds between two log lines of an idle watcher."""

LONGEST_WAIT = 600.0
"""Longest wait after a failed poll in seconds, unless the watcher's interval is longer."""


class FlowRunnerWatcher(BaseEventTrigger):
    """Emits an asset event for each new item at the far side, which it only observes.

    An event is recorded before it is handed to Airflow and settled some seconds later. A triggerer that is killed in
    between repeats it with the same ``id`` and never loses it. Errors are logged and retried with increasing delay.
    Each asset needs a watcher with its own ``name``.

    :param name: distinguishes two watchers of the same source; part of Airflow's identity of the watcher.
    :param poll_interval: seconds between two polls.
    """

    action: ClassVar[str] = ""

    returns: ClassVar[Any] = None
    """The dataclass of an event, for the catalogue."""

    settle: ClassVar[float] = SETTLE

    def __init__(self, *, name: str = "", poll_interval: float = 60.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.name = name
        self.poll_interval = poll_interval
        self._record: WatchRecord | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the subclass's constructor arguments: JSON values and connection ids, never secrets."""
        return {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = {"name": self.name, "poll_interval": self.poll_interval}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**own, **self.arguments()}

    async def poll(self, cursor: Json) -> Seen:
        """Poll once without side effects.

        :param cursor: of the last settled poll; None at first.
        :raises FlowRunnerError: if polling fails; nothing is emitted and the next poll starts from the same cursor.
        """
        raise ConfigError(f"{type(self).__name__} does not implement poll()", field="trigger")

    @property
    def _identity(self) -> str:
        """Identity of the record; changing the interval keeps it."""
        return fingerprint("watcher", type(self).__qualname__, self.name, self.arguments())

    @property
    def epoch(self) -> int:
        """Number of takeovers, for polls that keep state outside the record."""
        return 0 if self._record is None else self._record.epoch

    async def assure(self) -> None:
        """Check ownership; to be called by a poll before it writes outside the record.

        :raises Superseded: another triggerer has taken over; a poll must not catch this.
        """
        if self._record is not None:
            await self._record.assure()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield events until another triggerer takes over; ``payload`` is one of :attr:`Seen.events`."""
        record = WatchRecord(getattr(self, "asset_state_store", None), self._identity)
        failures, emitted = 0, 0
        self._record = record
        logged_at = SYSTEM_CLOCK.monotonic()
        while True:
            seen = await aoutcome_of(self._poll(record))
            if isinstance(seen, FlowRunnerError):
                failures += 1
                await self._wait_after_error(failures, seen)
                continue
            if seen is None:
                break
            failures = 0
            for event in seen.events:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            emitted += len(seen.events)
            if seen.events:
                await apause(self.settle)
                if not await self._settle(record, seen):
                    break
            if seen.events or SYSTEM_CLOCK.monotonic() - logged_at >= HEARTBEAT:
                logged_at = SYSTEM_CLOCK.monotonic()
                self.log.info("Watching: emitted %d now, %d since the start.", len(seen.events), emitted)
            await apause(0.0 if seen.more else self.poll_interval)
        self.log.warning(
            "Another triggerer has taken over. This watcher ends; Airflow restarts it if it is still needed."
        )
        # Airflow cancels an unwanted watcher within seconds. A wanted one takes over again later: two watchers that
        # both believe to be wanted must leave each other time for a poll.
        await apause(max(self.settle, self.poll_interval))

    async def _poll(self, record: WatchRecord) -> Seen | None:
        """Return the recorded events to emit; None if another watcher has taken over."""
        try:
            if (begun := await record.begun()) is not None:
                return begun
            seen = await self.poll(record.cursor)
            if seen.events:
                await record.begin(seen)
            elif seen.cursor != record.cursor:
                await record.settle(seen.cursor)
        except Superseded:
            return None
        return seen

    async def _settle(self, record: WatchRecord, seen: Seen) -> bool:
        """Retry until the record is settled; emitting anything else before would repeat old events after a restart.

        :return: whether this watcher continues.
        """
        failures = 0
        while True:
            try:
                await record.settle(seen.cursor)
            except Superseded:
                return False
            except FlowRunnerError as error:
                failures += 1
                await self._wait_after_error(failures, error)
            else:
                return True

    async def _wait_after_error(self, failures: int, error: FlowRunnerError) -> None:
        cap = max(LONGEST_WAIT, self.poll_interval)
        backoff = Backoff(base=self.poll_interval, cap=cap)
        seconds = max(self.poll_interval, backoff.delay(failures, random.Random()))  # noqa: S311 - jitter
        self.log.error("Poll failed %d times in a row, next one in %.0f s: %s", failures, seconds, redact(str(error)))
        await apause(seconds)
