"""What a batch remembers: its results on the disk, and for acts also in the task's state store.

The file of results is the log of what was done: one line per item, written when the answer is there. Another
attempt takes over its whole lines and goes on. For POST, PATCH and DELETE the state store holds two bitmaps
beside it: the items that are *done*, and those that are *open*, announced before they were sent. What is open and
has no line may or may not have happened.
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
"""The most items of a batch of acts: its two bitmaps always fit into one record of the state store."""

_NAME = "http.batch"
_MAX_LINE = 64 * 1024 * 1024
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Bits:
    """A set of item numbers, one bit each; a packed one of 100,000 takes at most 17 KB."""

    def __init__(self, packed: str = "") -> None:
        self._bits = bytearray(zlib.decompress(base64.b64decode(packed))) if packed else bytearray()
        self.count = int.from_bytes(self._bits, "little").bit_count()

    def __contains__(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._bits) and bool(self._bits[place] & (1 << (number & 7)))

    def __iter__(self) -> Iterator[int]:
        return (number for number in range(len(self._bits) * 8) if number in self)

    def add(self, number: int) -> None:
        place = number >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1024 - len(self._bits)))
        mask = 1 << (number & 7)
        if not self._bits[place] & mask:
            self._bits[place] |= mask
            self.count += 1

    def discard(self, number: int) -> None:
        if number in self:
            self._bits[number >> 3] &= ~(1 << (number & 7))
            self.count -= 1

    def packed(self) -> str:
        return base64.b64encode(zlib.compress(self._bits.rstrip(b"\0"))).decode()


class ResultLog:
    """The file of results while it grows.

    :param path: its final name.
    :param token: names this task, the same in every attempt.
    :param checkpoint: says that a part is ours, and which file it became.
    :param lines_at_once: how many lines are written together: those not yet written are lost with a worker.
    """

    def __init__(self, path: Path, token: str, checkpoint: Checkpoint, *, lines_at_once: int) -> None:
        self.path, self._checkpoint, self._lines_at_once = path, checkpoint, lines_at_once
        self._part = PartFile(path, token)
        self._copy = PartFile(path, f"{token}-n")
        self._lines: list[bytes] = []
        self.done, self.skipped, self.spoilt = Bits(), Bits(), dict[int, dict[str, Any]]()

    def open(self) -> None:
        """Take over the whole lines of an earlier attempt, in a new file: a zombie writes into the old one."""
        left = self._left()
        self._copy.open(0)
        if left is not None:
            with disk_errors(str(left)), left.open("rb") as file:
                for line in self._whole_lines(file):
                    self._copy.write(line)
        failpoint("http.batch.before_take_over")
        with disk_errors(str(self.path)):
            self._copy.part.replace(self._part.part)
        self._copy.part = self._part.part
        self._part = self._copy
        failpoint("http.batch.after_take_over")
        if self._checkpoint.state is None:
            self._checkpoint.save({"inode": 0}, force=True)

    def _left(self) -> Path | None:
        """Where the lines of an earlier attempt are: still a part, or under their name already."""
        state = self._checkpoint.state
        if state is None:
            return None
        if self._part.part.is_file() and not self._part.part.is_symlink():
            return self._part.part
        if state["inode"] and self.path.is_file() and self.path.stat().st_ino == state["inode"]:
            return self.path
        return None

    def _whole_lines(self, file: Any) -> Iterator[bytes]:
        """Up to the first line that is cut or damaged; what follows is done again, or is in doubt."""
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
            self.spoilt[number] = record["error"]

    def __contains__(self, number: int) -> bool:
        return number in self.done or number in self.skipped

    def add(self, number: int, record: dict[str, Any]) -> None:
        """One more item is settled."""
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
        """Make the lines durable: before a record that says they are there."""
        self.flush()
        self._part.sync()

    def commit(self) -> int:
        """The file appears under its name; returns its size."""
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
        """Another attempt has taken over: the part is what it goes on with; an unfinished copy of it is not."""
        if self._copy is not self._part:
            self._copy.withdraw()

    def close(self) -> None:
        self._copy.close()
        self._part.close()


class Ledger:
    """Which items were announced, so that no attempt sends again what another one has sent.

    :param run: brings the journal, the lease and the clock.
    :param fingerprint: of items and request; a retry with others is refused.
    :param seconds: the longest that an announced item can stay in flight.
    """

    FRESH = 30.0
    """Seconds for which an announcement may be acted upon."""

    def __init__(self, run: Run, fingerprint: str, seconds: float) -> None:
        self._run, self._fingerprint, self._seconds = run, fingerprint, seconds
        self.done, self.announced, self._stale_at = Bits(), Bits(), 0.0

    def open(self) -> None:
        """Read what earlier attempts left.

        :raises PermanentError: when they worked on other items.
        :raises Unavailable: while another attempt may be at it.
        """
        record = self._run.journal.read("effect", _NAME)
        if record is None:
            return
        if record["fingerprint"] != self._fingerprint:
            raise PermanentError(
                "an earlier attempt of this task worked on other items, or with another request",
                remedy="keep clocks and try numbers out of both, or start a new run",
            )
        holder = Owner.from_json(record["owner"])
        left = record["until"] - self._run.clock.now().timestamp()
        if holder.token != self._run.lease.owner.token and left > 0 and not holder.known_dead():
            raise Unavailable(
                "another attempt of this task may be sending", retry_after=left, remedy="nothing to do: it waits"
            )
        self.done, self.announced = Bits(record["done"]), Bits(record["open"])

    def in_doubt(self, log: ResultLog) -> list[int]:
        """The items of which nobody knows: announced, and without a line.

        :raises IntegrityError: when results of earlier attempts are not on this disk.
        """
        lost = sum(number not in log for number in self.done)
        if lost:
            raise IntegrityError(
                f"{lost:,} items were done by an earlier attempt, and their results are not in {log.path}",
                remedy="use a path that all workers share; put the file back, or start a new run with the other items",
            )
        for number in list(self.announced):
            if number in log:
                self.settled(number, done=True)
        return list(self.announced)

    def announce(self, numbers: Iterable[int], log: ResultLog) -> None:
        """Say that these items are about to be sent; they are open until they are :meth:`settled`."""
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
        """The announcement is too old to be acted upon: another attempt may take it for over."""
        return self._run.clock.monotonic() >= self._stale_at

    def settled(self, number: int, *, done: bool) -> None:
        """The item is known to be done, or known not to be."""
        self.announced.discard(number)
        if done:
            self.done.add(number)

    def end(self, log: ResultLog, untouched: Iterable[int]) -> None:
        """Nothing is in flight any more, and these were announced and not sent."""
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
        """The idempotency key of an item, the same in every attempt."""
        name = f"{self._run.effects.key(_NAME)}\0{own}"
        return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    @staticmethod
    def check_room(count: int) -> None:
        """Refuse more items than the record can hold."""
        if count > MAX_ACTS:
            raise ConfigError(
                f"there are more than the {MAX_ACTS:,} items that one batch of acts can keep account of",
                field="items",
                remedy="split them, e.g. with one mapped task for each part",
            )
