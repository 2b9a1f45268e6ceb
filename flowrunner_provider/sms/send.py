"""Messages to many numbers, each sent once over all attempts of the task.

Every message is an effect of its own: announced before it is handed over, confirmed with the vendor's id. What an
interrupted attempt leaves in doubt is settled by what the vendor can do: a token that it still recognises is sent
again, a list that it gives is searched, and where it has neither, ``on_unknown`` decides.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Done, Effect, Intent, NotDone, OnUnknown, Reconciled, Unknown
from flowrunner_provider.core.errors import (
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    OutcomeUnknown,
    PartialFailure,
    Rejected,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.sms.gateway import Gateway, Sent, Text
from flowrunner_provider.sms.recipients import Letters
from flowrunner_provider.sms.results import SmsResult

__all__ = ["Rules", "deliver", "send_all"]

_LOST = 3
"""Answers lost in one attempt after which no further message is begun: it is the way and not the message."""

_SHOWN = 20
_LOOK = "look for them at the vendor; then clear the task with on_unknown='resend' or 'skip'"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How messages are sent.

    :param settle: seconds after a lost answer from which the vendor's list is believed.
    :param concurrency: messages in flight.
    """

    on_unknown: OnUnknown = "stop"
    settle: float = 45.0
    concurrency: int = 4


async def send_all(gateway: Gateway, letters: Letters, rules: Rules, run: Run) -> SmsResult:
    """Send every message that no earlier attempt has sent.

    :raises PartialFailure: when rows were refused; the others have their message.
    :raises OutcomeUnknown: when nobody can tell of some rows.
    :raises TransientError: when the vendor, or the pace, asks for a wait that is not worth a worker slot.
    """
    return await _Sending(gateway, letters, rules, run).work()


class _Sending:
    def __init__(self, gateway: Gateway, letters: Letters, rules: Rules, run: Run) -> None:
        self.gateway, self.letters, self.rules, self.run = gateway, letters, rules, run
        self.sent: dict[int, Sent] = {}
        self.refused: dict[int, str] = dict(letters.invalid)
        self.unknown: dict[int, OutcomeUnknown | None] = {}
        self.waiting = deque(letters.texts.items())
        self.stopped: FlowRunnerError | None = None
        self.lost = 0

    async def work(self) -> SmsResult:
        self.progress = self.run.progress("send", unit="messages", total=len(self.letters.texts))
        workers = [asyncio.create_task(self._worker()) for _ in range(self.rules.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        self.progress.finish()
        return self._end()

    async def _worker(self) -> None:
        """One message after the other; an error that is not about one message ends the work of all."""
        while self.waiting and self.stopped is None and self.lost < _LOST:
            index, text = self.waiting.popleft()
            try:
                await self._one(index, text)
            except FlowRunnerError as error:
                self.stopped = self.stopped or error
                return
            self.progress.advance()

    async def _one(self, index: int, text: Text) -> None:
        run, gateway = self.run, self.gateway
        tries = run.retry.attempts
        effect = Effect(
            name=f"sms.send.{index}",
            fingerprint=fingerprint(text.channel, text.sender, text.number, text.body),
            seconds=run.deadline.limit(tries * (gateway.http.settings.timeout + run.retry.in_place + run.patience)),
            on_unknown=self.rules.on_unknown,
        )

        async def act(intent: Intent) -> Any:
            return asdict(await self._hand_over(text, intent))

        try:
            answer = await run.effects.perform(effect, act, lambda intent: self._look(text, intent))
        except OutcomeUnknown as error:
            self.unknown[index] = error
            self.lost += 1
        except Rejected as error:
            self.refused[index] = error.message
        else:
            if answer is None:  # on_unknown='skip'
                self.unknown[index] = None
            else:
                self.sent[index] = Sent(**answer)

    async def _hand_over(self, text: Text, intent: Intent) -> Sent:
        key, at = intent.key, datetime.fromisoformat(intent.at)
        if self._forgotten(at):  # on_unknown='resend': a new message for the vendor
            key, at = key[::-1], self.run.clock.now()
        return await deliver(self.gateway, text, self.run, key=key, at=at)

    def _forgotten(self, at: datetime) -> bool:
        memory = self.gateway.capabilities.remembers
        return bool(memory) and self.run.clock.now() - at > timedelta(seconds=memory)

    async def _look(self, text: Text, intent: Intent) -> Reconciled:
        """What became of a message that an earlier attempt has announced."""
        capabilities, at = self.gateway.capabilities, datetime.fromisoformat(intent.at)
        if capabilities.remembers:
            return Unknown("the vendor has forgotten the token") if self._forgotten(at) else NotDone()
        if not capabilities.reconciles:
            return Unknown(f"{capabilities.title} cannot be asked")
        await self._settled(at)
        try:
            found = await self.gateway.find(text, at, {sent.message_id for sent in self.sent.values()})
        except FlowRunnerError as error:
            return Unknown(f"the look-up failed: {error.message}", temporary=isinstance(error, TransientError))
        return NotDone() if found is None else Done(asdict(found))

    async def _settled(self, at: datetime) -> None:
        """Wait until a request of then has either come into the vendor's list, or never will."""
        seconds = self.rules.settle - (self.run.clock.now() - at).total_seconds()
        if seconds > self.run.retry.longest(self.run.deadline):
            raise Unavailable(
                "a message was interrupted a moment ago; the vendor's list may not show it yet",
                retry_after=seconds,
                remedy="nothing to do: it waits",
            )
        await apause(seconds)

    # The end

    def _end(self) -> SmsResult:
        if self.stopped is not None:
            raise self.stopped
        if self.unknown and self.rules.on_unknown != "skip":
            raise self._in_doubt()
        if self.refused or self.waiting:
            raise self._partial()
        rows = sorted(self.sent)
        return SmsResult(
            vendor=self.gateway.capabilities.title,
            recipients=self.letters.rows,
            sent=len(rows),
            duplicates=self.letters.duplicates,
            unknown=len(self.unknown),
            segments=sum(self.sent[row].segments or self.letters.texts[row].segments for row in rows),
            message_ids=[self.sent[row].message_id for row in rows],
        )

    def _in_doubt(self) -> OutcomeUnknown:
        rows = sorted(self.unknown)
        errors = [error for error in self.unknown.values() if error is not None]
        capabilities = self.gateway.capabilities
        later = capabilities.reconciles or bool(capabilities.remembers) or self.rules.on_unknown == "resend"
        rest = f"; {len(self.waiting)} were not tried" if self.waiting else ""
        return OutcomeUnknown(
            f"{len(rows)} of {self.letters.rows} messages may or may not have been sent: rows {_named(rows)}{rest}; "
            f"the first: {errors[0].message}",
            effect_key=errors[0].effect_key,
            reconcilable=later and any(error.reconcilable for error in errors),
            remedy=_LOOK,
        )

    def _partial(self) -> PartialFailure:
        rows = sorted(self.refused)
        failed = {str(row): self.refused[row] for row in rows}
        first = "; ".join(f"row {row}: {why}" for row, why in list(failed.items())[:3])
        return PartialFailure(
            f"{len(rows)} of {self.letters.rows} messages were refused: {first}",
            done=len(self.sent),
            failed=dict(list(failed.items())[:_SHOWN]),
            retryable=bool(self.waiting),
            remedy="the others have their message; start a new run with these rows, corrected",
        )


async def deliver(gateway: Gateway, text: Text, run: Run, *, key: str, at: datetime) -> Sent:
    """Hand one message over, again in place while it is known not to have been taken, or its token is recognised.

    :param key: the token, where the vendor knows one.
    :param at: when it was first announced.
    """
    lost: OutcomeUnknown | None = None

    async def once() -> Sent:
        nonlocal lost
        failpoint("sms.send.before_send")
        try:
            sent = await gateway.send(text, key, at)
        except OutcomeUnknown as error:
            if not (gateway.capabilities.remembers and error.reconcilable):
                raise
            lost = error
            raise ConnectionLost(error.message, remedy="nothing to do: it is repeated under its token") from error
        except (IntegrityError, LookupError, TypeError, ValueError) as error:
            raise OutcomeUnknown(f"the answer of {gateway.capabilities.title} cannot be read", remedy=_LOOK) from error
        failpoint("sms.send.after_send")
        return sent

    try:
        return await run.retry.acall(once, run.deadline)
    except TransientError:
        if lost is not None:
            raise lost from None
        raise


def _named(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
