"""Hand-over of messages that cannot be taken back: each is sent once over all attempts, as far as the far side supports
it.

An interrupted attempt is resolved by the far side's abilities: a token that it still recognises is sent again, a list
of messages is searched, and without either, ``on_unknown`` decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flowrunner_provider.core.effects import Done, Effect, Intent, NotDone, OnUnknown, Reconciled, Unknown
from flowrunner_provider.core.errors import (
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    Json,
    OutcomeUnknown,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run

__all__ = ["FarSide", "Find", "Send", "deliver", "hand_over"]

Send = Callable[[str, datetime], Awaitable[Json]]
"""Sends the message, given its token and first announcement; raises OutcomeUnknown if it may have arrived."""

Find = Callable[[str, datetime], Awaitable[Json]]
"""Finds a message that was announced at that time; returns None if it is known not to exist."""

_CHECK_FAR_SIDE = "check the far side, then clear the task with on_unknown='resend' or 'skip'"


@dataclass(frozen=True, kw_only=True)
class FarSide:
    """How the receiver's API handles repetitions. Declared, never probed.

    :param title: display name.
    :param remembers: seconds for which a repeated token is recognised; infinite for ever, 0 never.
    :param reconciles: whether its list of messages shows if one was accepted.
    :param settle: seconds after the announcement until a missing entry in that list is conclusive.
    """

    title: str
    remembers: float = 0.0
    reconciles: bool = False
    settle: float = 0.0

    @property
    def helps(self) -> bool:
        """Whether a later attempt can find out more."""
        return self.reconciles or self.remembers > 0

    def forgotten(self, at: datetime, now: datetime) -> bool:
        """Return whether the token of a message announced at ``at`` is no longer recognised."""
        return self.remembers > 0 and (now - at).total_seconds() > self.remembers


async def hand_over(
    run: Run,
    far: FarSide,
    *,
    action: str,
    name: str,
    fingerprint: str,
    exchange: float,
    on_unknown: OnUnknown,
    send: Send,
    find: Find | None = None,
) -> Any:
    """Send once over all attempts; return the result of ``send`` or ``find``, or None after ``on_unknown="skip"``.

    :param action: prefix of the failpoints: ``<action>.before_send`` and ``<action>.after_send``.
    :param name: name of the effect, unique within the task.
    :param exchange: longest duration of one try in seconds.
    :raises OutcomeUnknown: if the outcome cannot be determined.
    """
    tries = run.retry.attempts
    effect = Effect(
        name=name,
        fingerprint=fingerprint,
        seconds=run.deadline.limit(tries * (exchange + run.retry.in_place + run.patience)),
        on_unknown=on_unknown,
    )

    async def act(intent: Intent) -> Any:
        key, at = intent.key, datetime.fromisoformat(intent.at)
        if far.forgotten(at, run.clock.now()):  # on_unknown='resend': a new message for the far side
            key, at = key[::-1], run.clock.now()
        try:
            return await deliver(run, far, send, action=action, key=key, at=at)
        except OutcomeUnknown as error:
            error.effect_key = intent.key
            error.reconcilable = (error.reconcilable and far.helps) or on_unknown != "stop"
            error.remedy = _CHECK_FAR_SIDE
            if far.reconciles:  # the next look-up must not come too soon
                await apause(min(far.settle, run.retry.longest(run.deadline)))
            raise

    async def look(intent: Intent) -> Reconciled:
        at = datetime.fromisoformat(intent.at)
        if far.remembers:
            return Unknown("its token is forgotten") if far.forgotten(at, run.clock.now()) else NotDone()
        if not far.reconciles or find is None:
            return Unknown(f"{far.title} cannot be asked")
        await _settled(run, far, at)
        try:
            found = await find(intent.key, at)
        except FlowRunnerError as error:
            return Unknown(f"the look-up failed: {error.message}", temporary=isinstance(error, TransientError))
        except (LookupError, TypeError, ValueError, AttributeError):
            return Unknown(f"the list of {far.title} cannot be read")
        return NotDone() if found is None else Done(found)

    return await run.effects.perform(effect, act, look)


async def _settled(run: Run, far: FarSide, at: datetime) -> None:
    """Wait until the list shows every request of that time."""
    seconds = far.settle - (run.clock.now() - at).total_seconds()
    if seconds > run.retry.longest(run.deadline):
        raise Unavailable(
            f"a message was interrupted a moment ago; the list of {far.title} may not show it yet",
            retry_after=seconds,
            remedy="nothing to do: the retry waits for it",
        )
    await apause(seconds)


async def deliver(run: Run, far: FarSide, send: Send, *, action: str, key: str, at: datetime) -> Json:
    """Send one message; retry in place if it was not accepted, or its token is recognised.

    :param key: the token, if the far side supports tokens.
    :param at: when it was first announced.
    """
    lost: OutcomeUnknown | None = None

    async def once() -> Json:
        nonlocal lost
        failpoint(f"{action}.before_send")
        try:
            sent = await send(key, at)
        except OutcomeUnknown as error:
            if not (far.remembers and error.reconcilable):
                raise
            lost = error
            raise ConnectionLost(error.message, remedy="nothing to do: it is repeated with its token") from error
        except (IntegrityError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise OutcomeUnknown(f"the answer of {far.title} cannot be read", remedy=_CHECK_FAR_SIDE) from error
        failpoint(f"{action}.after_send")
        return sent

    try:
        return await run.retry.acall(once, run.deadline)
    except TransientError:
        if lost is not None:
            raise lost from None
        raise
