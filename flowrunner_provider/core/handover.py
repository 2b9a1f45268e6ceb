"""Messages handed to somebody who cannot take them back: each once over all attempts, as far as the far side helps.

What an interrupted attempt leaves in doubt is settled by what the far side can do: a token that it still recognises
is sent again, a list that it gives is searched, and where it has neither, ``on_unknown`` decides.
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
"""Hands the message over, given its token and when it was first announced; OutcomeUnknown when it may be there."""

Find = Callable[[str, datetime], Awaitable[Json]]
"""Looks for a message that was announced then; None when it is known not to be there."""

_LOOK = "check the far side, then clear the task with on_unknown='resend' or 'skip'"


@dataclass(frozen=True, kw_only=True)
class FarSide:
    """What the receiver's API can do about a repetition. Declared, never tried out.

    :param title: its name for people.
    :param remembers: seconds for which a repeated token is recognised; infinite for ever, 0 never.
    :param reconciles: its list of messages tells whether one was taken.
    :param settle: seconds after a message was announced from which its absence from that list is believed.
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
        """The token of a message that was announced at ``at`` is not recognised any more."""
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
    """Send once over all attempts and return what ``send`` or ``find`` gave; None after ``on_unknown="skip"``.

    :param action: names the failpoints: ``<action>.before_send`` and ``<action>.after_send``.
    :param name: of the effect, unique within the task.
    :param exchange: the longest that one try can take, seconds.
    :raises OutcomeUnknown: when nobody can tell.
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
            error.remedy = _LOOK
            if far.reconciles:  # whoever looks next should not look too soon
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
    """Wait until a request of then has either come into the list, or never will."""
    seconds = far.settle - (run.clock.now() - at).total_seconds()
    if seconds > run.retry.longest(run.deadline):
        raise Unavailable(
            f"a message was interrupted a moment ago; the list of {far.title} may not show it yet",
            retry_after=seconds,
            remedy="nothing to do: it waits",
        )
    await apause(seconds)


async def deliver(run: Run, far: FarSide, send: Send, *, action: str, key: str, at: datetime) -> Json:
    """Send one message, again in place while it is known not to have been taken, or its token is recognised.

    :param key: the token, where the far side knows one.
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
            raise ConnectionLost(error.message, remedy="nothing to do: it is repeated under its token") from error
        except (IntegrityError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise OutcomeUnknown(f"the answer of {far.title} cannot be read", remedy=_LOOK) from error
        failpoint(f"{action}.after_send")
        return sent

    try:
        return await run.retry.acall(once, run.deadline)
    except TransientError:
        if lost is not None:
            raise lost from None
        raise
