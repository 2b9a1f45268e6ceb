"""The run: everything that a connector's pure function needs from outside, in one argument."""

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

_RETRY_AFTER_SIGTERM = 30.0
"""Seconds; longer than any wait in place."""


@dataclass(kw_only=True)
class Run:
    """One attempt of one task.

    :param deadline: time limit of the attempt.
    :param journal: state that survives the attempt.
    :param effects: ledger of acts that must not happen twice.
    :param lease: this attempt's claim on the task.
    :param scope: DAG, run, task and map index, which identify the task instance in every attempt.
    :param retry: when to repeat a step in place.
    :param pacer: the connection's rate limit.
    :param patience: longest wait for the rate limit in seconds; a longer wait gives up the worker slot.
    :param resume: False ignores checkpoints (never the ledger of effects).
    :param sinks: receivers of progress events.
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
    _ends_early: bool = field(default=False, init=False)

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
        """Start an attempt: take the lease, then read the journal.

        :param store: the task's state store.
        :param max_tries: Airflow's ``ti.max_tries``.
        :param timeout: time limit of the attempt in seconds.
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
        """Return a run outside Airflow with an in-memory journal, for tests, scripts and connection tests."""
        return cls.open(MemoryStore(), ("alone", "alone", "alone", "-1"), **more)

    def checkpoint(self, name: str, identity: str = "") -> Checkpoint:
        """Return the checkpoint ``name``; ``identity`` is the fingerprint of the work that it belongs to."""
        return Checkpoint(
            self.journal,
            name,
            identity=identity,
            resume=self.resume,
            guard=self.lease.check,
            clock=self.clock,
        )

    def progress(self, step: str, *, unit: str, total: int | None = None, start: int = 0) -> Progress:
        """Start counting a step of the work."""
        return Progress(step, unit=unit, total=total, start=start, sinks=self.sinks, clock=self.clock)

    async def paced(self) -> None:
        """Wait until the rate limit, and any Retry-After of the far side, allow one more request.

        :raises Throttled: if the wait is too long for a worker slot, or this attempt is being terminated.
        :raises Fenced: if the act that the request belongs to is overdue and another attempt has taken over.
        """
        self._check_not_ending()
        if self._quiet_until:
            self._retry_after_left()
        longest = min(self.patience, self.deadline.remaining())
        seconds = self.pacer.reserve(1, longest)
        if seconds > longest:
            raise Throttled(
                "the connection's own rate limit is used up",
                retry_after=seconds,
                remedy="nothing to do: the retry waits for it",
            )
        if seconds > 0:
            await apause(seconds)
        while self._quiet_until and (seconds := self._retry_after_left()) > 0:  # extended meanwhile
            await apause(seconds)
        self._check_not_ending()
        self.effects.renew()

    def begin_no_more(self) -> None:
        """Refuse new requests, because the attempt is being terminated; requests in flight may finish."""
        self._ends_early = True

    def _check_not_ending(self) -> None:
        if self._ends_early:
            raise Throttled(
                "the task was terminated (SIGTERM) before its work was done",
                retry_after=_RETRY_AFTER_SIGTERM,
                remedy="nothing to do: the next attempt goes on where this one stopped",
            )

    def _retry_after_left(self) -> float:
        """Return the remaining seconds of the far side's Retry-After."""
        seconds = self._quiet_until - self.clock.monotonic()
        if seconds > self.retry.longest(self.deadline):
            raise Throttled(
                "the far side is throttling", retry_after=seconds, remedy="nothing to do: the retry waits for it"
            )
        return seconds

    def hold(self, seconds: float) -> None:
        """Start no request for ``seconds``, in this run and in all others that share the pacer."""
        self._quiet_until = max(self._quiet_until, self.clock.monotonic() + seconds)
        self.pacer.hold(seconds)
