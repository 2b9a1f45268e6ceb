"""Failed items of a batch: one line each in the dead letter, a summary in the error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import FlowRunnerError, OutcomeUnknown, PartialFailure, TransientError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile

__all__ = ["BatchItem", "Failures", "interrupted"]

_SHOWN = 20


@dataclass(slots=True)
class BatchItem:
    """One item of the batch.

    :param tries: requests sent for it in this attempt.
    :param faults: those that failed without a Retry-After.
    :param maybe_done: a request of this or an earlier attempt may have been carried out.
    """

    index: int
    value: Any
    tries: int = 0
    faults: int = 0
    maybe_done: bool = False


def interrupted(numbers: list[int], reason: str) -> OutcomeUnknown:
    """Return the error for items whose outcome is unknown."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    return OutcomeUnknown(
        f"{reason}: {len(numbers):,} items may have been carried out, those with index {shown}",
        reconcilable=False,
        remedy="check the far side, then clear the task with on_unknown='resend' or 'skip'",
    )


@dataclass
class Failures:
    """Counts failed items, keeps the first reasons, and writes the dead letter.

    :param path: the dead letter, if requested.
    :param token: names this task's temporary files, the same in every attempt.
    """

    path: Path | None
    token: str
    count: int = 0
    retryable: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    in_doubt: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = PartFile(self.path, self.token) if self.path else None

    def open(self) -> None:
        """Start an empty dead letter."""
        if self._file is not None:
            self._file.open(0)

    def add(self, item: BatchItem, error: FlowRunnerError) -> None:
        """Record one failed item."""
        self.count += 1
        self.retryable = self.retryable or isinstance(error, TransientError)
        if isinstance(error, OutcomeUnknown):
            self.in_doubt.append(item.index)
        if len(self.reasons) < _SHOWN:
            self.reasons[str(item.index)] = f"{type(error).__name__}: {error.message}"
        if self._file is not None:
            line = {
                "index": item.index,
                "item": item.value,
                "error": type(error).__name__,
                "message": error.message,
                "status": error.status or None,
                "attempt": item.tries,
            }
            text = json.dumps(line, ensure_ascii=False, default=str)
            self._file.write(text.encode("utf-8", "surrogatepass") + b"\n")

    def commit(self) -> None:
        """Give the dead letter its final name; it is empty if nothing failed."""
        if self._file is not None:
            failpoint("http.batch.before_dead_letter")
            self._file.commit()
            failpoint("http.batch.after_dead_letter")

    def withdraw(self) -> None:
        """Close the temporary file, and delete it unless the attempt that took over owns it."""
        if self._file is not None:
            self._file.withdraw()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def as_error(self, items: int, settled: int, *, stopped: bool) -> FlowRunnerError:
        """Return the error that ends the batch."""
        if self.in_doubt:
            return interrupted(self.in_doubt, "answers were lost")
        dead_letter = f"; see {self.path} for all of them" if self.path else ""
        stop_note = "; stopped, the remaining items were not tried" if stopped else ""
        first = "; ".join(f"item {number}: {reason}" for number, reason in list(self.reasons.items())[:3])
        return PartialFailure(
            f"{self.count:,} of {items:,} items failed{stop_note}: {first}{dead_letter}",
            done=settled,
            failed=self.reasons,
            retryable=self.retryable,
            remedy="a retry sends only the items that are not done"
            if self.retryable
            else "correct the items, then clear the task",
        )
