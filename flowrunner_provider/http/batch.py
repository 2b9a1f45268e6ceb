"""Engine of ``http.batch``: one request per item, bounded in flight and in memory, safe to kill and retry."""

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
_SIDE_EFFECTS = frozenset({"POST", "PATCH", "DELETE"})
_WINDOW = 512
"""Items read and announced together; fewer without a key, because a kill leaves all of them in doubt."""
_LINES_PER_WRITE = 64
_MAX_TRIES_WITH_RETRY_AFTER = 20
"""Tries per item while the server sends Retry-After; other errors have the tries of the run's retry plan."""


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The validated parameters of ``http.batch``."""

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
    def has_side_effects(self) -> bool:
        return self.template.method in _SIDE_EFFECTS

    @property
    def repeatable(self) -> bool:
        """Whether an item may be sent again although an earlier request may have been carried out."""
        if self.template.method not in ("POST", "PATCH"):
            return True
        return (bool(self.key) and self.honours_key) or self.on_unknown == "resend"


async def run_batch(http: HttpTransport, spec: BatchSpec, source: ItemSource, run: Run) -> BatchResult:
    """Send the request of every item that no earlier attempt has completed, and log each answer.

    :raises PartialFailure: if items failed; results and dead letter are complete on disk.
    :raises OutcomeUnknown: if it is unknown whether some items were carried out.
    :raises TransientError: if the server or the rate limit asks for a wait that is too long for a worker slot.
    """
    return await _Batch(http, spec, source, run).execute()


class _Batch:
    """One attempt at a batch: workers take items from a window, and every outcome is logged."""

    def __init__(self, http: HttpTransport, spec: BatchSpec, source: ItemSource, run: Run) -> None:
        self.http, self.spec, self.source, self.run = http, spec, source, run
        self.select = compile_path(spec.select, "select") if spec.select else None
        self.key_template = compile_text(spec.key, "idempotency_key") if isinstance(spec.key, str) else None
        if spec.key and self.key_template is None and spec.key is not True:
            raise ConfigError(
                "all items would have the same key", field="idempotency_key", remedy="use e.g. order-{item.id}, or True"
            )
        template = {name: value for name, value in vars(spec.template).items() if not name.startswith("_")}
        identity = fingerprint(source.identity, template, spec.select, http.settings.base_url)
        checkpoint = Checkpoint(
            run.journal,
            "http.batch",
            identity=identity,
            resume=run.resume or spec.has_side_effects,
            guard=run.lease.check,
        )
        self.log = ResultLog(
            spec.results, part_token(run), checkpoint, lines_at_once=1 if spec.has_side_effects else _LINES_PER_WRITE
        )
        seconds = run.patience + run.retry.attempts * (http.settings.timeout + run.retry.in_place)
        self.ledger = Ledger(run, identity, seconds) if spec.has_side_effects else None
        self.window: deque[BatchItem] = deque()
        self.keys: set[int] = set()
        self.maybe_sent: set[int] = set()
        self.items = 0
        self.failures = Failures(spec.dead_letter, part_token(run))
        self.stopped: FlowRunnerError | None = None
        self.continues_later = False
        self.entries = iter(source)
        self.opened = False

    async def execute(self) -> BatchResult:
        try:
            self._open()
            await self._run_workers()
            self._record_state()
            return self._finish()
        except BaseException as error:
            if self.opened:
                with contextlib.suppress(FlowRunnerError):  # the original error matters more
                    self._record_state()
            if isinstance(error, FlowRunnerError) and self.run.lease.lost():
                self.log.withdraw()
                self.failures.withdraw()
            raise
        finally:
            self.log.close()
            self.failures.close()

    def _open(self) -> None:
        if self.ledger is not None and self.source.total is not None:
            self.ledger.check_room(self.source.total)
        if self.ledger is not None:
            self.ledger.open()
        self.log.open()
        if self.ledger is not None:
            self._resolve_in_doubt(self.ledger)
        self.failures.open()
        self.progress = self.run.progress(
            "ask", unit="items", total=self.source.total, start=self.log.done.count + self.log.skipped.count
        )
        self.opened = True

    def _resolve_in_doubt(self, ledger: Ledger) -> None:
        """Decide about items that earlier attempts announced without logging an answer."""
        in_doubt = ledger.in_doubt(self.log)
        if not in_doubt:
            return
        if self.spec.repeatable:
            self.maybe_sent = set(in_doubt)
        elif self.spec.on_unknown == "skip":
            for number in in_doubt:
                self._record_skip(number, ledger)
        else:
            raise interrupted(in_doubt, "an earlier attempt was interrupted")

    async def _run_workers(self) -> None:
        limit = getattr(self.run.pacer, "limit", None)
        parallel = min(self.spec.concurrency, self.http.settings.max_connections)
        if limit is not None:  # a request must not wait longer for the rate limit than `patience`
            parallel = max(1, min(parallel, int(self.run.patience / 2 / limit.interval)))
        workers = [asyncio.create_task(self._worker()) for _ in range(parallel)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self) -> None:
        while (entry := self._next_item()) is not None:
            await self._process(entry)

    def _next_item(self) -> BatchItem | None:
        if self.stopped is not None or not (self.window or self._fill_window()):
            return None
        if self.ledger is not None and self.ledger.stale:
            self.ledger.announce((), self.log)
        return self.window.popleft()

    def _fill_window(self) -> bool:
        """Fill the window with the next unsettled items; return False at the end."""
        size = _WINDOW if self.spec.repeatable else 2 * self.spec.concurrency
        for index, value in self.entries:
            self.items += 1
            if index in self.log:
                if index in self.log.unusable:
                    self._count_failure(BatchItem(index, value), from_event(self.log.unusable[index]))
                if self.key_template is not None:
                    with contextlib.suppress(ConfigError):
                        self._idempotency_key(index, value)  # reserve its key
                continue
            self.window.append(BatchItem(index, value))
            if len(self.window) >= size:
                break
        if self.ledger is not None and self.window:
            self.ledger.check_room(self.items)
            self.ledger.announce([entry.index for entry in self.window], self.log)
        return bool(self.window)

    async def _process(self, entry: BatchItem) -> None:
        """Send one item and record its outcome."""
        try:
            request = self.spec.template.fill(entry.value, entry.index)
            headers = request.headers
            if self.spec.key:
                headers = {**headers, KEY_HEADER: self._idempotency_key(entry.index, entry.value)}
            status, answer = await self._request(entry, request, headers)
        except OutcomeUnknown as error:
            return self._record_unknown(entry, error)
        except (Fenced, MissingCredential):
            raise
        except FlowRunnerError as error:
            return self._record_failure(entry, error)
        try:
            body = None if answer is None else self._parse_body(answer)
        except FlowRunnerError as error:
            # the request was carried out, so a bad answer is no reason to repeat it
            if not self.spec.has_side_effects:
                return self._record_failure(entry, error)
            return self._record_done(entry, status, None, error)
        self._record_done(entry, status, body)
        return None

    async def _request(
        self, entry: BatchItem, request: ItemRequest, headers: Mapping[str, str]
    ) -> tuple[int, Response | None]:
        spec = self.spec
        entry.maybe_done = entry.index in self.maybe_sent
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
                    return error.status, None  # an earlier request deleted it, and its answer was lost
                raise
            except TransientError as error:
                entry.maybe_done = entry.maybe_done or not isinstance(error, Throttled)
                seconds = self._retry_delay(entry, error)
                if seconds is None:
                    raise
            await apause(seconds)

    def _retry_delay(self, entry: BatchItem, error: TransientError) -> float | None:
        """Return the seconds until this item's next try; None if this attempt makes no further one."""
        if self.stopped is not None:
            return None
        entry.faults += error.retry_after is None
        retry = self.run.retry
        tried = entry.faults if entry.tries < _MAX_TRIES_WITH_RETRY_AFTER else retry.attempts
        return retry.wait(error, tried, self.run.deadline)

    def _idempotency_key(self, index: int, value: Any) -> str:
        if self.key_template is None or self.ledger is None:
            return self.ledger.key(index) if self.ledger is not None else ""
        key: str = self.key_template(value, index)
        mark = hash(key)
        if mark in self.keys:
            raise ConfigError(
                "another item has the same idempotency key", field="idempotency_key", remedy="make the key unique"
            )
        self.keys.add(mark)
        return key

    def _parse_body(self, answer: Response) -> Any:
        kind = answer.headers.get("Content-Type", "")
        if self.select is not None:
            found = self.select(answer.json())
            if found is None:
                raise IntegrityError("`select` matches nothing in the answer", remedy="compare it with the answer")
            return found
        if not answer.content:
            return None
        if "json" in kind:
            return answer.json()
        text = kind.startswith("text/") or "charset" in kind or "xml" in kind
        return answer.text() if text else base64.b64encode(answer.content).decode()

    def _record_done(self, entry: BatchItem, status: int, body: Any, unusable: FlowRunnerError | None = None) -> None:
        record = {"status": status, "body": body}
        if unusable is not None:
            record["error"] = unusable.to_event()
        self.log.add(entry.index, record)
        failpoint("http.batch.after_write")
        if self.ledger is not None:
            self.ledger.settled(entry.index, done=True)
        self.progress.advance()
        if unusable is not None:
            self._count_failure(entry, unusable)

    def _record_failure(self, entry: BatchItem, error: FlowRunnerError) -> None:
        if self.ledger is not None and not entry.maybe_done:
            self.ledger.settled(entry.index, done=False)
        run = self.run
        retry_after = error.retry_after if isinstance(error, TransientError) else None
        if run.deadline.expired or (retry_after is not None and retry_after > run.retry.longest(run.deadline)):
            self.stopped, self.continues_later = self.stopped or error, True
        else:
            self._count_failure(entry, error)

    def _record_unknown(self, entry: BatchItem, error: OutcomeUnknown) -> None:
        """Handle a lost answer: the item stays open unless ``on_unknown`` says ``skip``."""
        if self.spec.on_unknown == "skip" and self.ledger is not None:
            self._record_skip(entry.index, self.ledger)
            self.progress.advance()
        else:
            self._count_failure(entry, error)

    def _record_skip(self, number: int, ledger: Ledger) -> None:
        self.log.add(number, {"status": 0, "body": None, "skipped": True})
        ledger.settled(number, done=False)

    def _count_failure(self, entry: BatchItem, error: FlowRunnerError) -> None:
        self.failures.add(entry, error)
        if self.spec.on_item_error == "fail" or self.failures.count > self.spec.max_failures:
            self.stopped = self.stopped or error

    def _record_state(self) -> None:
        """Save how far the batch has come; nothing is in flight any more."""
        untouched = [entry.index for entry in self.window if entry.index not in self.maybe_sent]
        self.log.flush()
        if self.ledger is not None:
            self.ledger.end(self.log, untouched)
        self.opened = False
        failpoint("http.batch.after_settle")

    def _finish(self) -> BatchResult:
        if self.stopped is not None and self.continues_later:
            raise self.stopped
        failures, log = self.failures, self.log
        done, skipped = log.done.count - len(log.unusable), log.skipped.count
        if self.stopped is None and self.items != done + skipped + failures.count:
            raise IntegrityError(
                f"{self.items:,} items were read, but {done:,} done, {failures.count:,} failed and {skipped:,} skipped "
                "do not add up",
                remedy="report this as a bug, with the log of this task",
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
