"""Copy rows from one database to another; a thread reads ahead, so reading and writing overlap."""

# ruff: noqa: S608 - names are quoted by identifiers.py
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event
from typing import Generic, TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params, Row
from flowrunner_provider.database.dialects.syncing import Form
from flowrunner_provider.database.identifiers import TableName

__all__ = ["Pipe", "ReadAhead", "TransferCounts"]

T = TypeVar("T")

_QUEUE_SIZE = 4  # blocks or batches that are read but not yet written
_POLL_SECONDS = 0.5  # between two checks of the deadline, or of the other side having stopped


@dataclass(frozen=True)
class TransferCounts:
    """The number of rows the source sent and the target stored."""

    read: int
    stored: int


@dataclass(frozen=True, kw_only=True)
class Pipe:
    """A query of one session whose rows are appended to a table of another.

    :param select: builds the query and its parameters from one pattern per column, with ``{}`` for its name.
    :param columns: the columns of the target, in the order of the query.
    :param batch_rows: the number of rows in memory at a time, where they travel as Python values.
    :param on_rows: called with the number of rows after each block.
    """

    source: Session
    select: Callable[[Sequence[str]], tuple[str, Params]]
    target: Session
    columns: Sequence[str]
    deadline: Deadline
    on_rows: Callable[[int], None]
    batch_rows: int = 5_000

    def append_to(self, table: TableName) -> TransferCounts:
        """Append all rows, in a wire format that both databases know or else value by value."""
        shared = self._find_shared_form(table)
        return self._by_value(table) if shared is None else self._by_block(table, *shared)

    def _find_shared_form(self, table: TableName) -> tuple[Form, Sequence[str]] | None:
        if not self.target.readable_forms or self.source is self.target:
            return None
        source_types = self.source.wire_types(*self.select(["{}"] * len(self.columns)))
        if not source_types:
            return None
        encodings = self.target.wire_encodings(table, self.columns)
        names = self.target.names(self.columns)
        target_types = self.target.wire_types(f"SELECT {names} FROM {self.target.sql(table)}", None)
        for form in self.target.readable_forms:
            if patterns := self.source.select_patterns(form, source_types, encodings, target_types):
                return form, patterns
        return None

    def _by_block(self, table: TableName, form: Form, patterns: Sequence[str]) -> TransferCounts:
        query, params = self.select(patterns)
        read = 0
        with (
            self.target.open_sink(table, self.columns, form) as sink,
            closing(self._read_ahead(self.source.read_blocks(query, params, form))) as blocks,
        ):
            for block, rows in blocks:
                if block:
                    sink.write(block)
                    self.on_rows(rows)
                else:
                    read = rows
        return TransferCounts(read, sink.rows)

    def _by_value(self, table: TableName) -> TransferCounts:
        read = 0
        with self.target.copy(table, self.columns) as copier, closing(self._read_ahead(self._batches())) as batches:
            for batch in batches:
                copier.write(batch)
                read += len(batch)
                self.on_rows(len(batch))
        return TransferCounts(read, copier.rows)

    def _batches(self) -> Generator[list[Row], None, None]:
        query, params = self.select(["{}"] * len(self.columns))
        with self.source.stream(query, params, batch_rows=self.batch_rows) as batches:
            yield from batches

    def _read_ahead(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
        if self.source is self.target:  # one connection does one thing at a time
            return items
        return ReadAhead(items, self.source.interrupt, self.deadline).read()


class ReadAhead(Generic[T]):
    """Reads items in a thread, a few ahead of the consumer; errors of the thread are raised in the consumer."""

    def __init__(self, items: Generator[T, None, None], interrupt: Callable[[], None], deadline: Deadline) -> None:
        self._items, self._interrupt, self._deadline = items, interrupt, deadline
        self._queue: Queue[tuple[T] | None] = Queue(_QUEUE_SIZE)
        self._cancelled = Event()

    def read(self) -> Generator[T, None, None]:
        with ThreadPoolExecutor(1, thread_name_prefix="flowrunner-pipe") as pool:
            reading = pool.submit(self._fill)
            try:
                while (item := self._next()) is not None:
                    yield item[0]
                reading.result()
            finally:
                if not reading.done():
                    self._cancelled.set()
                    self._interrupt()

    def _next(self) -> tuple[T] | None:
        while True:
            try:
                return self._queue.get(timeout=_POLL_SECONDS)
            except Empty:
                self._deadline.check("the transfer")

    def _fill(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._put((item,)):
                        return
        finally:
            self._put(None)

    def _put(self, item: tuple[T] | None) -> bool:
        while not self._cancelled.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except Full:
                continue
            return True
        return False
