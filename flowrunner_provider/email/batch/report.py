"""The report of a batch, its dead-letter file, and the errors of an incomplete batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import OutcomeUnknown, PartialFailure
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile
from flowrunner_provider.email.batch.rows import Row, RowSource
from flowrunner_provider.email.batch.states import DEFERRED, IN_DOUBT, PENDING, REFUSED, SENT

__all__ = ["outcome_unknown", "partial_failure", "write_reports"]

_STATUS = {SENT: "sent", REFUSED: "refused", DEFERRED: "refused", IN_DOUBT: "unknown", PENDING: "skipped"}
_REASONS = {
    REFUSED: "refused in an earlier attempt, on another machine",
    IN_DOUBT: "interrupted while it was sent: it may have been accepted",
    PENDING: "not tried: the batch stopped before this row",
}
_BLOCK = 1 << 18
_SHOWN = 20


def write_reports(
    source: RowSource,
    states: bytearray,
    reasons: Mapping[int, str],
    identify: Callable[[int, Row], tuple[str, str]],
    *,
    report: Path | None,
    dead_letter: Path | None,
    token: str,
) -> None:
    """Write both files atomically, in the order of the rows; a path that is None is not written.

    :param identify: returns address and Message-ID of a row.
    """
    if report is None and dead_letter is None:
        return
    lines, dead = _Lines(report, token), _Lines(dead_letter, token)
    for index, row in source:
        state = states[index]
        address, message_id = identify(index, row)
        line = {
            "row": index,
            "address": address,
            "message_id": message_id,
            "status": _STATUS[state],
            "reason": reasons.get(index) or _REASONS.get(state) if state != SENT else None,
        }
        lines.add(line)
        if state in (REFUSED, DEFERRED, IN_DOUBT):
            dead.add({**line, "item": row})
    for file in (lines, dead):
        failpoint("email.send_batch.before_report")
        file.commit()
        failpoint("email.send_batch.after_report")


class _Lines:
    def __init__(self, path: Path | None, token: str) -> None:
        self._file = PartFile(path, token) if path else None
        self._pending = bytearray()
        if self._file:
            self._file.open(0)

    def add(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(line, ensure_ascii=False, default=str)
        self._pending += text.encode("utf-8", "backslashreplace") + b"\n"
        if len(self._pending) > _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._file:
            self._file.write(bytes(self._pending))
            self._pending.clear()

    def commit(self) -> None:
        if self._file:
            self._flush()
            self._file.commit()


def outcome_unknown(states: bytearray, report: Path | None, key: str, *, reconcilable: bool) -> OutcomeUnknown:
    """Return the error of a batch with mails in doubt."""
    rows = [str(index) for index, state in enumerate(states) if state == IN_DOUBT]
    named = ", ".join(rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
    where = f"; the report {report} has their Message-IDs" if report else ""
    return OutcomeUnknown(
        f"{len(rows):,} of {len(states):,} mails may or may not have been sent: rows {named}{where}",
        effect_key=key,
        reconcilable=reconcilable,
        remedy="look for them at the mail server; then clear the task with on_unknown='resend' or 'skip'",
    )


def partial_failure(states: bytearray, reasons: Mapping[int, str], report: Path | None) -> PartialFailure:
    """Return the error of a batch with refused or skipped rows."""
    rows = [index for index, state in enumerate(states) if state in (REFUSED, DEFERRED)]
    failed = {str(index): reasons.get(index) or "refused in an earlier attempt" for index in rows[:_SHOWN]}
    first = "; ".join(f"row {index}: {why}" for index, why in list(failed.items())[:3])
    skipped, later = states.count(PENDING), DEFERRED in states
    rest = f"; stopped there, {skipped:,} were not tried" if skipped else ""
    where = f"; all are in {report}" if report else ""
    remedy = "a retry sends only to those refused for now"
    if not later:
        remedy = "those with a mail are not sent it again; start a new run with the other rows, corrected"
    return PartialFailure(
        f"{len(rows):,} of {len(states):,} rows were refused{rest}: {first}{where}",
        done=states.count(SENT),
        failed=failed,
        retryable=later,
        remedy=remedy,
    )
