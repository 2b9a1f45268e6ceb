"""The lease: of two attempts of one task that run at once, only the newer one may act.

Airflow starts a new attempt when it has lost sight of the old one, which may be alive all the same
(a zombie). Each attempt writes its own :class:`Owner` into the lease when it starts, and reads it
again after it has announced an effect and before it acts. Since the old attempt writes its intent
*before* it reads the lease, and the new one writes the lease *before* it reads intents, at least
one of the two sees the other.
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


def _started(pid: int) -> str:
    """When the kernel started process ``pid``, in ticks since boot; empty when nobody can tell."""
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
    """Who holds a lease: one process at one time on one machine, and a token that is its own."""

    token: str
    machine: str
    pid: int
    started: str

    @classmethod
    def me(cls) -> Owner:
        """A new owner for the running process."""
        pid = os.getpid()
        return cls(token=secrets.token_hex(8), machine=_machine(), pid=pid, started=_started(pid))

    @classmethod
    def from_json(cls, record: Any) -> Owner:
        return cls(**{name: record[name] for name in ("token", "machine", "pid", "started")})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def known_dead(self) -> bool:
        """True only when this process ran on this machine and is certainly gone."""
        if self.machine != _machine() or not self.started:
            return False
        return _started(self.pid) != self.started


class Lease:
    """This attempt's claim on the task.

    :param store: the task's state store.
    :param owner: this attempt.
    """

    def __init__(self, store: KeyValue, owner: Owner) -> None:
        self._store, self.owner = store, owner

    def take(self) -> None:
        """From now on this attempt is the one that may act; older ones are fenced."""
        self._store.set(_KEY, self.owner.to_json())

    def lost(self) -> bool:
        """Whether a newer attempt has taken over, after an error: False also when nobody can tell."""
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
