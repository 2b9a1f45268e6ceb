"""Effects: acts that must not happen twice, such as a mail sent or a POST.

Before the act an *intent* is written, after it, under a key of its own, the *confirmation* with what the
far side answered: no intent of a zombie hides it. An attempt that finds a confirmation returns the stored
result. One that finds an intent alone does not know whether the act happened, and asks, in this order:

1. the far side, with ``reconcile``: ``Done`` is confirmed, ``NotDone`` is acted again;
2. ``repeatable``: the far side itself recognises the key of a repeated act;
3. the user's ``on_unknown``: ``stop`` (default) raises :class:`OutcomeUnknown`, ``resend`` acts again
   under the same key, ``skip`` takes the act for done.

An ``act`` tells by the class of its error what it knows: :class:`OutcomeUnknown` leaves the intent
standing; any other :class:`FlowRunnerError` says that nothing happened, and withdraws it.
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
    """The far side has it; ``result`` is what the act would have returned."""

    result: Json = None


@dataclass(frozen=True)
class NotDone:
    """The far side is known not to have it."""


@dataclass(frozen=True)
class Unknown:
    """Nobody can tell; a look-up that failed is this, never :class:`NotDone`."""

    reason: str = ""
    temporary: bool = False
    """True when a later look-up may tell, e.g. because this one timed out."""


Reconciled = Done | NotDone | Unknown


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What was announced.

    :param key: the effect's key, the same in every attempt.
    :param at: when it was first announced, ISO 8601 in UTC: the far side has nothing older.
    """

    key: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One act.

    :param name: unique within the task.
    :param fingerprint: of what would be sent; a different one under the same key is refused.
    :param seconds: the longest the act can take; an intent older than that is no longer in flight.
    :param repeatable: the far side recognises a repeated key.
    :param on_unknown: what to do when nobody can tell whether it happened.
    """

    name: str
    fingerprint: str
    seconds: float
    repeatable: bool = False
    on_unknown: OnUnknown = "stop"


@dataclass
class _UnderWay:
    """An act that has been announced, and the time from which its announcement is too old to begin anything on."""

    effect: Effect
    intent: Intent
    stale_at: float


_UNDER_WAY: ContextVar[_UnderWay | None] = ContextVar("flowrunner_act_under_way", default=None)


class Effects:
    """The ledger of one task instance.

    :param journal: where it is kept.
    :param scope: what names the task instance: dag, run, task and map index, never the try number.
    :param lease: fences an older attempt that is still alive.
    """

    def __init__(self, journal: Journal, scope: tuple[str, ...], lease: Lease, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._journal, self._scope, self._lease, self._clock = journal, scope, lease, clock

    def key(self, name: str) -> str:
        """The effect's key: 40 hex digits, the same in every attempt, another after a wished re-run."""
        parts = (*self._scope, str(self._journal.generation), name)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]

    async def perform(
        self,
        effect: Effect,
        act: Callable[[Intent], Awaitable[Json]],
        reconcile: Callable[[Intent], Awaitable[Reconciled]] | None = None,
    ) -> Any:
        """Do ``act`` once over all attempts and return its (JSON) result.

        :raises OutcomeUnknown: when an earlier attempt may have done it and nobody can tell.
        :raises PermanentError: when an earlier attempt did it with another fingerprint.
        :raises Unavailable: while another attempt that may be alive has it in flight.
        :raises Fenced: when a newer attempt has taken over.
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
        """What the ledger says of an effect: ``state`` is intended, withdrawn or confirmed; None before the first."""
        intended = self._journal.read("effect", name)
        return intended and (self._journal.read("confirmed", name) or intended)

    def renew(self) -> None:
        """Before a request of an act: announce it again when the announcement gets old.

        A worker that slept in between would otherwise act after another attempt has taken its time for over.

        :raises Fenced: when that has happened.
        """
        act = _UNDER_WAY.get()
        if act is not None and self._clock.now().timestamp() >= act.stale_at:
            act.stale_at = self._announce(act.effect, act.intent)

    def _open(self, effect: Effect) -> Done | tuple[Intent, bool]:
        """What earlier attempts left: a result, or the intent and whether it is in doubt."""
        record = self.record(effect.name)
        now = self._clock.now()
        if record is None or record["state"] == "withdrawn":
            return Intent(key=self.key(effect.name), at=now.isoformat()), False
        if record["fingerprint"] != effect.fingerprint:
            raise PermanentError(
                f"effect {effect.name!r} was {record['state']} by an earlier attempt with other content",
                remedy="keep clocks and try numbers out of the content, or start a new run",
            )
        if record["state"] == "confirmed":
            if "result" not in record:
                raise PermanentError(
                    f"effect {effect.name!r} is done, but its answer was too large to keep for this retry",
                    remedy="read the answer from the far side, and have it saved to storage in future",
                )
            return Done(record["result"])
        holder = Owner.from_json(record["owner"])
        left = record["until"] - now.timestamp()
        if holder.token != self._lease.owner.token and left > 0 and not holder.known_dead():
            raise Unavailable(
                f"another attempt of this task may be in the middle of {effect.name!r} for the next {left:.0f} s",
                retry_after=left,
                remedy="nothing to do: it waits",
            )
        return Intent(key=record["key"], at=record["at"]), True

    def _settle(self, effect: Effect, intent: Intent, found: Reconciled) -> Done | None:
        """What becomes of a doubtful intent: a result, or None when the act is to be done (again)."""
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
        """Say that the act begins; returns until when its requests may: each is answered within half of its time."""
        self._lease.check()
        failpoint(f"effect.{effect.name}.before_intent")
        until = self._clock.now().timestamp() + effect.seconds
        self._write("effect", effect, intent, "intended", until=until)
        failpoint(f"effect.{effect.name}.after_intent")
        self._lease.check()
        return until - effect.seconds / 2

    @contextlib.contextmanager
    def _acting(self, effect: Effect, intent: Intent, stale_at: float) -> Iterator[None]:
        before = _UNDER_WAY.set(_UnderWay(effect, intent, stale_at))
        try:
            yield
        except (OutcomeUnknown, asyncio.CancelledError):
            self._lease.check()
            self._write("effect", effect, intent, "intended", until=0.0)  # not in flight: the next need not wait
            raise
        except FlowRunnerError:
            self._lease.check()
            self._journal.write("effect", effect.name, {"state": "withdrawn", "fingerprint": effect.fingerprint})
            raise
        finally:
            _UNDER_WAY.reset(before)
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
"""An answer above this is not kept in the ledger; results are meant to be small."""
