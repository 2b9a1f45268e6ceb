"""Rows that do not fit are found by halving their batch, and set aside in a file with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import PartialFailure, Rejected
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Row
from flowrunner_provider.database.identifiers import TableName

__all__ = ["Rejects", "store"]

_REASONS = 5


class Rejects:
    """The file of rejected rows, JSON Lines, readable by the user alone; it appears when it is whole.

    :param token: names the load, the same in every attempt.
    :param columns: the names of the values of a row.
    :param limit: how many rows may be set aside.
    """

    def __init__(self, path: str, token: str, columns: Sequence[str], limit: int) -> None:
        self._file = PartFile(Path(path), token)
        self._file.open()
        self._columns, self._limit = columns, limit
        self._reasons: dict[str, str] = {}
        self.count = 0

    def add(self, number: int, row: Row, error: Rejected) -> None:
        """Set row ``number`` (from 1) aside.

        :raises PartialFailure: if there are too many.
        """
        self.count += 1
        reason = error.message.partition(", near row")[0]
        if len(self._reasons) < _REASONS:
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
        self._file.write(json.dumps(record, ensure_ascii=True, default=str).encode() + b"\n")

    def publish(self) -> None:
        """The file has its final name."""
        failpoint("sql.load.before_rejects")
        self._file.commit(mode=0o600)
        failpoint("sql.load.after_rejects")

    def discard(self) -> None:
        """Nothing was stored: remove what there is of the file."""
        self._file.discard()


def store(
    session: Session, table: TableName, columns: Sequence[str], batch: Sequence[Row], first: int, rejects: Rejects
) -> int:
    """Store what fits of ``batch`` and set the rest aside; return how many rows were stored.

    Costs some ``2 * log2(len(batch))`` savepoints for each row that does not fit.

    :param first: the number of the batch's first row.
    """
    stored = 0
    todo: list[tuple[Sequence[Any], int]] = [(batch, first)]
    while todo:
        rows, number = todo.pop()
        session.savepoint()
        try:
            with session.copy(table, columns) as copier:
                copier.write(rows)
        except Rejected as error:
            session.back()
            if not error.code.startswith(session.row_errors):
                raise
            if len(rows) == 1:
                rejects.add(number, rows[0], error)
            else:
                half = len(rows) // 2
                todo += [(rows[half:], number + half), (rows[:half], number)]
        else:
            session.keep()
            stored += copier.rows
    return stored
