"""Checkpoints: how far the work has come, so that the next attempt continues from there.

A checkpoint holds cursors, offsets and upload ids, never data. It may lag behind the work by a few seconds, so
everything after it must be safe to repeat.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.journal import Journal

__all__ = ["Checkpoint", "fingerprint"]


def fingerprint(*parts: Any) -> str:
    """Return a short hash of what identifies a piece of work: parameters, not data (JSON values, or bytes)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


class Checkpoint:
    """One named cursor of a task.

    :param journal: stores it.
    :param name: unique within the task.
    :param identity: :func:`fingerprint` of the work; a checkpoint of other work is not resumed.
    :param resume: False ignores checkpoints of earlier attempts.
    :param every: minimum seconds between two writes of :meth:`save`.
    :param guard: called before each write; raises if a newer attempt has taken over.
    """

    def __init__(
        self,
        journal: Journal,
        name: str,
        *,
        identity: str = "",
        resume: bool = True,
        every: float = 3.0,
        guard: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._journal, self.name, self._identity = journal, name, identity
        self._every, self._guard, self._clock = every, guard, clock
        self._saved_at = clock.monotonic()
        record = journal.read("checkpoint", name) if resume else None
        self.state: Any = record["state"] if record and record.get("identity") == identity else None

    def save(self, state: Any, *, force: bool = False) -> bool:
        """Save ``state`` (JSON); return whether it was written now.

        :param force: write at once; otherwise at most every few seconds, because each write is a network call.
        """
        now = self._clock.monotonic()
        if not force and now - self._saved_at < self._every:
            return False
        self._guard()
        failpoint(f"checkpoint.{self.name}.before_save")
        self._journal.write("checkpoint", self.name, {"identity": self._identity, "state": state})
        failpoint(f"checkpoint.{self.name}.after_save")
        self.state, self._saved_at = state, now
        return True
