"""One mail for each row, over a few connections, and none twice whatever dies.

A row's mail has a Message-ID of its own that derives from the task and the row, the same in every attempt. The
rows are announced in windows before they are sent (``batch_state``); each worker holds one connection and sends
one mail after the other on it.
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
from flowrunner_provider.email.batch.letter import Letter
from flowrunner_provider.email.batch.report import in_doubt, partial, write_reports
from flowrunner_provider.email.batch.rows import Row, RowSource
from flowrunner_provider.email.batch.spec import BatchSpec
from flowrunner_provider.email.batch.state import DOUBT, LATER, NAME, OPEN, REFUSED, SENT, Journal, Ledger
from flowrunner_provider.email.results import BatchResult
from flowrunner_provider.email.transport import Session, Transport

__all__ = ["send_batch"]

_TRIED = 5
"""Rows whose letters must not all fail before anything is sent: then it is the template and not the row."""
_LATER = 300.0


async def send_batch(transport: Transport, spec: BatchSpec, source: RowSource, run: Run) -> BatchResult:
    """Send to every row that no earlier attempt has sent to.

    :raises PartialFailure: when rows were refused; the others have their mail.
    :raises OutcomeUnknown: when nobody can tell of some rows whether they were sent.
    :raises TransientError: when the server, or the pace, asks for a wait that is not worth a worker slot.
    """
    return await _Batch(transport, spec, source, run).work()


@dataclass(slots=True)
class _Item:
    """One row on its way."""

    index: int
    row: Row
    tries: int = 0


@dataclass(slots=True)
class _Line:
    """A worker's connection."""

    session: Session | None = None
    used: int = 0
    dirty: bool = False


class _Batch:
    def __init__(self, transport: Transport, spec: BatchSpec, source: RowSource, run: Run) -> None:
        self.transport, self.spec, self.source, self.run = transport, spec, source, run
        seconds = run.patience + transport.seconds
        self.ledger = Ledger(run, hashlib.sha256(f"{source.identity}{spec.identity}".encode()).hexdigest()[:32],
                             source.total, seconds)  # fmt: skip
        self.key = run.effects.key(NAME)
        self.journal = Journal(spec.journals / f"{self.key}.journal")
        self.window: deque[_Item] = deque()
        self.in_flight: set[int] = set()
        self.reasons: dict[int, str] = {}
        self.failures = self.pauses = self.connected = 0
        self.quiet_until = 0.0
        self.stopped: FlowRunnerError | None = None
        self.enough = False
        self.entries = iter(source)
        self.seen = 0

    @property
    def states(self) -> bytearray:
        return self.ledger.states

    async def work(self) -> BatchResult:
        try:
            self._try_letters()
            self._begin()
            doubtful = self.states.count(DOUBT)
            if not (doubtful and self.spec.on_unknown == "stop"):
                self.form = self.spec.form(self.ledger.at)
                await self._all()
            return self._end()
        finally:
            self.journal.close()

    def _try_letters(self) -> None:
        """A template that fits no row is found before anything is sent."""
        first: ConfigError | None = None
        for index, row in self.source:
            try:
                self.spec.compose(row)
                return
            except (ConfigError, NotFound, SecurityError) as error:
                if not isinstance(error, ConfigError) or error.field == self.spec.to:
                    return
                first = first or error
            if index + 1 >= _TRIED:
                break
        if first is not None:
            raise first

    def _begin(self) -> None:
        self.ledger.open()
        failpoint("email.send_batch.before_take_over")
        self.journal.read()
        self.ledger.take_over(self.journal)
        failpoint("email.send_batch.after_take_over")
        self.journal.begin(self.run.lease.owner.token)
        failpoint("email.send_batch.after_journal")
        self.reasons = {index: why for index, why in self.journal.reasons.items() if self.states[index] == REFUSED}
        settled = self.source.total - self.states.count(OPEN)
        self.progress = self.run.progress("send", unit="mails", total=self.source.total, start=settled)

    def identify(self, index: int, row: Row) -> tuple[str, str]:
        """Address and Message-ID of a row."""
        address = str(row.get(self.spec.to) or "")
        name = f"{self.key}\0{index}\0{address}".encode("utf-8", "surrogatepass")
        return address, f"<{hashlib.sha256(name).hexdigest()[:40]}@{self.spec.domain}>"

    # The rows

    async def _all(self) -> None:
        limit = getattr(self.run.pacer, "limit", None)
        at_once = self.spec.concurrency
        if limit is not None:  # nobody should wait longer for the pace than is worth a worker slot
            at_once = max(1, min(at_once, int(self.run.patience / 2 / limit.interval)))
        try:
            await self._work(at_once)
            while self.window and self.stopped is None and not self.enough:  # its worker found no connection
                await self._work(1)
        finally:
            for index in self.in_flight:
                self.states[index] = DOUBT
            if not isinstance(self.stopped, Fenced):
                self.ledger.close()
                failpoint("email.send_batch.after_close")

    async def _work(self, at_once: int) -> None:
        workers = [asyncio.create_task(self._worker()) for _ in range(min(at_once, self.source.total))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self) -> None:
        line = _Line()
        try:
            while (item := self._next()) is not None:
                if not await self._one(item, line):
                    self.window.appendleft(item)
                    break
        except FlowRunnerError as error:  # the others end the mail that they are at
            self.stopped = self.stopped or error
        finally:
            if line.session is not None:
                await self._hang_up(line)

    def _next(self) -> _Item | None:
        if self.stopped is not None or self.enough or not (self.window or self._read()):
            return None
        if self.ledger.stale:
            self.ledger.renew()
        return self.window.popleft()

    def _read(self) -> bool:
        """Fill the window with the next rows that have no mail, and announce them; False at the end."""
        wanted = (OPEN, DOUBT) if self.spec.on_unknown == "resend" else (OPEN,)
        for index, row in self.entries:
            self.seen += 1
            if index >= self.source.total:
                break
            if self.states[index] in wanted:
                self.window.append(_Item(index, row))
                if len(self.window) >= self.spec.window:
                    break
        if self.window:
            self.ledger.announce(self.window[-1].index + 1)
        return bool(self.window)

    async def _one(self, item: _Item, line: _Line) -> bool:
        """One row, to its fate; False when this worker should end and leave the row to others."""
        try:
            letter = self.spec.compose(item.row)
            message = self.form.build(letter, self.identify(item.index, item.row)[1])
            if self.spec.seal:
                message = await asyncio.to_thread(self.spec.seal, message, self.form.date)
            if len(message) > self.spec.limit:
                raise too_large(len(message), self.spec.limit)
        except (ConfigError, NotFound, SecurityError) as error:
            self._refused(item, error.message, REFUSED)
            return True
        while self.stopped is None:
            try:
                await self.run.paced()
                if not await self._connected(line):
                    return False
                await self._transfer(item, letter, message, line)
                return True
            except OutcomeUnknown as error:
                await self._hang_up(line)
                self._lost(item, error)
                return True
            except Rejected as error:
                line.dirty = True
                self._refused(item, error.message, REFUSED)
                return True
            except TransientError as error:
                if await self._failed(item, error, line):
                    return True
        return False

    async def _connected(self, line: _Line) -> bool:
        """Have a connection; False when the server takes no more than there are."""
        if line.session is not None:
            if line.dirty:
                await line.session.reset()
                line.dirty = False
            return True
        try:
            line.session = await self.transport.login(self.run.deadline)
        except Throttled:
            if self.connected:
                return False
            raise
        line.used, line.dirty = 0, False
        self.connected += 1
        return True

    async def _transfer(self, item: _Item, letter: Letter, message: bytes, line: _Line) -> None:
        """One mail on a connection."""
        session = line.session
        if session is None:
            raise ValueError("there is no connection")
        address = letter.to.address
        line.dirty = True
        await session.announce(letter, (address,), len(message), at_once=True)
        if refusal := session.refused.get(address):
            self._refused(item, str(refusal), REFUSED if refusal.for_good else LATER)
            return
        self.journal.note("b", item.index)
        self.in_flight.add(item.index)
        failpoint("email.send_batch.before_data")
        try:
            await session.data(message)
        except OutcomeUnknown:
            raise
        except FlowRunnerError as error:
            self.in_flight.discard(item.index)
            self.journal.note("n", item.index)
            if isinstance(error, Throttled) and error.status not in (0, 421):
                self._refused(item, error.message, LATER)
                return
            raise
        failpoint("email.send_batch.after_data")
        self.journal.note("s", item.index)
        failpoint("email.send_batch.after_note")
        self.states[item.index] = SENT
        self.in_flight.discard(item.index)
        line.dirty, line.used, self.pauses = False, line.used + 1, 0
        self.progress.advance()

    async def _hang_up(self, line: _Line) -> None:
        session, line.session, line.dirty = line.session, None, False
        if session is not None:
            self.connected -= 1
            with suppress(FlowRunnerError):
                await session.close()

    # What became of a row

    async def _failed(self, item: _Item, error: TransientError, line: _Line) -> bool:
        """The mail was not sent: True when its fate is settled, False to try again after a wait."""
        had, reused = line.session is not None, line.used > 0
        await self._hang_up(line)
        now = self.run.clock.monotonic()
        if isinstance(error, Throttled):
            if now < self.quiet_until:
                return False  # another worker was told so first
            self.pauses += 1
            seconds = self.run.retry.wait(error, self.pauses, self.run.deadline)
            if seconds is None:
                self.stopped = self.stopped or _come_again(error)
                return False
            self.quiet_until = now + seconds
            self.run.hold(seconds)
            return False
        if reused:
            return False  # servers end connections that have done their part
        item.tries += 1
        seconds = self.run.retry.wait(error, item.tries, self.run.deadline)
        if seconds is not None:
            await apause(seconds)
        elif had and self.pauses == 0 and SENT in self.states:
            self._refused(item, error.message, LATER)  # the others go through: it is this one
            return True
        else:
            self.stopped = self.stopped or error
        return False

    def _refused(self, item: _Item, why: str, state: int) -> None:
        if self.states[item.index] != DOUBT or state == REFUSED:  # an earlier attempt may have sent it
            self.states[item.index] = state
            self.journal.note("r" if state == REFUSED else "l", item.index, why)
        self.reasons[item.index] = why
        self.progress.advance()
        self._count()

    def _lost(self, item: _Item, error: OutcomeUnknown) -> None:
        self.states[item.index] = DOUBT
        self.in_flight.discard(item.index)
        self.reasons[item.index] = error.message
        self.progress.advance()
        if self.spec.on_unknown != "skip":
            self._count()

    def _count(self) -> None:
        self.failures += 1
        self.enough = self.enough or self.spec.on_item_error == "fail" or self.failures > self.spec.max_failures

    # The end

    def _end(self) -> BatchResult:
        spec, run = self.spec, self.run
        if isinstance(self.stopped, Fenced):
            raise self.stopped
        if self.stopped is None and not self.enough and self.seen not in (0, self.source.total):
            raise IntegrityError(
                f"{self.source.total:,} rows were counted, and {self.seen:,} came",
                remedy="keep the file as it is until the task has ended",
            )
        token = hashlib.sha256("\0".join(run.scope).encode()).hexdigest()[:24]
        write_reports(
            self.source, self.states, self.reasons, self.identify,
            report=spec.report, dead_letter=spec.dead_letter, token=token,
        )  # fmt: skip
        self.progress.finish()
        if self.stopped is not None:
            raise self.stopped
        count = self.states.count
        unknown, refused, skipped = count(DOUBT), count(REFUSED) + count(LATER), count(OPEN)
        if unknown and spec.on_unknown != "skip":
            raise in_doubt(self.states, spec.report, self.key, reconcilable=spec.on_unknown == "resend")
        if refused or skipped:
            raise partial(self.states, self.reasons, spec.report)
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


def _come_again(error: TransientError) -> TransientError:
    if error.retry_after is None:
        error.retry_after = _LATER
    return error
