"""One request for each of many items: bounded in flight and in memory, and none lost or doubled by a kill."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import Checkpoint, fingerprint
from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.core.errors import (
    ConfigError,
    Fenced,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    NotFound,
    OutcomeUnknown,
    Throttled,
    TransientError,
    from_event,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.batch_failures import BatchItem, Failures, interrupted
from flowrunner_provider.http.batch_items import ItemSource
from flowrunner_provider.http.batch_state import Ledger, ResultLog
from flowrunner_provider.http.choices import OnItemError
from flowrunner_provider.http.client import compile_path, part_token
from flowrunner_provider.http.item_template import ItemRequest, RequestTemplate, compile_text
from flowrunner_provider.http.results import BatchResult
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["BatchSpec", "run_batch"]


KEY_HEADER = "Idempotency-Key"
_ACTS = frozenset({"POST", "PATCH", "DELETE"})
_WINDOW = 512
"""Items read, and announced, at a time; without a key fewer, as all of them are in doubt after a kill."""
_LINES = 64
_ASKED = 20
"""Tries of one item while the server names the wait; other faults have the tries of the run's retry plan."""


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The parameters of ``http.batch``, checked."""

    template: RequestTemplate
    results: Path
    dead_letter: Path | None = None
    concurrency: int = 32
    expected: frozenset[int] | None = None
    select: str | None = None
    on_item_error: OnItemError = "continue"
    max_failures: int = 1000
    max_bytes: int = 1024 * 1024
    key: bool | str = False
    honours_key: bool = False
    on_unknown: OnUnknown = "stop"

    @property
    def acts(self) -> bool:
        return self.template.method in _ACTS

    @property
    def repeatable(self) -> bool:
        """Whether an item may be sent again although it may have been carried out."""
        if self.template.method not in ("POST", "PATCH"):
            return True
        return (bool(self.key) and self.honours_key) or self.on_unknown == "resend"


async def run_batch(http: HttpTransport, spec: BatchSpec, source: ItemSource, run: Run) -> BatchResult:
    """Send the request of every item that no earlier attempt has done, and log each answer.

    :raises PartialFailure: when items failed; results and dead letter are complete on the disk.
    :raises OutcomeUnknown: when nobody can tell of some items whether they were carried out.
    :raises TransientError: when the server, or the pace, asks for a wait that is not worth a worker slot.
    """
    return await _Batch(http, spec, source, run).work()


class _Batch:
    def __init__(self, http: HttpTransport, spec: BatchSpec, source: ItemSource, run: Run) -> None:
        self.http, self.spec, self.source, self.run = http, spec, source, run
        self.select = compile_path(spec.select, "select") if spec.select else None
        self.own_key = compile_text(spec.key, "idempotency_key") if isinstance(spec.key, str) else None
        if spec.key and self.own_key is None and spec.key is not True:
            raise ConfigError(
                "all items would have the same key", field="idempotency_key", remedy="write order-{item.id}, or True"
            )
        template = {name: value for name, value in vars(spec.template).items() if not name.startswith("_")}
        identity = fingerprint(source.identity, template, spec.select, http.settings.base_url)
        checkpoint = Checkpoint(
            run.journal, "http.batch", identity=identity, resume=run.resume or spec.acts, guard=run.lease.check
        )
        self.log = ResultLog(spec.results, part_token(run), checkpoint, lines_at_once=1 if spec.acts else _LINES)
        seconds = run.patience + run.retry.attempts * (http.settings.timeout + run.retry.in_place)
        self.ledger = Ledger(run, identity, seconds) if spec.acts else None
        self.window: deque[BatchItem] = deque()
        self.keys: set[int] = set()
        self.carried: set[int] = set()
        self.items = 0
        self.failures = Failures(spec.dead_letter, part_token(run))
        self.stopped: FlowRunnerError | None = None
        self.to_be_continued = False
        self.entries = iter(source)
        self.begun = False

    async def work(self) -> BatchResult:
        try:
            self._begin()
            await self._all()
            self._settle()
            return self._end()
        except BaseException as error:
            if self.begun:
                with contextlib.suppress(FlowRunnerError):  # what is under way goes first
                    self._settle()
            if isinstance(error, FlowRunnerError) and self.run.lease.lost():
                self.log.withdraw()
                self.failures.withdraw()
            raise
        finally:
            self.log.close()
            self.failures.close()

    def _begin(self) -> None:
        if self.ledger is not None and self.source.total is not None:
            self.ledger.check_room(self.source.total)
        if self.ledger is not None:
            self.ledger.open()
        self.log.open()
        if self.ledger is not None:
            self._take_over(self.ledger)
        self.failures.open()
        self.progress = self.run.progress(
            "ask", unit="items", total=self.source.total, start=self.log.done.count + self.log.skipped.count
        )
        self.begun = True

    def _take_over(self, ledger: Ledger) -> None:
        """What becomes of the items of which earlier attempts left no answer."""
        in_doubt = ledger.in_doubt(self.log)
        if not in_doubt:
            return
        if self.spec.repeatable:
            self.carried = set(in_doubt)
        elif self.spec.on_unknown == "skip":
            for number in in_doubt:
                self._skip(number, ledger)
        else:
            raise interrupted(in_doubt, "an earlier attempt was interrupted")

    # The items

    async def _all(self) -> None:
        limit = getattr(self.run.pacer, "limit", None)
        at_once = min(self.spec.concurrency, self.http.settings.max_connections)
        if limit is not None:  # nobody should wait longer for the pace than is worth a worker slot
            at_once = max(1, min(at_once, int(self.run.patience / 2 / limit.interval)))
        workers = [asyncio.create_task(self._worker()) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self) -> None:
        while (entry := self._next()) is not None:
            await self._one(entry)

    def _next(self) -> BatchItem | None:
        if self.stopped is not None or not (self.window or self._read()):
            return None
        if self.ledger is not None and self.ledger.stale:
            self.ledger.announce((), self.log)
        return self.window.popleft()

    def _read(self) -> bool:
        """Fill the window with the next items that are not settled; False at the end."""
        size = _WINDOW if self.spec.repeatable else 2 * self.spec.concurrency
        for index, value in self.entries:
            self.items += 1
            if index in self.log:
                if index in self.log.spoilt:
                    self._count(BatchItem(index, value), from_event(self.log.spoilt[index]))
                if self.own_key is not None:
                    with contextlib.suppress(ConfigError):
                        self._key(index, value)  # nobody else may have its key
                continue
            self.window.append(BatchItem(index, value))
            if len(self.window) >= size:
                break
        if self.ledger is not None and self.window:
            self.ledger.check_room(self.items)
            self.ledger.announce([entry.index for entry in self.window], self.log)
        return bool(self.window)

    async def _one(self, entry: BatchItem) -> None:
        """One item, to its line in the results or in the dead letter; or the batch stops."""
        try:
            request = self.spec.template.fill(entry.value, entry.index)
            headers = request.headers
            if self.spec.key:
                headers = {**headers, KEY_HEADER: self._key(entry.index, entry.value)}
            status, answer = await self._ask(entry, request, headers)
        except OutcomeUnknown as error:
            return self._lost(entry, error)
        except (Fenced, MissingCredential):
            raise
        except FlowRunnerError as error:
            return self._failed(entry, error)
        try:
            body = None if answer is None else self._body(answer)
        except FlowRunnerError as error:
            # an act has happened, and is not repeated because its answer cannot be used
            return self._done(entry, status, None, error) if self.spec.acts else self._failed(entry, error)
        self._done(entry, status, body)
        return None

    async def _ask(
        self, entry: BatchItem, request: ItemRequest, headers: Mapping[str, str]
    ) -> tuple[int, Response | None]:
        spec = self.spec
        entry.maybe_done = entry.index in self.carried
        while True:
            entry.tries += 1
            failpoint("http.batch.before_send")
            try:
                answer = await self.http.request(
                    spec.template.method,
                    request.endpoint,
                    params=request.params,
                    headers=headers,
                    body=request.body,
                    repeatable=spec.repeatable,
                    max_bytes=spec.max_bytes,
                    expected=spec.expected,
                    retry=False,
                )
                failpoint("http.batch.after_send")
                return answer.status, answer
            except NotFound as error:
                if spec.template.method == "DELETE" and entry.maybe_done:
                    return error.status, None  # an earlier try deleted it, and its answer was lost
                raise
            except TransientError as error:
                entry.maybe_done = entry.maybe_done or not isinstance(error, Throttled)
                seconds = self._wait(entry, error)
                if seconds is None:
                    raise
            await apause(seconds)

    def _wait(self, entry: BatchItem, error: TransientError) -> float | None:
        """Seconds to the next try of this item; None when there is none in this attempt."""
        if self.stopped is not None:
            return None
        entry.faults += error.retry_after is None
        retry = self.run.retry
        tried = entry.faults if entry.tries < _ASKED else retry.attempts
        return retry.wait(error, tried, self.run.deadline)

    def _key(self, index: int, value: Any) -> str:
        if self.own_key is None or self.ledger is None:
            return self.ledger.key(index) if self.ledger is not None else ""
        key: str = self.own_key(value, index)
        mark = hash(key)
        if mark in self.keys:
            raise ConfigError(
                "another item has the same idempotency key", field="idempotency_key", remedy="make it unique"
            )
        self.keys.add(mark)
        return key

    def _body(self, answer: Response) -> Any:
        kind = answer.headers.get("Content-Type", "")
        if self.select is not None:
            found = self.select(answer.json())
            if found is None:
                raise IntegrityError("`select` finds nothing in the answer", remedy="compare it with the answer")
            return found
        if not answer.content:
            return None
        if "json" in kind:
            return answer.json()
        text = kind.startswith("text/") or "charset" in kind or "xml" in kind
        return answer.text() if text else base64.b64encode(answer.content).decode()

    # What became of an item

    def _done(self, entry: BatchItem, status: int, body: Any, spoilt: FlowRunnerError | None = None) -> None:
        record = {"status": status, "body": body}
        if spoilt is not None:
            record["error"] = spoilt.to_event()
        self.log.add(entry.index, record)
        failpoint("http.batch.after_write")
        if self.ledger is not None:
            self.ledger.settled(entry.index, done=True)
        self.progress.advance()
        if spoilt is not None:
            self._count(entry, spoilt)

    def _failed(self, entry: BatchItem, error: FlowRunnerError) -> None:
        if self.ledger is not None and not entry.maybe_done:
            self.ledger.settled(entry.index, done=False)
        run = self.run
        asked = error.retry_after if isinstance(error, TransientError) else None
        if run.deadline.expired or (asked is not None and asked > run.retry.longest(run.deadline)):
            self.stopped, self.to_be_continued = self.stopped or error, True
        else:
            self._count(entry, error)

    def _lost(self, entry: BatchItem, error: OutcomeUnknown) -> None:
        """The answer was lost: the item stays open, unless the user has said what to take it for."""
        if self.spec.on_unknown == "skip" and self.ledger is not None:
            self._skip(entry.index, self.ledger)
            self.progress.advance()
        else:
            self._count(entry, error)

    def _skip(self, number: int, ledger: Ledger) -> None:
        self.log.add(number, {"status": 0, "body": None, "skipped": True})
        ledger.settled(number, done=False)

    def _count(self, entry: BatchItem, error: FlowRunnerError) -> None:
        self.failures.add(entry, error)
        if self.spec.on_item_error == "fail" or self.failures.count > self.spec.max_failures:
            self.stopped = self.stopped or error

    # The end

    def _settle(self) -> None:
        """Write down how far the work has come, now that nothing is in flight."""
        untouched = [entry.index for entry in self.window if entry.index not in self.carried]
        self.log.flush()
        if self.ledger is not None:
            self.ledger.end(self.log, untouched)
        self.begun = False
        failpoint("http.batch.after_settle")

    def _end(self) -> BatchResult:
        if self.stopped is not None and self.to_be_continued:
            raise self.stopped
        failures, log = self.failures, self.log
        done, skipped = log.done.count - len(log.spoilt), log.skipped.count
        if self.stopped is None and self.items != done + skipped + failures.count:
            raise IntegrityError(
                f"{self.items:,} items came, and {done:,} done, {failures.count:,} failed and {skipped:,} skipped "
                "do not add up to that",
                remedy="report it, with the log of this task",
            )
        self.run.lease.check()
        failures.commit()
        size = log.commit()
        self.progress.finish()
        if failures.count:
            raise failures.as_error(self.items, done + skipped, stopped=self.stopped is not None)
        return BatchResult(
            items=self.items,
            done=done,
            skipped=skipped,
            path=str(self.spec.results),
            bytes=size,
            dead_letter=str(self.spec.dead_letter) if self.spec.dead_letter else None,
        )
