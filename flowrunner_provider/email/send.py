"""Sending once: the ledger between a message and a transport.

A mail has one key for all its attempts, and its Message-ID derives from it. It goes out in *rounds*:
the first to all recipients, each later one to those that the server refused for now. A round is an
effect of its own (``email.send``, ``email.send.2``, ...), and its record says for every recipient what
became of it, so nobody who has the mail is ever sent it again.

Everything up to the message itself (connection, login, envelope) comes before the intent is written: a
worker that dies there is known not to have sent anything.
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
_SOME_DAY = datetime(2020, 1, 1, tzinfo=UTC)  # as long, in every spelling, as the day on which it is sent
_MAX_TEXTS = 20_000  # bytes of reasons in one record; above it the codes alone are kept


Seal = Callable[[bytes, datetime], bytes]
"""Puts a signature before a message with this date."""


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
    """``mail`` was taken by the server once for each recipient.

    A killed or failed attempt is continued: recipients that have it are left alone.

    :param domain: of the Message-ID.
    :param limit: largest encoded size.
    :param on_unknown: what to do when an earlier attempt may have sent it: ``stop``, ``resend`` the very
        same bytes, or ``skip``.
    :param seal: signs it.
    :raises PartialFailure: when some were refused; a retry sends to those refused for now.
    :raises Rejected: when all were refused for good.
    :raises Throttled: when all were refused for now.
    :raises OutcomeUnknown: when nobody can tell whether it was taken.
    :raises ConfigError: when it is too large.
    """
    message_id = f"<{run.effects.key(NAME)}@{domain}>"
    failpoint("email.send.before_build")
    size = len(_sealed(mail, message_id, _SOME_DAY, seal))
    if size > limit:
        raise too_large(size, limit)
    failpoint("email.send.after_build")
    return await _Delivery(run, mail, transport, message_id, size, on_unknown, seal).to_end()


def _sealed(mail: Mail, message_id: str, date: datetime, seal: Seal | None) -> bytes:
    message = build(mail, message_id, date)
    return seal(message, date) if seal else message


@dataclass
class _Delivery:
    """One attempt; the fields from ``at`` on grow from round to round."""

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
    acted: bool = False

    def __post_init__(self) -> None:
        self.for_good: dict[str, Refusal] = {}

    async def to_end(self) -> SendResult:
        left = self.mail.recipients
        for number in itertools.count(1):
            record = await self._round(NAME if number == 1 else f"{NAME}.{number}", left)
            if record is None:
                self.unknown += len(left)
                self.run.log.warning("Skipped: nobody knows whether %s was sent", self.message_id)
                left = ()
                break
            self.at = self.at or record["at"]
            refused = {
                left[index]: Refusal(status=status, code=code, text=text)
                for index, status, code, text in record["refused"]
            }
            took = len(left) - len(refused)
            self.accepted += took
            self.for_good |= {who: why for who, why in refused.items() if why.for_good}
            for_now = {who: why for who, why in refused.items() if not why.for_good}
            left = tuple(for_now)
            if not left:
                break
            if self.acted and not (took and all(why.too_many for why in for_now.values())):
                raise self._partial(for_now)
        if self.for_good:
            raise self._partial({})
        return SendResult(
            message_id=self.message_id,
            accepted=self.accepted,
            refused=[],
            unknown=self.unknown,
            subject=self.mail.subject,
            invitation_uid=self.mail.invitation.uid_in(self.message_id) if self.mail.invitation else None,
        )

    async def _round(self, name: str, recipients: tuple[str, ...]) -> Any:
        """The record of one round, from the ledger or by acting; None when it was skipped."""
        effect = Effect(
            name=name,
            fingerprint=fingerprint(self.mail.fingerprint, recipients),
            seconds=self.run.deadline.limit(self.transport.seconds),
            on_unknown=self.on_unknown,
        )
        async with AsyncExitStack() as stack:
            envelope: Envelope | None = None

            async def opened() -> Envelope:
                found = await self._envelope(recipients)
                stack.push_async_callback(found.close)
                return found

            async def act(intent: Intent) -> Json:
                ready = envelope or await opened()
                self.acted = True
                at = self.at or intent.at
                if len(ready.refused) < len(recipients):
                    await self._send(ready, intent, at)
                return {"at": at, "refused": _compact(recipients, ready.refused)}

            if not self._begun(name):
                envelope = await opened()
                self._all_refused(envelope.refused, recipients)
            return await self.run.effects.perform(effect, act)

    def _begun(self, name: str) -> bool:
        """The ledger has an intent or a result already: it decides whether anything is sent."""
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
        message = _sealed(self.mail, self.message_id, datetime.fromisoformat(at), self.seal)
        failpoint("email.send.before_data")
        self.run.effects.renew()
        try:
            await envelope.data(message)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                f"{error.message}; Message-ID {self.message_id}",
                effect_key=intent.key,
                reconcilable=self.on_unknown != "stop",
                remedy="look for the Message-ID at the server; then clear the task with on_unknown='resend' or 'skip'",
            ) from error
        failpoint("email.send.after_data")

    def _all_refused(self, refused: dict[str, Refusal], recipients: tuple[str, ...]) -> None:
        """Nobody was taken in this round: raise where there is nothing that a later attempt must know."""
        if len(refused) < len(recipients):
            return
        first = next(iter(refused.values()))
        said = "; ".join(f"{who}: {why}" for who, why in itertools.islice(refused.items(), 5))
        if all(why.for_good for why in refused.values()) and not self.accepted:
            everybody = "every recipient" if len(refused) > 1 else "the recipient"
            raise Rejected(
                f"the server refused {everybody} for good: {said}",
                status=first.status,
                code=first.code,
                remedy="correct the addresses; nothing was sent",
            )
        if not any(why.for_good for why in refused.values()):
            if self.accepted or self.for_good:
                raise self._partial(refused)
            raise Throttled(f"the server takes no recipient at present: {said}", retry_after=_LATER)

    def _partial(self, for_now: dict[str, Refusal]) -> PartialFailure:
        failed = {who: str(why) for who, why in (self.for_good | for_now).items()}
        everybody = len(self.mail.recipients)
        rest = "a retry sends to those refused for now" if for_now else "those were refused for good"
        return PartialFailure(
            f"{len(failed)} of {everybody} recipients were refused: "
            + "; ".join(f"{who}: {why}" for who, why in itertools.islice(failed.items(), 5)),
            done=self.accepted,
            failed=failed,
            retryable=bool(for_now),
            remedy=f"{self.accepted} have the mail and are not sent it again; {rest}",
        )


_LATER = 300.0
"""Seconds; a server that delays unknown senders (greylisting) takes them after five minutes."""


def _compact(recipients: Sequence[str], refused: dict[str, Refusal]) -> Json:
    """The refusals by their recipients' indexes, small enough for the ledger."""
    rows: list[Json] = [
        [index, refused[who].status, refused[who].code, refused[who].text]
        for index, who in enumerate(recipients)
        if who in refused
    ]
    if len(json.dumps(rows)) > _MAX_TEXTS:
        return [[*row[:3], ""] for row in rows if isinstance(row, list)]
    return rows
