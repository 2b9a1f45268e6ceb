"""The run: everything a connector's pure function needs from the outside, in one argument."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flowrunner_provider.core.checkpoint import Checkpoint
from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock, Deadline
from flowrunner_provider.core.effects import Effects
from flowrunner_provider.core.errors import Throttled
from flowrunner_provider.core.journal import Journal, KeyValue, MemoryStore
from flowrunner_provider.core.lease import Lease, Owner
from flowrunner_provider.core.progress import Progress, Sink
from flowrunner_provider.core.rate_limit import Pacer, Unlimited
from flowrunner_provider.core.retry import RetryPlan, apause

__all__ = ["Run"]

_AFTER_END = 30.0
"""Seconds until the next attempt: longer than a wait in place."""


@dataclass(kw_only=True)
class Run:
    """One attempt of one task.

    :param deadline: by when the work must be done.
    :param journal: what survives the attempt.
    :param effects: the ledger of acts that must not happen twice.
    :param lease: this attempt's claim on the task.
    :param scope: dag, run, task and map index: what names the task instance in every attempt.
    :param retry: when a step is repeated in place.
    :param pacer: the connection's rate limit.
    :param patience: the longest wait for the rate limit, seconds; beyond it the task gives its slot up.
    :param resume: False to ignore checkpoints (never the ledger of effects).
    :param sinks: who is told about progress.
    """

    deadline: Deadline
    journal: Journal
    effects: Effects
    lease: Lease
    scope: tuple[str, ...]
    retry: RetryPlan = field(default_factory=RetryPlan)
    pacer: Pacer = field(default_factory=Unlimited)
    clock: Clock = SYSTEM_CLOCK
    patience: float = 60.0
    resume: bool = True
    sinks: Sequence[Sink] = ()
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("flowrunner"))
    _quiet_until: float = field(default=0.0, init=False)
    _ending: bool = field(default=False, init=False)

    @classmethod
    def open(
        cls,
        store: KeyValue,
        scope: tuple[str, ...],
        *,
        max_tries: int = 0,
        timeout: float = 3600.0,
        clock: Clock = SYSTEM_CLOCK,
        **more: Any,
    ) -> Run:
        """Begin an attempt: take the lease, then read the journal.

        :param store: the task's state store.
        :param max_tries: Airflow's ``ti.max_tries``.
        :param timeout: seconds for the whole attempt.
        """
        lease = Lease(store, Owner.me())
        lease.take()
        journal = Journal(store, max_tries=max_tries)
        return cls(
            deadline=Deadline(timeout, clock),
            journal=journal,
            effects=Effects(journal, scope, lease, clock=clock),
            lease=lease,
            scope=scope,
            clock=clock,
            **more,
        )

    @classmethod
    def alone(cls, **more: Any) -> Run:
        """A run outside Airflow, whose journal is forgotten at the end: for tests and for scripts."""
        return cls.open(MemoryStore(), ("alone", "alone", "alone", "-1"), **more)

    def checkpoint(self, name: str, identity: str = "") -> Checkpoint:
        """The cursor ``name``; ``identity`` is the fingerprint of the work that it belongs to."""
        return Checkpoint(
            self.journal,
            name,
            identity=identity,
            resume=self.resume,
            guard=self.lease.check,
            clock=self.clock,
        )

    def progress(self, step: str, *, unit: str, total: int | None = None, start: int = 0) -> Progress:
        """Begin to count a step of the work."""
        return Progress(step, unit=unit, total=total, start=start, sinks=self.sinks, clock=self.clock)

    async def paced(self) -> None:
        """Wait until the connection's rate limit lets one more request start, and nobody asks for silence.

        :raises Throttled: when the wait is longer than is worth a worker slot, or this attempt is being ended.
        :raises Fenced: when the act that the request belongs to has had its time, and another attempt has taken over.
        """
        self._may_begin()
        if self._quiet_until:
            self._silence()
        longest = min(self.patience, self.deadline.remaining())
        seconds = self.pacer.reserve(1, longest)
        if seconds > longest:
            raise Throttled(
                "the connection's own rate limit is used up", retry_after=seconds, remedy="nothing to do: it waits"
            )
        if seconds > 0:
            await apause(seconds)
        while self._quiet_until and (seconds := self._silence()) > 0:  # it may have begun while this one waited
            await apause(seconds)
        self._may_begin()
        self.effects.renew()

    def begin_no_more(self) -> None:
        """This attempt is being ended: requests under way may finish, no other begins."""
        self._ending = True

    def _may_begin(self) -> None:
        if self._ending:
            raise Throttled(
                "the task was told to end (SIGTERM) before its work was done",
                retry_after=_AFTER_END,
                remedy="nothing to do: the next attempt goes on with what this one has done",
            )

    def _silence(self) -> float:
        """Seconds for which the far side still asks for silence."""
        seconds = self._quiet_until - self.clock.monotonic()
        if seconds > self.retry.longest(self.deadline):
            raise Throttled("the far side asks for silence", retry_after=seconds, remedy="nothing to do: it waits")
        return seconds

    def hold(self, seconds: float) -> None:
        """The far side asks for silence: nobody who shares the pace starts a request for ``seconds``,
        nor does anybody in this run who has waited for the pace already."""
        self._quiet_until = max(self._quiet_until, self.clock.monotonic() + seconds)
        self.pacer.hold(seconds)
