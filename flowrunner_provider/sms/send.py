"""Sends messages to many numbers, each exactly once over all attempts of the task.

Each message is an effect: it is announced before it is sent and confirmed with the vendor's id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.core.errors import FlowRunnerError, OutcomeUnknown, PartialFailure, Rejected
from flowrunner_provider.core.handover import FarSide, deliver, hand_over
from flowrunner_provider.core.run import Run
from flowrunner_provider.sms.gateway import Gateway, Sent, Text
from flowrunner_provider.sms.recipients import Letters
from flowrunner_provider.sms.results import SmsResult

__all__ = ["Rules", "send_all", "send_now"]

_ACTION = "sms.send"

_LOST = 3
"""Lost answers in one attempt after which no further message is sent: the network is at fault, not a message."""

_SHOWN = 20
_RECONCILE = "search the vendor's log for them; then clear the task with on_unknown='resend' or 'skip'"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How messages are sent.

    :param settle: seconds after a lost answer until the vendor's list of messages is reliable.
    :param concurrency: number of messages in flight.
    """

    on_unknown: OnUnknown = "stop"
    settle: float = 45.0
    concurrency: int = 4


async def send_all(gateway: Gateway, letters: Letters, rules: Rules, run: Run) -> SmsResult:
    """Send every message that no earlier attempt has sent.

    :raises PartialFailure: when rows were refused; the others have their message.
    :raises OutcomeUnknown: when nobody knows whether some messages were sent.
    :raises TransientError: when the vendor or the rate limit demands a wait that is too long for a worker slot.
    """
    return await _Sending(gateway, letters, rules, run).send()


class _Sending:
    def __init__(self, gateway: Gateway, letters: Letters, rules: Rules, run: Run) -> None:
        self.gateway, self.letters, self.rules, self.run = gateway, letters, rules, run
        self.far: FarSide = replace(gateway.capabilities.far, settle=rules.settle)
        self.sent: dict[int, Sent] = {}
        self.refused: dict[int, str] = dict(letters.invalid)
        self.unknown: dict[int, OutcomeUnknown | None] = {}
        self.waiting = deque(letters.texts.items())
        self.stopped: FlowRunnerError | None = None
        self.lost = 0

    async def send(self) -> SmsResult:
        self.progress = self.run.progress("send", unit="messages", total=len(self.letters.texts))
        workers = [asyncio.create_task(self._worker()) for _ in range(self.rules.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        self.progress.finish()
        return self._finish()

    async def _worker(self) -> None:
        """Send one message after another; an error that does not concern a single message stops all workers."""
        while self.waiting and self.stopped is None and self.lost < _LOST:
            index, text = self.waiting.popleft()
            try:
                await self._send_one(index, text)
            except FlowRunnerError as error:
                self.stopped = self.stopped or error
                return
            self.progress.advance()

    async def _send_one(self, index: int, text: Text) -> None:
        gateway = self.gateway

        async def send_text(key: str, at: datetime) -> Any:
            return asdict(await gateway.send(text, key, at))

        async def find(key: str, at: datetime) -> Any:
            del key
            found = await gateway.find(text, at, {sent.message_id for sent in self.sent.values()})
            return None if found is None else asdict(found)

        try:
            answer = await hand_over(
                self.run,
                self.far,
                action=_ACTION,
                name=f"{_ACTION}.{index}",
                fingerprint=fingerprint(text.channel, text.sender, text.number, text.body),
                exchange=gateway.http.settings.timeout,
                on_unknown=self.rules.on_unknown,
                send=send_text,
                find=find,
            )
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

    # The end

    def _finish(self) -> SmsResult:
        if self.stopped is not None:
            raise self.stopped
        if self.unknown and self.rules.on_unknown != "skip":
            raise self._in_doubt()
        if self.refused or self.waiting:
            raise self._partial()
        rows = sorted(self.sent)
        return SmsResult(
            vendor=self.far.title,
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
        rest = f"; {len(self.waiting)} were not tried" if self.waiting else ""
        return OutcomeUnknown(
            f"{len(rows)} of {self.letters.rows} messages may or may not have been sent: rows {_named(rows)}{rest}; "
            f"the first: {errors[0].message}",
            effect_key=errors[0].effect_key,
            reconcilable=any(error.reconcilable for error in errors),
            remedy=_RECONCILE,
        )

    def _partial(self) -> PartialFailure:
        rows = sorted(self.refused)
        failed = {str(row): self.refused[row] for row in rows}
        first = "; ".join(f"row {row}: {why}" for row, why in list(failed.items())[:3])
        rest = f"{len(self.waiting)} were not tried, because several answers were lost" if self.waiting else ""
        return PartialFailure(
            f"{len(rows)} of {self.letters.rows} messages were refused: {'; '.join(filter(None, (first, rest)))}",
            done=len(self.sent),
            failed=dict(list(failed.items())[:_SHOWN]),
            retryable=bool(self.waiting),
            remedy="the others have their message; start a new run with these rows, corrected",
        )


async def send_now(gateway: Gateway, text: Text, run: Run, *, key: str) -> None:
    """Send one message that no ledger knows: a callback's.

    :param key: the token, where the vendor knows one.
    """

    async def send_text(key: str, at: datetime) -> Any:
        return asdict(await gateway.send(text, key, at))

    await deliver(run, gateway.capabilities.far, send_text, action=_ACTION, key=key, at=run.clock.now())


def _named(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
