"""The items of a batch that failed: in the dead letter one by one, in the error counted."""

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
    """One item on its way.

    :param tries: requests that were sent for it in this attempt.
    :param faults: those of them that broke without a word of when to come again.
    :param maybe_done: one of them, in this attempt or an earlier one, may have been carried out.
    """

    index: int
    value: Any
    tries: int = 0
    faults: int = 0
    maybe_done: bool = False


def interrupted(numbers: list[int], why: str) -> OutcomeUnknown:
    """Nobody knows of these items."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    return OutcomeUnknown(
        f"{why}: {len(numbers):,} items may have been carried out, those with index {shown}",
        reconcilable=False,
        remedy="look at the far side; then clear the task with on_unknown='resend' or 'skip'",
    )


@dataclass
class Failures:
    """Counts what failed and keeps the first reasons; the rest is in the dead letter.

    :param path: of the dead letter, if one is wanted.
    :param token: names this task, the same in every attempt.
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
        """Begin an empty dead letter."""
        if self._file is not None:
            self._file.open(0)

    def add(self, item: BatchItem, error: FlowRunnerError) -> None:
        """One more item failed."""
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
        """The dead letter appears under its name; it is empty when nothing failed."""
        if self._file is not None:
            failpoint("http.batch.before_dead_letter")
            self._file.commit()
            failpoint("http.batch.after_dead_letter")

    def withdraw(self) -> None:
        """Let go of a part that is not that of the attempt that has taken over."""
        if self._file is not None:
            self._file.withdraw()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def as_error(self, items: int, settled: int, *, stopped: bool) -> FlowRunnerError:
        """What the batch ends with."""
        if self.in_doubt:
            return interrupted(self.in_doubt, "answers were lost")
        where = f"; all are in {self.path}" if self.path else ""
        more = "; stopped there, the rest was not tried" if stopped else ""
        first = "; ".join(f"item {number}: {reason}" for number, reason in list(self.reasons.items())[:3])
        return PartialFailure(
            f"{self.count:,} of {items:,} items failed{more}: {first}{where}",
            done=settled,
            failed=self.reasons,
            retryable=self.retryable,
            remedy="a retry does only what is not done" if self.retryable else "correct the items, then clear the task",
        )
