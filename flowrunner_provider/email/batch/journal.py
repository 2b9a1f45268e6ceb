"""The local journal of a batch: one line before and one after each message.

Lines are written without fsync: what a process has written survives its SIGKILL. Only a crash of the machine loses
lines, and then the boot id has changed and the ledger no longer relies on what the journal does *not* say.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.email.batch.states import DEFERRED, REFUSED, SENT

__all__ = ["Journal"]

_HEADER, _STARTED, _WITHDRAWN = "h", "b", "n"
_KIND_OF = {SENT: "s", REFUSED: "r", DEFERRED: "l"}
_STATE_OF = {kind: state for state, kind in _KIND_OF.items()}


class Journal:
    """What happened to each row, as far as this machine knows.

    ``writer`` is the lease token of the attempt that wrote the journal, or empty if the journal is missing or damaged.
    ``in_flight`` has the rows whose message was started and not finished, ``settled`` the states of the finished rows.

    :param path: the file; its folder is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.writer = ""
        self.in_flight: set[int] = set()
        self.settled: dict[int, int] = {}
        self.reasons: dict[int, str] = {}

    def load(self) -> None:
        """Read the lines of an earlier attempt, up to the first damaged one."""
        if not self._path.is_file() or self._path.is_symlink():
            return
        with disk_errors(str(self._path)), self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):  # torn by a full disk: its message was never sent
                    return
                if not self._apply(line.decode("utf-8", "replace")):
                    self.writer = ""  # the lines behind it are lost, so rows that they start look untouched
                    return

    def _apply(self, line: str) -> bool:
        """Apply one line; return False if it is damaged."""
        kind, _, rest = line.partition(" ")
        name, _, text = rest.partition(" ")
        reason = _reason(text)
        if reason is None:
            return False
        if kind == _HEADER:
            self.writer = name
            return True
        if not name.isdecimal():
            return False
        index = int(name)
        if kind == _STARTED:
            self.in_flight.add(index)
        elif kind == _WITHDRAWN:
            self.in_flight.discard(index)
        elif kind in _STATE_OF:
            self.in_flight.discard(index)
            self.settled[index] = _STATE_OF[kind]
            self.reasons[index] = reason
        else:
            return False
        return True

    def create(self, writer: str) -> None:
        """Replace the journal by a new one that keeps only the reasons of refusals.

        An older attempt that is still alive goes on writing to its own, now unnamed, file.

        :param writer: the lease token of this attempt.
        """
        part = self._path.with_suffix(".part")
        with disk_errors(str(self._path)):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(part, flags, 0o600)
        self._append(_HEADER, writer)
        for index, reason in self.reasons.items():
            if reason and self.settled[index] == REFUSED:
                self._append(_KIND_OF[REFUSED], index, reason)
        with disk_errors(str(self._path)):
            part.replace(self._path)

    def start(self, index: int) -> None:
        """Record that the message of a row is about to be handed to the server."""
        self._append(_STARTED, index)

    def withdraw(self, index: int) -> None:
        """Record that the message was not sent after all."""
        self._append(_WITHDRAWN, index)

    def settle(self, index: int, state: int, reason: str = "") -> None:
        """Record the final state of a row in this attempt: sent, refused or deferred."""
        self._append(_KIND_OF[state], index, reason)

    def _append(self, kind: str, name: int | str, reason: str = "") -> None:
        if self._file is None:
            raise ValueError("the journal is not open")
        line = f"{kind} {name} {json.dumps(reason) if reason else ''}\n".encode()
        with disk_errors(str(self._path)):
            if os.write(self._file, line) < len(line):  # the disk became full in the middle of the line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Delete the journal of a finished batch."""
        self.close()
        self._path.unlink(missing_ok=True)


def _reason(text: str) -> str | None:
    """Return the reason at the end of a line, empty if there is none, or None if it is damaged."""
    if not text.strip():
        return ""
    try:
        reason = json.loads(text)
    except ValueError:
        return None
    return reason if isinstance(reason, str) else None
