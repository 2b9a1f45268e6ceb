"""An attempt's right to go on, and what becomes of an upload that does not get its name.

The scheduler may take an attempt for dead that only hangs, and start the next one. The older one finds out when it
asks. Until then it has begun, or goes on with, files that are the newer one's: what it leaves then must neither stay
for ever nor be taken away from under the newer one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, PermanentError, Unavailable
from flowrunner_provider.core.run import Run

__all__ = ["ASK_EVERY", "Guard", "Unnamed"]

ASK_EVERY = 1.0
"""Seconds between two questions to the state store, which are calls over the network."""


class Unnamed(Protocol):
    """The ends of an :class:`~flowrunner_provider.files.store.Upload` without a name."""

    async def discard(self) -> None: ...

    async def withdraw(self) -> None: ...


class Guard:
    """Asks whether a newer attempt has taken over."""

    def __init__(self, run: Run) -> None:
        self._run, self._lost = run, False
        self._asked_at = self._seen_at = run.clock.monotonic()

    def check(self) -> None:
        """Stop if a newer attempt has taken over; asked at most once a second, so always after a longer standstill."""
        self._ask_if(self._asked_at)

    def check_awake(self) -> None:
        """Stop if a newer attempt has taken over while this one stood still: for what is done all the time."""
        self._ask_if(self._seen_at)

    def _ask_if(self, since: float) -> None:
        now = self._seen_at = self._run.clock.monotonic()
        if self._lost or now - since >= ASK_EVERY:
            self.check_now()
            self._asked_at = now

    def check_now(self) -> None:
        """Stop if a newer attempt has taken over."""
        try:
            self._run.lease.check()
        except Fenced:
            self._lost = True
            raise

    async def let_go(self, upload: Unnamed, error: BaseException, *, keep: bool = True) -> None:
        """An upload has failed: remove what it has written, unless a later attempt goes on with it.

        Of an attempt that has been succeeded everything goes once the newer one has finished; before, only what that
        one cannot have.

        :param keep: later attempts go on after an error that they may mend.
        :raises Unavailable: when the upload was taken from an attempt that is the newest all the same, by an older one
            which had not asked yet.
        """
        ends = isinstance(error, PermanentError | ConfigError) or not keep
        if not (ends or self._lost):
            return
        with suppress(FlowRunnerError):
            if self._nobody_writes():
                await upload.discard()
            else:
                await upload.withdraw()
        if isinstance(error, Fenced) and not self._lost:
            raise Unavailable(
                "an older attempt of this task has got in between", remedy="nothing to do: it is tried again"
            ) from error

    def _nobody_writes(self) -> bool:
        """Whether it is certain that no newer attempt is at work."""
        try:
            self.check_now()
        except Fenced:
            return self._run.journal.finished_by_now()
        except FlowRunnerError:
            return False
        return True
