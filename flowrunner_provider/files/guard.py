"""The fencing of an attempt, and what happens to an upload that is not committed.

The scheduler may consider a hanging attempt dead and start the next one. The older attempt notices when it checks its
lease. Until then it may have begun, or resumed, files that now belong to the newer attempt. What it leaves must not
stay forever, and must not be deleted while the newer attempt uses it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, PermanentError, Unavailable
from flowrunner_provider.core.run import Run

__all__ = ["ASK_EVERY", "FencingGuard", "UncommittedUpload"]

ASK_EVERY = 1.0
"""Seconds between two checks, which are calls to the state store."""


class UncommittedUpload(Protocol):
    """The methods of :class:`~flowrunner_provider.files.store.Upload` that end it without a final name."""

    async def discard(self) -> None: ...

    async def withdraw(self) -> None: ...


class FencingGuard:
    """Checks whether a newer attempt has taken over."""

    def __init__(self, run: Run) -> None:
        self._run, self._lost = run, False
        self._asked_at = self._seen_at = run.clock.monotonic()

    def check(self) -> None:
        """Raise ``Fenced`` if a newer attempt has taken over; checked once per second, so always after a long pause."""
        self._ask_if(self._asked_at)

    def check_awake(self) -> None:
        """Like :meth:`check`, but only after this attempt has paused; for calls in tight loops."""
        self._ask_if(self._seen_at)

    def _ask_if(self, since: float) -> None:
        now = self._seen_at = self._run.clock.monotonic()
        if self._lost or now - since >= ASK_EVERY:
            self.check_now()
            self._asked_at = now

    def check_now(self) -> None:
        """Raise ``Fenced`` if a newer attempt has taken over."""
        try:
            self._run.lease.check()
        except Fenced:
            self._lost = True
            raise

    async def clean_up(self, upload: UncommittedUpload, error: BaseException, *, keep: bool = True) -> None:
        """Clean up after a failed upload: delete what it has written, unless a later attempt can resume it.

        If this attempt is fenced, everything is deleted once the newer attempt has finished; before that, only what
        the newer attempt cannot be using.

        :param keep: keep the upload for later attempts if the error is transient.
        :raises Unavailable: if an older attempt, which had not noticed yet that it is fenced, took the upload from
            this one.
        """
        is_final = isinstance(error, PermanentError | ConfigError) or not keep
        if not (is_final or self._lost):
            return
        with suppress(FlowRunnerError):
            if self._nobody_writes():
                await upload.discard()
            else:
                await upload.withdraw()
        if isinstance(error, Fenced) and not self._lost:
            raise Unavailable(
                "an older attempt of this task has interfered", remedy="nothing to do: the task is retried"
            ) from error

    def _nobody_writes(self) -> bool:
        """Return whether certainly no newer attempt is running."""
        try:
            self.check_now()
        except Fenced:
            return self._run.journal.finished_by_now()
        except FlowRunnerError:
            return False
        return True
