"""The lease: of two concurrent attempts of one task, only the newer one may act.

Airflow starts a new attempt when it has lost contact with the old one, which may still be running (a zombie). Each
attempt writes its :class:`Owner` into the lease when it starts, and reads it again after announcing an effect and
before acting. The old attempt writes its intent *before* reading the lease, and the new one writes the lease *before*
reading intents, so at least one of them sees the other.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import Fenced, Unavailable
from flowrunner_provider.core.journal import KeyValue

__all__ = ["Lease", "Owner"]

_KEY = "flowrunner.lease"


def _start_time(pid: int) -> str:
    """Return when the kernel started process ``pid``, in ticks since boot; empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The holder of a lease: one process on one machine, with a unique token."""

    token: str
    machine: str
    pid: int
    started: str

    @classmethod
    def me(cls) -> Owner:
        """Return a new owner for the running process."""
        pid = os.getpid()
        return cls(token=secrets.token_hex(8), machine=_machine(), pid=pid, started=_start_time(pid))

    @classmethod
    def from_json(cls, record: Any) -> Owner:
        return cls(**{name: record[name] for name in ("token", "machine", "pid", "started")})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def known_dead(self) -> bool:
        """Return True only if this process ran on this machine and certainly no longer exists."""
        if self.machine != _machine() or not self.started:
            return False
        return _start_time(self.pid) != self.started


class Lease:
    """This attempt's claim on the task.

    :param store: the task's state store.
    :param owner: this attempt.
    """

    def __init__(self, store: KeyValue, owner: Owner) -> None:
        self._store, self.owner = store, owner

    def take(self) -> None:
        """Make this attempt the only one that may act; older ones are fenced."""
        self._store.set(_KEY, self.owner.to_json())

    def lost(self) -> bool:
        """Return whether a newer attempt has taken over; False also if the store cannot be reached."""
        try:
            self.check()
        except Fenced:
            return True
        except Unavailable:
            return False
        return False

    def check(self) -> None:
        """Raise :class:`Fenced` if a newer attempt has taken over."""
        holder = self._store.get(_KEY)
        if holder is None or holder.get("token") != self.owner.token:
            raise Fenced(
                "a newer attempt of this task has taken over; this one stops before its next effect",
                remedy="nothing to do: the newer attempt finishes the work",
            )
