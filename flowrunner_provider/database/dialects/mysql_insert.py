"""Rows as ``INSERT`` statements, for a server that takes no ``LOAD DATA LOCAL``: the default of MySQL 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["InsertStream"]

_LONGEST = 512 * 1024  # bytes of a statement; a server takes at least 1 MiB (max_allowed_packet)


class InsertStream:
    """Takes the same bytes as :class:`~flowrunner_provider.database.dialects.mysql_wire.LoadStream`.

    The escapes of that text form are those of string literals, so a value only needs its quotes.

    :param head: the statement up to ``VALUES``.
    :param forms: for each column how its value is made from a literal, with ``{}`` for the literal.
    :param insert: runs a statement and returns how many rows it stored.
    """

    def __init__(self, head: str, forms: Sequence[str], insert: Callable[[bytes], int]) -> None:
        self._head, self._insert = head.encode(), insert
        self._forms = [tuple(part.encode() for part in form.split("{}")) for form in forms]
        self._rest = b""
        self.affected = 0

    def write(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        rows: list[bytes] = []
        size = 0
        for line in lines:
            row = self._row(line)
            if rows and size + len(row) > _LONGEST:
                self._flush(rows)
                rows, size = [], 0
            rows.append(row)
            size += len(row) + 1
        if rows:
            self._flush(rows)

    def _row(self, line: bytes) -> bytes:
        values = [
            b"NULL" if text == b"\\N" else before + b"'" + text.replace(b"'", b"''") + b"'" + after
            for text, (before, after) in zip(line.split(b"\t"), self._forms, strict=True)
        ]
        return b"(" + b",".join(values) + b")"

    def _flush(self, rows: Sequence[bytes]) -> None:
        self.affected += self._insert(self._head + b",".join(rows))
