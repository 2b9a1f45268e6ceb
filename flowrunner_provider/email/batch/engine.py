"""Sends one mail per row over a few connections, and none twice, wherever the task is killed.

The Message-ID of a row's mail is derived from the task and the row, so it is the same in every attempt. Rows are
announced in the ledger, one window at a time, before they are sent. Each worker sends one mail after another over its
own connection.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from flowrunner_provider.core.errors import (
    ConfigError,
    Fenced,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    SecurityError,
    Throttled,
    TransientError,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.attachments import too_large
from flowrunner_provider.email.batch.journal import Journal
from flowrunner_provider.email.batch.ledger import NAME, Ledger
from flowrunner_provider.email.batch.report import outcome_unknown, partial_failure, write_reports
from flowrunner_provider.email.batch.row_mail import RowMail
from flowrunner_provider.email.batch.rows import Row, RowSource
from flowrunner_provider.email.batch.spec import BatchSpec
from flowrunner_provider.email.batch.states import DEFERRED, IN_DOUBT, PENDING, REFUSED, SENT
from flowrunner_provider.email.results import BatchResult
from flowrunner_provider.email.transport import Session, Transport

__all__ = ["send_batch"]

_SAMPLE = 5
"""Rows to render before anything is sent: if none of them renders, the template is wrong and not the row."""
_RETRY_AFTER = 300.0
"""Seconds until the next attempt when a throttling server names no time."""


async def send_batch(transport: Transport, spec: BatchSpec, source: RowSource, run: Run) -> BatchResult:
    """Send a mail to every row that no earlier attempt has sent to.

    :raises PartialFailure: when rows were refused; the others have their mail.
    :raises OutcomeUnknown: when nobody knows whether some mails were sent.
    :raises TransientError: when the server or the rate limit demands a wait that is too long for a worker slot.
    """
    return await _Batch(transport, spec, source, run).send()


@dataclass(slots=True)
class _Item:
    """A row that is being sent."""

    index: int
    row: Row
    tries: int = 0


@dataclass(slots=True)
class _Connection:
    """A worker's connection; ``dirty`` if the server still has the envelope of an abandoned mail."""

    session: Session | None = None
    sent: int = 0
    dirty: bool = False


class _Batch:
    """One attempt. After ``stop_error`` or ``failed_enough`` is set, workers start no further mail."""

    def __init__(self, transport: Transport, spec: BatchSpec, source: RowSource, run: Run) -> None:
        self.transport, self.spec, self.source, self.run = transport, spec, source, run
        fingerprint = hashlib.sha256(f"{source.identity}{spec.identity}".encode()).hexdigest()[:32]
        self.ledger = Ledger(run, fingerprint, source.total, run.patience + transport.seconds)
        self.key = run.effects.key(NAME)
        self.journal = Journal(spec.journals / f"{self.key}.journal")
        self.window: deque[_Item] = deque()
        self.in_flight: set[int] = set()
        self.reasons: dict[int, str] = {}
        self.failures = self.pauses = self.connections = 0
        self.paused_until = 0.0
        self.stop_error: FlowRunnerError | None = None
        self.failed_enough = False
        self.unread = iter(source)
        self.rows_read = 0

    @property
    def states(self) -> bytearray:
        return self.ledger.states

    async def send(self) -> BatchResult:
        try:
            self._check_templates()
            self._take_over()
            if IN_DOUBT not in self.states or self.spec.on_unknown != "stop":
                self.builder = self.spec.builder(self.ledger.started_at)
                await self._send_pending()
            return self._finish()
        finally:
            self.journal.close()

    def _check_templates(self) -> None:
        """Raise the first error of the templates unless one of the first rows renders."""
        first_error: ConfigError | None = None
        for index, row in self.source:
            try:
                self.spec.compose(row)
                return
            except (ConfigError, NotFound, SecurityError) as error:
                if not isinstance(error, ConfigError) or error.field == self.spec.to:
                    return
                first_error = first_error or error
            if index + 1 >= _SAMPLE:
                break
        if first_error is not None:
            raise first_error

    def _take_over(self) -> None:
        """Continue where earlier attempts stopped."""
        self.ledger.load()
        failpoint("email.send_batch.before_take_over")
        self.journal.load()
        self.ledger.recover(self.journal)
        failpoint("email.send_batch.after_take_over")
        self.journal.create(self.run.lease.owner.token)
        failpoint("email.send_batch.after_journal")
        self.reasons = {index: why for index, why in self.journal.reasons.items() if self.states[index] == REFUSED}
        settled = self.source.total - self.states.count(PENDING)
        self.progress = self.run.progress("send", unit="mails", total=self.source.total, start=settled)

    def identify(self, index: int, row: Row) -> tuple[str, str]:
        """Return address and Message-ID of a row."""
        address = str(row.get(self.spec.to) or "")
        name = f"{self.key}\0{index}\0{address}".encode("utf-8", "surrogatepass")
        return address, f"<{hashlib.sha256(name).hexdigest()[:40]}@{self.spec.domain}>"

    # Workers

    async def _send_pending(self) -> None:
        limit = getattr(self.run.pacer, "limit", None)
        workers = self.spec.concurrency
        if limit is not None:  # no worker should wait longer for the rate limit than is worth a worker slot
            workers = max(1, min(workers, int(self.run.patience / 2 / limit.interval)))
        try:
            await self._run_workers(workers)
            while self.window and self.stop_error is None and not self.failed_enough:  # left by a worker that could
                await self._run_workers(1)  # not connect
        finally:
            for index in self.in_flight:
                self.states[index] = IN_DOUBT
            if not isinstance(self.stop_error, Fenced):
                self.ledger.close()
                failpoint("email.send_batch.after_close")

    async def _run_workers(self, count: int) -> None:
        workers = [asyncio.create_task(self._worker()) for _ in range(min(count, self.source.total))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self) -> None:
        connection = _Connection()
        try:
            while (item := self._next_item()) is not None:
                if not await self._send_row(item, connection):
                    self.window.appendleft(item)
                    break
        except FlowRunnerError as error:  # the other workers finish their current mail
            self.stop_error = self.stop_error or error
        finally:
            await self._disconnect(connection)

    def _next_item(self) -> _Item | None:
        if self.stop_error is not None or self.failed_enough or not (self.window or self._fill_window()):
            return None
        self.ledger.renew()
        return self.window.popleft()

    def _fill_window(self) -> bool:
        """Read the next rows without a mail and announce them; return False if there are none."""
        wanted = (PENDING, IN_DOUBT) if self.spec.on_unknown == "resend" else (PENDING,)
        for index, row in self.unread:
            self.rows_read += 1
            if index >= self.source.total:
                break
            if self.states[index] in wanted:
                self.window.append(_Item(index, row))
                if len(self.window) >= self.spec.window:
                    break
        if self.window:
            self.ledger.announce(self.window[-1].index + 1)
        return bool(self.window)

    async def _send_row(self, item: _Item, connection: _Connection) -> bool:
        """Send one row's mail until its state is settled; return False to leave the row to other workers."""
        try:
            mail = self.spec.compose(item.row)
            message = await self._encode(mail, self.identify(item.index, item.row)[1])
        except (ConfigError, NotFound, SecurityError) as error:
            self._mark_refused(item, error.message, REFUSED)
            return True
        while self.stop_error is None:
            try:
                await self.run.paced()
                if not await self._connect(connection):
                    return False
                await self._transfer(item, mail, message, connection)
                return True
            except OutcomeUnknown as error:
                await self._disconnect(connection)
                self._mark_in_doubt(item, error)
                return True
            except Rejected as error:
                connection.dirty = True
                self._mark_refused(item, error.message, REFUSED)
                return True
            except TransientError as error:
                if await self._not_sent(item, error, connection):
                    return True
        return False

    async def _encode(self, mail: RowMail, message_id: str) -> bytes:
        message = self.builder.build(mail, message_id)
        if self.spec.sign:
            message = await asyncio.to_thread(self.spec.sign, message, self.builder.date)
        if len(message) > self.spec.limit:
            raise too_large(len(message), self.spec.limit)
        return message

    async def _connect(self, connection: _Connection) -> bool:
        """Make the connection ready for a mail; return False if the server accepts no further connection."""
        if connection.session is not None:
            if connection.dirty:
                await connection.session.reset()
                connection.dirty = False
            return True
        try:
            connection.session = await self.transport.login(self.run.deadline)
        except Throttled:
            if self.connections:
                return False
            raise
        connection.sent, connection.dirty = 0, False
        self.connections += 1
        return True

    async def _transfer(self, item: _Item, mail: RowMail, message: bytes, connection: _Connection) -> None:
        """Send one mail over a connection."""
        session = connection.session
        if session is None:
            raise ValueError("there is no connection")
        address = mail.to.address
        connection.dirty = True
        await session.announce(mail, (address,), len(message), at_once=True)
        if refusal := session.refused.get(address):
            self._mark_refused(item, str(refusal), REFUSED if refusal.for_good else DEFERRED)
            return
        self.ledger.renew()  # this worker may have slept since it took the row
        self.journal.start(item.index)
        self.in_flight.add(item.index)
        failpoint("email.send_batch.before_data")
        try:
            await session.data(message)
        except OutcomeUnknown:
            raise
        except FlowRunnerError as error:
            self.in_flight.discard(item.index)
            self.journal.withdraw(item.index)
            if isinstance(error, Throttled) and error.status not in (0, 421):
                self._mark_refused(item, error.message, DEFERRED)
                return
            raise
        failpoint("email.send_batch.after_data")
        self.states[item.index] = SENT
        self.in_flight.discard(item.index)
        self.journal.settle(item.index, SENT)
        failpoint("email.send_batch.after_note")
        connection.dirty, connection.sent, self.pauses = False, connection.sent + 1, 0
        self.progress.advance()

    async def _disconnect(self, connection: _Connection) -> None:
        session, connection.session, connection.dirty = connection.session, None, False
        if session is not None:
            self.connections -= 1
            with suppress(FlowRunnerError):
                await session.close()

    # Outcomes of a row

    async def _not_sent(self, item: _Item, error: TransientError, connection: _Connection) -> bool:
        """Handle a failure before the message was sent: return True if that settles the row, False to try again."""
        connected, reused = connection.session is not None, connection.sent > 0
        await self._disconnect(connection)
        if isinstance(error, Throttled):
            self._pause(error)
            return False
        if reused:
            return False  # servers close connections after a number of mails
        item.tries += 1
        seconds = self.run.retry.wait(error, item.tries, self.run.deadline)
        if seconds is not None:
            await apause(seconds)
        elif connected and self.pauses == 0 and SENT in self.states:
            self._mark_refused(item, error.message, DEFERRED)  # other mails pass: it is this one that fails
            return True
        else:
            self.stop_error = self.stop_error or error
        return False

    def _pause(self, error: Throttled) -> None:
        """Pause all workers, or stop the batch if the pause is too long for a worker slot."""
        now = self.run.clock.monotonic()
        if now < self.paused_until:
            return  # the reply to another worker has already started this pause
        self.pauses += 1
        seconds = self.run.retry.wait(error, self.pauses, self.run.deadline)
        if seconds is None:
            error.retry_after = _RETRY_AFTER if error.retry_after is None else error.retry_after
            self.stop_error = self.stop_error or error
            return
        self.paused_until = now + seconds
        self.run.hold(seconds)

    def _mark_refused(self, item: _Item, reason: str, state: int) -> None:
        # A temporary refusal says nothing about an earlier attempt that may have sent this mail.
        if self.states[item.index] != IN_DOUBT or state == REFUSED:
            self.states[item.index] = state
            self.journal.settle(item.index, state, reason)
        self.reasons[item.index] = reason
        self.progress.advance()
        self._count_failure()

    def _mark_in_doubt(self, item: _Item, error: OutcomeUnknown) -> None:
        self.states[item.index] = IN_DOUBT
        self.in_flight.discard(item.index)
        self.reasons[item.index] = error.message
        self.progress.advance()
        if self.spec.on_unknown != "skip":
            self._count_failure()

    def _count_failure(self) -> None:
        self.failures += 1
        if self.spec.on_item_error == "fail" or self.failures > self.spec.max_failures:
            self.failed_enough = True

    # The end

    def _finish(self) -> BatchResult:
        """Write the reports and return the counts, or raise what keeps the batch from being complete."""
        spec, run = self.spec, self.run
        if isinstance(self.stop_error, Fenced):
            raise self.stop_error
        if self.stop_error is None and not self.failed_enough and self.rows_read not in (0, self.source.total):
            raise IntegrityError(
                f"the source had {self.source.total:,} rows when they were counted, and {self.rows_read:,} when read",
                remedy="do not change the file until the task has ended",
            )
        token = hashlib.sha256("\0".join(run.scope).encode()).hexdigest()[:24]
        write_reports(
            self.source, self.states, self.reasons, self.identify,
            report=spec.report, dead_letter=spec.dead_letter, token=token,
        )  # fmt: skip
        self.progress.finish()
        if self.stop_error is not None:
            raise self.stop_error
        count = self.states.count
        unknown, refused, skipped = count(IN_DOUBT), count(REFUSED) + count(DEFERRED), count(PENDING)
        if unknown and spec.on_unknown != "skip":
            raise outcome_unknown(self.states, spec.report, self.key, reconcilable=spec.on_unknown == "resend")
        if refused or skipped:
            raise partial_failure(self.states, self.reasons, spec.report)
        self.journal.remove()
        return BatchResult(
            rows=self.source.total,
            sent=count(SENT),
            refused=0,
            unknown=unknown,
            skipped=0,
            report=str(spec.report) if spec.report else None,
            dead_letter=str(spec.dead_letter) if spec.dead_letter else None,
        )
