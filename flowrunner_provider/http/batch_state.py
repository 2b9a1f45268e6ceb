"""Persistent state of a batch: the results on disk, and for requests with side effects a ledger in the task's state
store.

The results file is the log of completed items: one line per item, written when its answer arrives. A later attempt
takes over its complete lines and continues. For POST, PATCH and DELETE, the state store also holds two bitmaps: the
items that are *done*, and the items that are *open*, i.e. announced before being sent. An open item without a line may
or may not have been carried out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import Checkpoint
from flowrunner_provider.core.errors import ConfigError, IntegrityError, PermanentError, Unavailable
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.lease import Owner
from flowrunner_provider.core.part_file import PartFile, disk_errors
from flowrunner_provider.core.run import Run

__all__ = ["MAX_ACTS", "Bits", "Ledger", "ResultLog"]

MAX_ACTS = 150_000
"""Most items of a batch with side effects: both bitmaps always fit into one record of the state store."""

_NAME = "http.batch"
_MAX_LINE = 64 * 1024 * 1024
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Bits:
    """A set of item numbers, one bit each; 100,000 items pack into at most 17 KB."""

    def __init__(self, packed: str = "") -> None:
        self._bits = bytearray(zlib.decompress(base64.b64decode(packed))) if packed else bytearray()
        self.count = int.from_bytes(self._bits, "little").bit_count()

    def __contains__(self, number: int) -> bool:
        byte_index = number >> 3
        return byte_index < len(self._bits) and bool(self._bits[byte_index] & (1 << (number & 7)))

    def __iter__(self) -> Iterator[int]:
        return (number for number in range(len(self._bits) * 8) if number in self)

    def add(self, number: int) -> None:
        byte_index = number >> 3
        if byte_index >= len(self._bits):
            self._bits.extend(bytes(byte_index + 1024 - len(self._bits)))
        mask = 1 << (number & 7)
        if not self._bits[byte_index] & mask:
            self._bits[byte_index] |= mask
            self.count += 1

    def discard(self, number: int) -> None:
        if number in self:
            self._bits[number >> 3] &= ~(1 << (number & 7))
            self.count -= 1

    def packed(self) -> str:
        return base64.b64encode(zlib.compress(self._bits.rstrip(b"\0"))).decode()


class ResultLog:
    """The results file while it grows.

    :param path: its final name.
    :param token: names this task's temporary files, the same in every attempt.
    :param checkpoint: records that the temporary file is ours, and the inode of the final file.
    :param lines_at_once: lines per write; unwritten lines are lost if the worker is killed.
    """

    def __init__(self, path: Path, token: str, checkpoint: Checkpoint, *, lines_at_once: int) -> None:
        self.path, self._checkpoint, self._lines_at_once = path, checkpoint, lines_at_once
        self._part = PartFile(path, token)
        self._copy = PartFile(path, f"{token}-n")
        self._lines: list[bytes] = []
        self.done, self.skipped, self.unusable = Bits(), Bits(), dict[int, dict[str, Any]]()

    def open(self) -> None:
        """Copy the complete lines of an earlier attempt to a new file; a zombie keeps writing to the old one."""
        earlier = self._earlier_file()
        self._copy.open(0)
        if earlier is not None:
            with disk_errors(str(earlier)), earlier.open("rb") as file:
                for line in self._complete_lines(file):
                    self._copy.write(line)
        failpoint("http.batch.before_take_over")
        with disk_errors(str(self.path)):
            self._copy.part.replace(self._part.part)
        self._copy.part = self._part.part
        self._part = self._copy
        failpoint("http.batch.after_take_over")
        if self._checkpoint.state is None:
            self._checkpoint.save({"inode": 0}, force=True)

    def _earlier_file(self) -> Path | None:
        """Return the file with the lines of an earlier attempt: temporary, or already under its final name."""
        state = self._checkpoint.state
        if state is None:
            return None
        if self._part.part.is_file() and not self._part.part.is_symlink():
            return self._part.part
        if state["inode"] and self.path.is_file() and self.path.stat().st_ino == state["inode"]:
            return self.path
        return None

    def _complete_lines(self, file: Any) -> Iterator[bytes]:
        """Yield lines up to the first truncated or damaged one; later items are repeated or in doubt."""
        while line := file.readline(_MAX_LINE):
            try:
                record = json.loads(line)
                number = record["index"]
            except (ValueError, TypeError, KeyError):
                return
            if not line.endswith(b"\n") or not isinstance(number, int):
                return
            if number in self.done or number in self.skipped:
                continue
            self._count(number, record)
            yield line

    def _count(self, number: int, record: dict[str, Any]) -> None:
        (self.skipped if record.get("skipped") else self.done).add(number)
        if record.get("error"):
            self.unusable[number] = record["error"]

    def __contains__(self, number: int) -> bool:
        return number in self.done or number in self.skipped

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Log one settled item."""
        line = _encode({"index": number, **record})
        self._lines.append(line.encode("utf-8", "surrogatepass") + b"\n")
        if len(self._lines) >= self._lines_at_once:
            self.flush()
        self._count(number, record)

    def flush(self) -> None:
        if self._lines:
            self._part.write(b"".join(self._lines))
            self._lines.clear()

    def sync(self) -> None:
        """Make the lines durable, before writing a record that refers to them."""
        self.flush()
        self._part.sync()

    def commit(self) -> int:
        """Give the file its final name and return its size."""
        self.sync()
        size = self._part.tell()
        with disk_errors(str(self.path)):
            inode = self._part.part.stat().st_ino
        self._checkpoint.save({"inode": inode}, force=True)
        failpoint("http.batch.before_commit")
        self._part.commit()
        failpoint("http.batch.after_commit")
        return size

    def withdraw(self) -> None:
        """Delete an unfinished copy; the other temporary file belongs to the attempt that took over."""
        if self._copy is not self._part:
            self._copy.withdraw()

    def close(self) -> None:
        self._copy.close()
        self._part.close()


class Ledger:
    """Records which items were announced, so that no attempt repeats a request of another one.

    :param run: provides the journal, the lease and the clock.
    :param fingerprint: of items and request; a retry with different ones is refused.
    :param seconds: the longest that an announced item can stay in flight.
    """

    FRESH = 30.0
    """Seconds after an announcement during which its items may be sent."""

    def __init__(self, run: Run, fingerprint: str, seconds: float) -> None:
        self._run, self._fingerprint, self._seconds = run, fingerprint, seconds
        self.done, self.announced, self._stale_at = Bits(), Bits(), 0.0

    def open(self) -> None:
        """Read the record of earlier attempts.

        :raises PermanentError: if they processed other items.
        :raises Unavailable: while another attempt may still be sending.
        """
        record = self._run.journal.read("effect", _NAME)
        if record is None:
            return
        if record["fingerprint"] != self._fingerprint:
            raise PermanentError(
                "an earlier attempt of this task worked on other items, or with another request",
                remedy="remove timestamps and try numbers from items and request, or start a new run",
            )
        holder = Owner.from_json(record["owner"])
        left = record["until"] - self._run.clock.now().timestamp()
        if holder.token != self._run.lease.owner.token and left > 0 and not holder.known_dead():
            raise Unavailable(
                "another attempt of this task may be sending",
                retry_after=left,
                remedy="nothing to do: the retry waits for it",
            )
        self.done, self.announced = Bits(record["done"]), Bits(record["open"])

    def in_doubt(self, log: ResultLog) -> list[int]:
        """Return the items that were announced but have no line in the results.

        :raises IntegrityError: if results of earlier attempts are not on this disk.
        """
        lost = sum(number not in log for number in self.done)
        if lost:
            raise IntegrityError(
                f"{lost:,} items were done by an earlier attempt, but their results are not in {log.path}",
                remedy="use a path that all workers share; restore the file, or run the remaining items anew",
            )
        for number in list(self.announced):
            if number in log:
                self.settled(number, done=True)
        return list(self.announced)

    def announce(self, numbers: Iterable[int], log: ResultLog) -> None:
        """Record that these items are about to be sent; they stay open until :meth:`settled`."""
        for number in numbers:
            self.announced.add(number)
        failpoint("http.batch.before_announce")
        self._run.lease.check()
        until = self._run.clock.now().timestamp() + self.FRESH + self._seconds
        self._write(log, until)
        failpoint("http.batch.after_announce")
        self._run.lease.check()
        self._stale_at = self._run.clock.monotonic() + self.FRESH

    @property
    def stale(self) -> bool:
        """Whether the announcement is too old to send on; another attempt may consider it expired."""
        return self._run.clock.monotonic() >= self._stale_at

    def settled(self, number: int, *, done: bool) -> None:
        """Mark an item as done, or as known not to be done."""
        self.announced.discard(number)
        if done:
            self.done.add(number)

    def end(self, log: ResultLog, untouched: Iterable[int]) -> None:
        """Record that nothing is in flight, and that ``untouched`` items were announced but never sent."""
        for number in untouched:
            self.announced.discard(number)
        self._run.lease.check()
        self._write(log, 0.0)

    def _write(self, log: ResultLog, until: float) -> None:
        log.sync()
        record = {
            "state": "intended",
            "fingerprint": self._fingerprint,
            "done": self.done.packed(),
            "open": self.announced.packed(),
            "owner": self._run.lease.owner.to_json(),
            "until": until,
        }
        self._run.journal.write("effect", _NAME, record)

    def key(self, own: str | int) -> str:
        """Return the idempotency key of an item, the same in every attempt."""
        name = f"{self._run.effects.key(_NAME)}\0{own}"
        return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    @staticmethod
    def check_room(count: int) -> None:
        """Raise if there are more items than the record can hold."""
        if count > MAX_ACTS:
            raise ConfigError(
                f"a batch with side effects is limited to {MAX_ACTS:,} items",
                field="items",
                remedy="split the items, e.g. over mapped tasks",
            )
