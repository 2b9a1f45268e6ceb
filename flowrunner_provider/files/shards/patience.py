"""How long a shard waits for its next wave: in place for a moment, then off the worker's slot, and not for ever."""

from __future__ import annotations

from datetime import timedelta

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.shards.look import RUNNING, Place

__all__ = ["IN_PLACE", "STARTING", "Patience"]

IN_PLACE = 20.0
"""Seconds for which a wave that is being made is waited for on the worker: a new start costs as much."""

STARTING = 5.0
"""Seconds for which a plan is waited for there that does not run: it starts beside this shard, or needs its slot."""

_POKE = 1.0
_PART = 4
_LONGEST_PAUSE = timedelta(minutes=5)


class Patience:
    """The patience of one attempt; over all attempts it has one end.

    :param longest: for one wave.
    """

    def __init__(self, run: Run, longest: timedelta) -> None:
        self._run, self._longest = run, longest
        self._checkpoint = run.checkpoint("wait")
        self._place = Place(wave=-1)
        self._since = 0.0

    async def in_place(self, place: Place, state: str) -> bool:
        """Wait a moment; False if the slot is to be given up.

        :param state: of the task of the plan.
        """
        now = self._run.clock.monotonic()
        if place != self._place:
            self._place, self._since = place, now
        longest = IN_PLACE if state == RUNNING else STARTING
        if now - self._since >= longest or self._run.deadline.remaining() < longest:
            return False
        await apause(_POKE)
        return True

    def left(self, place: Place) -> timedelta:
        """For how long the wave behind ``place`` may still be waited for.

        :raises PermanentError: if that is over; clearing the task begins anew.
        """
        now = self._run.clock.now().timestamp()
        where = [place.generation, place.wave, self._run.journal.max_tries]
        if self._checkpoint.state is None or self._checkpoint.state["where"] != where:
            self._checkpoint.save({"where": where, "since": now}, force=True)
        left = timedelta(seconds=self._checkpoint.state["since"] - now) + self._longest
        if left <= timedelta(0):
            raise PermanentError(
                f"the plan has given no further files for {self._longest}",
                remedy="look at the task of the plan; raise plan_timeout if it has so much to list, and clear this one",
            )
        return left

    def pause(self, interval: timedelta, left: timedelta) -> timedelta:
        """For how long not to be started again: who has waited long already need not look so often.

        :param interval: the shortest pause.
        :param left: as :meth:`left` says.
        """
        waited = self._longest - left
        return min(max(interval, min(waited / _PART, _LONGEST_PAUSE)), left)
