"""Find the rows that do not fit by bisecting their batch, and write them to a file with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import PartialFailure, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile
from flowrunner_provider.data.values import json_text
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Row
from flowrunner_provider.database.identifiers import TableName

__all__ = ["Rejects", "store_fitting"]

_MAX_REASONS = 5


class Rejects:
    """The file of rejected rows, JSON Lines, readable by its owner only; it appears when it is complete.

    :param token: identifies the load, the same in every attempt.
    :param columns: the column names of a row.
    :param limit: the maximum number of rejected rows.
    """

    def __init__(self, path: str, token: str, columns: Sequence[str], limit: int) -> None:
        self._file = PartFile(Path(path), token)
        self._file.open()
        self._columns, self._limit = columns, limit
        self._reasons: dict[str, str] = {}
        self.count = 0

    def add(self, number: int, row: Row, error: Rejected) -> None:
        """Reject row ``number`` (from 1).

        :raises PartialFailure: if there are too many.
        """
        self.count += 1
        reason = error.message.partition(", near row")[0]
        if len(self._reasons) < _MAX_REASONS:
            self._reasons[f"row {number}"] = reason
        if self.count > self._limit:
            raise PartialFailure(
                f"more than max_failures={self._limit} rows do not fit the table; nothing was stored",
                done=0,
                failed=self._reasons,
                remedy="correct the source, or raise max_failures",
            )
        values = dict(zip(self._columns, row, strict=True))
        record = {"row": number, "code": error.code, "reason": reason, "values": values}
        valid = json.loads(json_text(record))  # no NaN; escaped below, because a rejected text may be invalid Unicode
        self._file.write(json.dumps(valid, ensure_ascii=True).encode() + b"\n")

    def publish(self) -> None:
        """Move the file to its final name."""
        failpoint("sql.load.before_rejects")
        self._file.commit(mode=0o600)
        failpoint("sql.load.after_rejects")

    def discard(self) -> None:
        """Delete the temporary file; nothing was stored."""
        self._file.discard()


def store_fitting(
    session: Session, table: TableName, columns: Sequence[str], batch: Sequence[Row], first: int, rejects: Rejects
) -> int:
    """Store the rows of ``batch`` that fit and reject the others; return how many rows were stored.

    Uses about ``2 * log2(len(batch))`` savepoints for each rejected row.

    :param first: the number of the batch's first row.
    """
    stored = 0
    pending: list[tuple[Sequence[Any], int]] = [(batch, first)]
    while pending:
        rows, number = pending.pop()
        session.savepoint()
        try:
            with session.copy(table, columns) as copier:
                copier.write(rows)
        except Rejected as error:
            session.rollback_to_savepoint()
            if not error.code.startswith(session.row_errors):
                raise
            if len(rows) == 1:
                rejects.add(number, rows[0], error)
            else:
                half = len(rows) // 2
                pending += [(rows[half:], number + half), (rows[:half], number)]
        else:
            session.release_savepoint()
            stored += copier.rows
    return stored
