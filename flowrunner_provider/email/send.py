"""Sends one mail exactly once: the ledger between a message and a transport.

A mail has one key for all attempts, from which its Message-ID is derived. It is sent in *rounds*: the first one to all
recipients, each later one to those with a temporary refusal. Each round is an effect (``email.send``,
``email.send.2``, ...) whose record has the outcome of every recipient, so nobody who has the mail gets it again.

Everything before the message itself (connection, login, envelope) happens before the intent is written: if the worker
dies there, nothing was sent.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Effect, Intent, OnUnknown
from flowrunner_provider.core.errors import Json, OutcomeUnknown, PartialFailure, Rejected, Throttled
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.attachments import too_large
from flowrunner_provider.email.message import Mail, build
from flowrunner_provider.email.results import SendResult
from flowrunner_provider.email.transport import Envelope, Refusal, Transport

__all__ = ["Seal", "deliver"]

NAME = "email.send"
_PLACEHOLDER_DATE = datetime(2020, 1, 1, tzinfo=UTC)  # every Date header has this length
_MAX_REASONS = 20_000  # bytes of refusals in one record; above it only the codes are kept


Seal = Callable[[bytes, datetime], bytes]
"""Prepends a signature to a message with this date."""


async def deliver(
    run: Run,
    mail: Mail,
    transport: Transport,
    *,
    domain: str,
    limit: int,
    on_unknown: OnUnknown = "stop",
    seal: Seal | None = None,
) -> SendResult:
    """Send ``mail`` once to each recipient, over all attempts of the task.

    :param domain: the domain of the Message-ID.
    :param limit: maximum encoded size.
    :param on_unknown: what to do when an earlier attempt may have sent it: ``stop``, ``resend`` the same bytes, or
        ``skip``.
    :param seal: signs the message.
    :raises PartialFailure: when some recipients were refused; a retry sends to those with a temporary refusal.
    :raises Rejected: when all recipients were refused permanently.
    :raises Throttled: when all recipients were refused temporarily.
    :raises OutcomeUnknown: when nobody knows whether the mail was accepted.
    :raises ConfigError: when it is too large.
    """
    message_id = f"<{run.effects.key(NAME)}@{domain}>"
    failpoint("email.send.before_build")
    size = len(_build(mail, message_id, _PLACEHOLDER_DATE, seal))
    if size > limit:
        raise too_large(size, limit)
    failpoint("email.send.after_build")
    return await _Delivery(run, mail, transport, message_id, size, on_unknown, seal).run_rounds()


def _build(mail: Mail, message_id: str, date: datetime, seal: Seal | None) -> bytes:
    message = build(mail, message_id, date)
    return seal(message, date) if seal else message


@dataclass
class _Delivery:
    """One attempt; the fields from ``at`` on accumulate from round to round."""

    run: Run
    mail: Mail
    transport: Transport
    message_id: str
    size: int
    on_unknown: OnUnknown
    seal: Seal | None
    at: str = ""
    accepted: int = 0
    unknown: int = 0
    sent_in_this_attempt: bool = False

    def __post_init__(self) -> None:
        self.permanent: dict[str, Refusal] = {}

    async def run_rounds(self) -> SendResult:
        left = self.mail.recipients
        for number in itertools.count(1):
            record = await self._round(NAME if number == 1 else f"{NAME}.{number}", left)
            if record is None:
                self.unknown += len(left)
                self.run.log.warning("Skipped %s: nobody knows whether it was sent", self.message_id)
                left = ()
                break
            self.at = self.at or record["at"]
            refused = {
                left[index]: Refusal(status=status, code=code, text=text)
                for index, status, code, text in record["refused"]
            }
            took = len(left) - len(refused)
            self.accepted += took
            self.permanent |= {who: why for who, why in refused.items() if why.for_good}
            temporary = {who: why for who, why in refused.items() if not why.for_good}
            left = tuple(temporary)
            if not left:
                break
            if self.sent_in_this_attempt and not (took and all(why.too_many for why in temporary.values())):
                raise self._partial_failure(temporary)
        if self.permanent:
            raise self._partial_failure({})
        return SendResult(
            message_id=self.message_id,
            accepted=self.accepted,
            refused=[],
            unknown=self.unknown,
            subject=self.mail.subject,
            invitation_uid=self.mail.invitation.uid_in(self.message_id) if self.mail.invitation else None,
        )

    async def _round(self, name: str, recipients: tuple[str, ...]) -> Any:
        """Return the record of a round, from the ledger or by sending; None if the round was skipped."""
        effect = Effect(
            name=name,
            fingerprint=fingerprint(self.mail.fingerprint, recipients),
            seconds=self.run.deadline.limit(self.transport.seconds),
            on_unknown=self.on_unknown,
        )
        async with AsyncExitStack() as stack:
            envelope: Envelope | None = None

            async def open_envelope() -> Envelope:
                opened = await self._envelope(recipients)
                stack.push_async_callback(opened.close)
                return opened

            async def act(intent: Intent) -> Json:
                ready = envelope or await open_envelope()
                self.sent_in_this_attempt = True
                at = self.at or intent.at
                if len(ready.refused) < len(recipients):
                    await self._send(ready, intent, at)
                return {"at": at, "refused": _compact(recipients, ready.refused)}

            if not self._announced(name):
                envelope = await open_envelope()
                self._raise_if_all_refused(envelope.refused, recipients)
            return await self.run.effects.perform(effect, act)

    def _announced(self, name: str) -> bool:
        """Return whether the ledger has an intent or a result, which then decides whether anything is sent."""
        record = self.run.effects.record(name)
        return record is not None and record["state"] != "withdrawn"

    async def _envelope(self, recipients: tuple[str, ...]) -> Envelope:
        await self.run.paced()
        failpoint("email.send.before_connect")

        async def attempt() -> Envelope:
            return await self.transport.envelope(self.mail, recipients, self.size, self.run.deadline)

        envelope = await self.run.retry.acall(attempt, self.run.deadline)
        failpoint("email.send.after_connect")
        return envelope

    async def _send(self, envelope: Envelope, intent: Intent, at: str) -> None:
        message = _build(self.mail, self.message_id, datetime.fromisoformat(at), self.seal)
        failpoint("email.send.before_data")
        self.run.effects.renew()
        try:
            await envelope.data(message)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                f"{error.message}; Message-ID {self.message_id}",
                effect_key=intent.key,
                reconcilable=self.on_unknown != "stop",
                remedy="search the mail server for it; then clear the task with on_unknown='resend' or 'skip'",
            ) from error
        failpoint("email.send.after_data")

    def _raise_if_all_refused(self, refused: dict[str, Refusal], recipients: tuple[str, ...]) -> None:
        """Raise if every recipient of this round was refused and the ledger has nothing to remember about it."""
        if len(refused) < len(recipients):
            return
        first = next(iter(refused.values()))
        said = "; ".join(f"{who}: {why}" for who, why in itertools.islice(refused.items(), 5))
        if all(why.for_good for why in refused.values()) and not self.accepted:
            everybody = "every recipient" if len(refused) > 1 else "the recipient"
            raise Rejected(
                f"the server refused {everybody} permanently: {said}",
                status=first.status,
                code=first.code,
                remedy="correct the addresses; nothing was sent",
            )
        if not any(why.for_good for why in refused.values()):
            if self.accepted or self.permanent:
                raise self._partial_failure(refused)
            raise Throttled(f"the server refused all recipients temporarily: {said}", retry_after=_GREYLISTING)

    def _partial_failure(self, temporary: dict[str, Refusal]) -> PartialFailure:
        failed = {who: str(why) for who, why in (self.permanent | temporary).items()}
        everybody = len(self.mail.recipients)
        rest = "a retry sends to those refused temporarily" if temporary else "the others were refused permanently"
        return PartialFailure(
            f"{len(failed)} of {everybody} recipients were refused: "
            + "; ".join(f"{who}: {why}" for who, why in itertools.islice(failed.items(), 5)),
            done=self.accepted,
            failed=failed,
            retryable=bool(temporary),
            remedy=f"{self.accepted} recipients have the mail and will not get it again; {rest}",
        )


_GREYLISTING = 300.0
"""Seconds; servers that greylist unknown senders usually accept them after five minutes."""


def _compact(recipients: Sequence[str], refused: dict[str, Refusal]) -> Json:
    """Return the refusals by recipient index, small enough for the ledger."""
    rows: list[Json] = [
        [index, refused[who].status, refused[who].code, refused[who].text]
        for index, who in enumerate(recipients)
        if who in refused
    ]
    if len(json.dumps(rows)) > _MAX_REASONS:
        return [[*row[:3], ""] for row in rows if isinstance(row, list)]
    return rows
