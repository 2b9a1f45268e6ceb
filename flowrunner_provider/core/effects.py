"""Effects: actions that must not happen twice, such as sending a mail or a POST.

An *intent* is written before the act. After it, the *confirmation* with the far side's answer is written under a
separate key, so that the intent of a zombie cannot overwrite it. An attempt that finds a confirmation returns the
stored result. An attempt that finds only an intent does not know whether the act happened, and tries, in this order:

1. the far side, with ``reconcile``: ``Done`` is confirmed, ``NotDone`` is acted again;
2. ``repeatable``: the far side deduplicates by key, so the act is repeated;
3. the user's ``on_unknown``: ``stop`` (default) raises :class:`OutcomeUnknown`, ``resend`` acts again under the same
   key, ``skip`` treats the act as done.

An ``act`` reports what it knows by the class of its error: :class:`OutcomeUnknown` keeps the intent; any other
:class:`FlowRunnerError` means that nothing happened, and withdraws it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import (
    FlowRunnerError,
    Json,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.journal import Journal
from flowrunner_provider.core.lease import Lease, Owner

__all__ = ["Done", "Effect", "Effects", "Intent", "NotDone", "OnUnknown", "Reconciled", "Unknown"]

OnUnknown = Literal["stop", "resend", "skip"]


@dataclass(frozen=True)
class Done:
    """The far side has the effect; ``result`` is what the act would have returned."""

    result: Json = None


@dataclass(frozen=True)
class NotDone:
    """The far side is known not to have the effect."""


@dataclass(frozen=True)
class Unknown:
    """The outcome cannot be determined; a failed look-up is this, never :class:`NotDone`."""

    reason: str = ""
    temporary: bool = False
    """True if a later look-up may succeed, e.g. because this one timed out."""


Reconciled = Done | NotDone | Unknown


@dataclass(frozen=True, kw_only=True)
class Intent:
    """An announced effect.

    :param key: the effect's key, the same in every attempt.
    :param at: when it was first announced, ISO 8601 in UTC: the far side has nothing older.
    """

    key: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One act.

    :param name: unique within the task.
    :param fingerprint: of the content; a different fingerprint under the same key is refused.
    :param seconds: the longest the act can take; an older intent is no longer in flight.
    :param repeatable: the far side deduplicates by key.
    :param on_unknown: what to do if the outcome cannot be determined.
    """

    name: str
    fingerprint: str
    seconds: float
    repeatable: bool = False
    on_unknown: OnUnknown = "stop"


@dataclass
class _ActInFlight:
    """An announced act, and the time after which its announcement is too old to start a request."""

    effect: Effect
    intent: Intent
    stale_at: float


_ACT_IN_FLIGHT: ContextVar[_ActInFlight | None] = ContextVar("flowrunner_act_under_way", default=None)


class Effects:
    """The ledger of one task instance.

    :param journal: stores the records.
    :param scope: identifies the task instance: DAG, run, task and map index, never the try number.
    :param lease: fences an older attempt that is still running.
    """

    def __init__(self, journal: Journal, scope: tuple[str, ...], lease: Lease, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._journal, self._scope, self._lease, self._clock = journal, scope, lease, clock

    def key(self, name: str) -> str:
        """Return the effect's key: 40 hex digits, the same in every attempt, new after a deliberate re-run."""
        parts = (*self._scope, str(self._journal.generation), name)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]

    async def perform(
        self,
        effect: Effect,
        act: Callable[[Intent], Awaitable[Json]],
        reconcile: Callable[[Intent], Awaitable[Reconciled]] | None = None,
    ) -> Any:
        """Do ``act`` once over all attempts and return its (JSON) result.

        :raises OutcomeUnknown: if an earlier attempt may have done it and the outcome cannot be determined.
        :raises PermanentError: if an earlier attempt did it with another fingerprint.
        :raises Unavailable: while another attempt that may be alive has it in flight.
        :raises Fenced: if a newer attempt has taken over.
        """
        opened = self._open(effect)
        if isinstance(opened, Done):
            return opened.result
        intent, doubtful = opened
        if doubtful:
            settled = self._settle(effect, intent, await reconcile(intent) if reconcile else Unknown())
            if settled is not None:
                return settled.result
        stale_at = self._announce(effect, intent)
        with self._acting(effect, intent, stale_at):
            result = await act(intent)
        self._confirm(effect, intent, result)
        return result

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the ledger's record of an effect (state intended, withdrawn or confirmed), or None."""
        intended = self._journal.read("effect", name)
        return intended and (self._journal.read("confirmed", name) or intended)

    def renew(self) -> None:
        """Announce the current act again if its announcement gets old; called before each of its requests.

        A worker that was suspended in between would otherwise act after another attempt considers it dead.

        :raises Fenced: if another attempt has taken over.
        """
        act = _ACT_IN_FLIGHT.get()
        if act is not None and self._clock.now().timestamp() >= act.stale_at:
            act.stale_at = self._announce(act.effect, act.intent)

    def _open(self, effect: Effect) -> Done | tuple[Intent, bool]:
        """Return the result of an earlier attempt, or the intent and whether it is in doubt."""
        record = self.record(effect.name)
        now = self._clock.now()
        if record is None or record["state"] == "withdrawn":
            return Intent(key=self.key(effect.name), at=now.isoformat()), False
        if record["fingerprint"] != effect.fingerprint:
            raise PermanentError(
                f"effect {effect.name!r} was {record['state']} by an earlier attempt with different content",
                remedy="remove timestamps and try numbers from the content, or start a new run",
            )
        if record["state"] == "confirmed":
            if "result" not in record:
                raise PermanentError(
                    f"effect {effect.name!r} is done, but its answer was too large to store for this retry",
                    remedy="read the answer from the far side, and use `save_to` in future",
                )
            return Done(record["result"])
        holder = Owner.from_json(record["owner"])
        left = record["until"] - now.timestamp()
        if holder.token != self._lease.owner.token and left > 0 and not holder.known_dead():
            raise Unavailable(
                f"another attempt of this task may be in the middle of {effect.name!r} for the next {left:.0f} s",
                retry_after=left,
                remedy="nothing to do: the retry waits for it",
            )
        return Intent(key=record["key"], at=record["at"]), True

    def _settle(self, effect: Effect, intent: Intent, found: Reconciled) -> Done | None:
        """Resolve a doubtful intent: return its result, or None if the act must be done (again)."""
        if isinstance(found, Done):
            self._confirm(effect, intent, found.result)
            return found
        if isinstance(found, NotDone) or effect.repeatable:
            return None
        if effect.on_unknown == "resend":
            return None
        if effect.on_unknown == "skip":
            self._confirm(effect, intent, None)
            return Done()
        reason = f" ({found.reason})" if found.reason else ""
        raise OutcomeUnknown(
            f"an earlier attempt was interrupted in {effect.name!r}; it may have happened{reason}",
            effect_key=intent.key,
            reconcilable=found.temporary,
            remedy="check the far side, then clear the task with on_unknown='resend' or 'skip'",
        )

    def _announce(self, effect: Effect, intent: Intent) -> float:
        """Announce the act; return until when its requests may start, so that each has half of its time to finish."""
        self._lease.check()
        failpoint(f"effect.{effect.name}.before_intent")
        until = self._clock.now().timestamp() + effect.seconds
        self._write("effect", effect, intent, "intended", until=until)
        failpoint(f"effect.{effect.name}.after_intent")
        self._lease.check()
        return until - effect.seconds / 2

    @contextlib.contextmanager
    def _acting(self, effect: Effect, intent: Intent, stale_at: float) -> Iterator[None]:
        before = _ACT_IN_FLIGHT.set(_ActInFlight(effect, intent, stale_at))
        try:
            yield
        except (OutcomeUnknown, asyncio.CancelledError):
            self._lease.check()
            self._write("effect", effect, intent, "intended", until=0.0)  # no longer in flight: nobody must wait
            raise
        except FlowRunnerError:
            self._lease.check()
            self._journal.write("effect", effect.name, {"state": "withdrawn", "fingerprint": effect.fingerprint})
            raise
        finally:
            _ACT_IN_FLIGHT.reset(before)
        failpoint(f"effect.{effect.name}.after_act")

    def _confirm(self, effect: Effect, intent: Intent, result: Json) -> None:
        kept = {"result": result} if len(json.dumps(result)) < MAX_RESULT_BYTES else {}
        self._write("confirmed", effect, intent, "confirmed", **kept)
        failpoint(f"effect.{effect.name}.after_confirm")

    def _write(self, kind: str, effect: Effect, intent: Intent, state: str, **more: Any) -> None:
        record = {
            "state": state,
            "key": intent.key,
            "at": intent.at,
            "fingerprint": effect.fingerprint,
            "owner": self._lease.owner.to_json(),
            **more,
        }
        self._journal.write(kind, effect.name, record)


MAX_RESULT_BYTES = 32_000
"""Larger answers are not stored in the ledger."""
