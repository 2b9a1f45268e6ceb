"""How a shard waits for its next wave: briefly on the worker, then without a slot, and for a limited time."""

from __future__ import annotations

from datetime import timedelta

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.shards.next_wave import RUNNING, Position

__all__ = ["IN_PLACE", "STARTING", "WaveWait"]

IN_PLACE = 20.0
"""Seconds to wait on the worker while the plan's task runs: starting the shard again costs as much."""

STARTING = 5.0
"""Seconds to wait on the worker while the plan's task does not run: it is starting, or it needs this slot."""

_POLL_SECONDS = 1.0
_PAUSE_DIVISOR = 4
_LONGEST_PAUSE = timedelta(minutes=5)


class WaveWait:
    """The wait for one wave. All attempts of the shard share its time limit.

    :param limit: how long to wait for one wave.
    """

    def __init__(self, run: Run, limit: timedelta) -> None:
        self._run, self._limit = run, limit
        self._checkpoint = run.checkpoint("wait")
        self._position = Position(wave=-1)
        self._since = 0.0

    async def on_worker(self, position: Position, state: str) -> bool:
        """Pause for a moment and return True; return False if the slot should be given up instead.

        :param state: the state of the plan's task.
        """
        now = self._run.clock.monotonic()
        if position != self._position:
            self._position, self._since = position, now
        longest = IN_PLACE if state == RUNNING else STARTING
        if now - self._since >= longest or self._run.deadline.remaining() < longest:
            return False
        await apause(_POLL_SECONDS)
        return True

    def remaining(self, position: Position) -> timedelta:
        """Return how long to keep waiting for the wave after ``position``.

        :raises PermanentError: if the time is up. Clearing the task starts a new wait.
        """
        now = self._run.clock.now().timestamp()
        where = [position.generation, position.wave, self._run.journal.max_tries]
        if self._checkpoint.state is None or self._checkpoint.state["where"] != where:
            self._checkpoint.save({"where": where, "since": now}, force=True)
        remaining = timedelta(seconds=self._checkpoint.state["since"] - now) + self._limit
        if remaining <= timedelta(0):
            raise PermanentError(
                f"the plan has published no further files for {self._limit}",
                remedy="check the task of the plan, raise plan_timeout if its listing needs longer, clear this task",
            )
        return remaining

    def pause(self, interval: timedelta, remaining: timedelta) -> timedelta:
        """Return the time until the task is started again; it grows with the time already waited.

        :param interval: the shortest pause.
        :param remaining: the result of :meth:`remaining`.
        """
        waited = self._limit - remaining
        return min(max(interval, min(waited / _PAUSE_DIVISOR, _LONGEST_PAUSE)), remaining)
