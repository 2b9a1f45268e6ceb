"""The ledger of a batch: which rows have their mail, and which may be in flight.

It is one record in the task's state store: the state of every row, and the open *window* ``[lo, hi)`` of rows that
were announced before they are sent. The record is written once per window, so confirmations lag by at most one window.
The :mod:`journal <flowrunner_provider.email.batch.journal>` on the worker's disk closes that gap: after a killed
worker, a retry on the same machine has only the messages that were in flight in doubt, a retry elsewhere the rows of
the open window.
"""

from __future__ import annotations

from flowrunner_provider.core.errors import ConfigError, PermanentError, Unavailable
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.lease import Owner
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.batch.journal import Journal
from flowrunner_provider.email.batch.states import DEFERRED, IN_DOUBT, PENDING, pack, unpack

__all__ = ["MAX_ROWS", "NAME", "Ledger"]

NAME = "email.send_batch"
MAX_ROWS = 110_000
"""The most rows of a batch: their states always fit into one record of the state store."""


class Ledger:
    """The state of every row.

    :param run: provides the state store, the lease and the clock.
    :param fingerprint: of rows and content; a retry with other ones is refused.
    :param total: the number of rows.
    :param seconds: the longest time that a message can stay in flight.
    """

    FRESH = 30.0
    """Seconds after an announcement during which its messages may be sent."""

    def __init__(self, run: Run, fingerprint: str, total: int, seconds: float) -> None:
        if total > MAX_ROWS:
            raise ConfigError(
                f"a batch of {total:,} rows exceeds the limit of {MAX_ROWS:,}",
                field="recipients",
                remedy="split the rows, e.g. into mapped tasks",
            )
        self._run, self._fingerprint, self._seconds = run, fingerprint, seconds
        self.states = bytearray(total)
        self.started_at = run.clock.now().replace(microsecond=0).isoformat()
        self._lo = self._hi = 0
        self._stale_after = (0.0, 0.0)
        self._previous: Owner | None = None

    def load(self) -> None:
        """Read the record of an earlier attempt.

        :raises PermanentError: when that attempt sent other content.
        :raises Unavailable: while another attempt may still be sending.
        """
        record = self._run.journal.read("effect", NAME)
        if record is None:
            return
        if record["fingerprint"] != self._fingerprint:
            raise PermanentError(
                "an earlier attempt of this task had other recipients or another content",
                remedy="keep the current time and try numbers out of both, or start a new run with the remaining rows",
            )
        self._previous = Owner.from_json(record["owner"])
        left = record["until"] - self._run.clock.now().timestamp()
        if self._previous.token != self._run.lease.owner.token and left > 0 and not self._previous.known_dead():
            raise Unavailable(
                "another attempt of this task may still be sending",
                retry_after=left,
                remedy="nothing to do: the retry waits for it",
            )
        self.states = unpack(record["planes"], len(self.states))
        self.started_at, self._lo, self._hi = record["at"], record["lo"], record["hi"]

    def recover(self, journal: Journal) -> None:
        """Apply the previous attempt's journal; rows of the open window that it cannot settle are in doubt."""
        previous = self._previous
        for index, state in journal.settled.items():
            if index < len(self.states):
                self.states[index] = state
        complete = previous is not None and journal.writer == previous.token and _same_boot(previous, self._run)
        for index in range(self._lo, self._hi):
            if self.states[index] == PENDING and (index in journal.in_flight or not complete):
                self.states[index] = IN_DOUBT
        for index, state in enumerate(self.states):
            if state == DEFERRED:
                self.states[index] = PENDING
        if previous is not None:
            self.close()

    def announce(self, hi: int) -> None:
        """Record that the pending rows before ``hi`` are about to be sent.

        :raises Fenced: when a newer attempt has taken over.
        """
        self._hi = max(hi, self._hi)
        pending = self.states.find(PENDING, self._lo, self._hi)
        self._lo = self._hi if pending < 0 else pending
        failpoint("email.send_batch.before_announce")
        self._run.lease.check()
        clock = self._run.clock
        wall, monotonic = clock.now().timestamp() + self.FRESH, clock.monotonic() + self.FRESH
        self._write(wall + self._seconds)
        failpoint("email.send_batch.after_announce")
        self._run.lease.check()
        self._stale_after = wall, monotonic

    def renew(self) -> None:
        """Announce the open window again if its announcement is too old to send on.

        Another attempt takes an old announcement for finished. Both clocks count: the monotonic one stands still while
        a machine is suspended, and the wall clock can be set back.

        :raises Fenced: when a newer attempt has taken over.
        """
        clock = self._run.clock
        wall, monotonic = self._stale_after
        if clock.now().timestamp() >= wall or clock.monotonic() >= monotonic:
            self.announce(self._hi)

    def close(self) -> None:
        """Record that nothing is in flight: rows that are still pending were not sent."""
        self._run.lease.check()
        self._lo = self._hi = 0
        self._write(0.0)

    def _write(self, until: float) -> None:
        record = {
            "state": "intended",
            "fingerprint": self._fingerprint,
            "at": self.started_at,
            "lo": self._lo,
            "hi": self._hi,
            "planes": pack(self.states),
            "owner": self._run.lease.owner.to_json(),
            "until": until,
        }
        self._run.journal.write("effect", NAME, record)


def _same_boot(owner: Owner, run: Run) -> bool:
    """Whether ``owner`` ran on this machine since its last boot, so that the page cache holds all it has written."""
    return owner.machine == run.lease.owner.machine and not owner.machine.endswith("/")
