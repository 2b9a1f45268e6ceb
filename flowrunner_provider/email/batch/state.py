"""What a batch of mails remembers, so that no attempt sends again what another one has sent.

Two places, for two ways to die:

* the *ledger*, one record in the task's state store: the fate of every row in three bit planes, and the open
  *window* ``[lo, hi)`` of rows that were announced before they were sent. It is written once per window, so
  confirmations lag by at most that much.
* the *journal*, a file that gets one line before and one after each message. It is written without fsync: what a
  process has written outlives its SIGKILL. Only a crash of the whole machine can lose lines, and then the boot
  id has changed, and what the journal does *not* say is no longer believed. (An fsync per window would tell
  nothing that the ledger does not know at the same moment.)

So after a killed worker, on the same machine, only the few messages that were on the wire are in doubt; anywhere
else the rows of the open window are.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path

from flowrunner_provider.core.errors import ConfigError, PermanentError, Unavailable
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.lease import Owner
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.run import Run

__all__ = ["DOUBT", "LATER", "MAX_ROWS", "NAME", "OPEN", "REFUSED", "SENT", "Journal", "Ledger"]

NAME = "email.send_batch"
MAX_ROWS = 110_000
"""The most rows of a batch: their bit planes always fit into one record of the state store."""

OPEN, SENT, REFUSED, DOUBT, LATER = range(5)
_PLANES = 3
_BITS = [bytes(48 + (state >> plane & 1) for state in range(256)) for plane in range(_PLANES)]


def _packed(states: bytearray) -> list[str]:
    size = len(states) // 8 + 1
    planes = [int(states.translate(bits), 2).to_bytes(size, "big") for bits in _BITS]
    return [base64.b64encode(zlib.compress(plane)).decode() for plane in planes]


def _unpacked(planes: list[str], total: int) -> bytearray:
    states = bytearray(total)
    for plane, text in enumerate(planes):
        number = int.from_bytes(zlib.decompress(base64.b64decode(text)), "big")
        for index, digit in enumerate(bin(number)[2:].zfill(total)):
            if digit == "1":
                states[index] |= 1 << plane
    return states


class Ledger:
    """The fate of every row.

    :param run: brings the state store, the lease and the clock.
    :param fingerprint: of rows and content; a retry with others is refused.
    :param total: how many rows there are.
    :param seconds: the longest that an announced row can stay in flight.
    """

    FRESH = 30.0
    """Seconds for which an announcement may be acted upon."""

    def __init__(self, run: Run, fingerprint: str, total: int, seconds: float) -> None:
        if total > MAX_ROWS:
            raise ConfigError(
                f"{total:,} rows are more than the {MAX_ROWS:,} that one batch can keep account of",
                field="recipients",
                remedy="split them, e.g. with one mapped task for each part",
            )
        self._run, self._fingerprint, self._seconds = run, fingerprint, seconds
        self.states = bytearray(total)
        self.at = run.clock.now().replace(microsecond=0).isoformat()
        self._lo = self._hi = 0
        self._stale_at = 0.0
        self._before: Owner | None = None

    def open(self) -> None:
        """Read what earlier attempts left.

        :raises PermanentError: when they sent other content.
        :raises Unavailable: while another attempt may be at it.
        """
        record = self._run.journal.read("effect", NAME)
        if record is None:
            return
        if record["fingerprint"] != self._fingerprint:
            raise PermanentError(
                "an earlier attempt of this task had other recipients, or another content",
                remedy="keep clocks and try numbers out of both, or start a new run with the rows that are left",
            )
        self._before = Owner.from_json(record["owner"])
        left = record["until"] - self._run.clock.now().timestamp()
        if self._before.token != self._run.lease.owner.token and left > 0 and not self._before.known_dead():
            raise Unavailable(
                "another attempt of this task may be sending", retry_after=left, remedy="nothing to do: it waits"
            )
        self.states = _unpacked(record["planes"], len(self.states))
        self.at, self._lo, self._hi = record["at"], record["lo"], record["hi"]

    def take_over(self, journal: Journal) -> None:
        """Settle what the journal knows; the rest of the open window is in doubt."""
        before = self._before
        for index, state in journal.settled.items():
            if index < len(self.states):
                self.states[index] = state
        believed = before is not None and journal.writer == before.token and _same_machine(before, self._run)
        for index in range(self._lo, self._hi):
            if self.states[index] == OPEN and (index in journal.begun or not believed):
                self.states[index] = DOUBT
        for index, state in enumerate(self.states):
            if state == LATER:
                self.states[index] = OPEN
        if before is not None:
            self.close()

    def announce(self, hi: int) -> None:
        """Say that the open rows before ``hi`` are about to be sent."""
        self._hi = max(hi, self._hi)
        found = self.states.find(OPEN, self._lo, self._hi)
        self._lo = self._hi if found < 0 else found
        failpoint("email.send_batch.before_announce")
        self._run.lease.check()
        self._write(self._run.clock.now().timestamp() + self.FRESH + self._seconds)
        failpoint("email.send_batch.after_announce")
        self._run.lease.check()
        self._stale_at = self._run.clock.monotonic() + self.FRESH

    @property
    def stale(self) -> bool:
        """The announcement is too old to be acted upon: another attempt may take it for over."""
        return self._run.clock.monotonic() >= self._stale_at

    def renew(self) -> None:
        self.announce(self._hi)

    def close(self) -> None:
        """Nothing is in flight any more, and what is still open was not sent."""
        self._run.lease.check()
        self._lo = self._hi = 0
        self._write(0.0)

    def _write(self, until: float) -> None:
        record = {
            "state": "intended",
            "fingerprint": self._fingerprint,
            "at": self.at,
            "lo": self._lo,
            "hi": self._hi,
            "planes": _packed(self.states),
            "owner": self._run.lease.owner.to_json(),
            "until": until,
        }
        self._run.journal.write("effect", NAME, record)


def _same_machine(owner: Owner, run: Run) -> bool:
    """The same boot of the same machine: its page cache has everything that was written."""
    return owner.machine == run.lease.owner.machine and not owner.machine.endswith("/")


_LETTERS = {"s": SENT, "r": REFUSED, "l": LATER}


class Journal:
    """One line for each step of each row.

    :param path: of this batch alone; its folder is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.writer = ""
        self.begun: set[int] = set()
        self.settled: dict[int, int] = {}
        self.reasons: dict[int, str] = {}

    def read(self) -> None:
        """Take up what an earlier attempt wrote, up to the first line that is damaged."""
        if not self._path.is_file() or self._path.is_symlink():
            return
        with disk_errors(str(self._path)), self._path.open("rb") as file:
            for line in file:
                words = line.decode("utf-8", "replace").split(" ", 2)
                if not line.endswith(b"\n") or len(words) != 3 or not self._take(*words):
                    return

    def _take(self, kind: str, what: str, rest: str) -> bool:
        if kind == "h":
            self.writer = what
        elif not what.isdecimal():
            return False
        elif kind == "b":
            self.begun.add(int(what))
        else:
            index = int(what)
            self.begun.discard(index)
            if kind in _LETTERS:
                self.settled[index] = _LETTERS[kind]
                self.reasons[index] = str(json.loads(rest)) if rest.strip() else ""
        return True

    def begin(self, writer: str) -> None:
        """Start a new file, with the reasons of the old one; an attempt that is taken for dead keeps its own."""
        part = self._path.with_suffix(".part")
        reasons = {index: why for index, why in self.reasons.items() if why and self.settled[index] == REFUSED}
        with disk_errors(str(self._path)):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(part, flags, 0o600)
            os.write(self._file, f"h {writer} \n".encode())
            for index, why in reasons.items():
                os.write(self._file, f"r {index} {json.dumps(why)}\n".encode())
            part.replace(self._path)

    def note(self, kind: str, index: int, why: str = "") -> None:
        """``b``: the message is about to go out; ``s`` sent, ``r`` refused, ``l`` refused for now, ``n`` not sent."""
        if self._file is None:
            raise ValueError("the journal is not open")
        with disk_errors(str(self._path)):
            os.write(self._file, f"{kind} {index} {json.dumps(why) if why else ''}\n".encode())

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """The batch is done and nobody will ask."""
        self.close()
        self._path.unlink(missing_ok=True)
