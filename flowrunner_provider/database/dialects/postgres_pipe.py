"""The sync part of a PostgreSQL session: rows in the wire formats of ``COPY``, also for MySQL."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params, Row
from flowrunner_provider.database.dialects.postgres_query import adapted, gathered, opened
from flowrunner_provider.database.dialects.syncing import Form, Sink
from flowrunner_provider.database.identifiers import TableName

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresSync"]

_TO_MYSQL = {
    **dict.fromkeys((18, 19, 20, 21, 23, 25, 26, 114, 700, 701, 1042, 1043, 1082, 1083, 1114, 1700, 2950, 3802), "{}"),
    16: "{}::int",
    1184: "{} AT TIME ZONE 'UTC'",
}
"""Type numbers whose text MySQL reads as the same value -> the SQL that selects it."""
_BYTES = 17
_SAME_BYTES = frozenset(
    {
        16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 650, 700, 701, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1186,
        1266, 1560, 1562, 1700, 2950, 3802, 199, 1000, 1001, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1115,
        1182, 1183, 1185, 1187, 1231, 1270, 2951, 3807,
    }
)  # fmt: skip
"""Types whose binary format is valid on every server; not so ``regclass``, whose numbers belong to one server."""
_FORMATS = {"pg-binary": "binary", "pg-text": "text", "mysql-text": "text"}
_ESCAPED = re.compile(rb"\\(?:\\|f|v)")
_PLAIN = {b"\\\\": b"\\\\", b"\\f": b"\f", b"\\v": b"\v"}


class _BulkSink:
    def __init__(self, stream: psycopg.Copy) -> None:
        self.write, self.rows = stream.write, 0


class PostgresSync(Session):
    """The part of a session for syncs."""

    readable_forms: ClassVar[tuple[Form, ...]] = ("pg-binary", "pg-text")
    _connection: psycopg.Connection[Row]
    _driver: Any

    @abstractmethod
    def typed(self) -> AbstractContextManager[None]:
        """Turn errors of the driver into our own."""

    @abstractmethod
    def _shut_socket(self) -> None:
        """Shut the socket down below the driver."""

    def interrupt(self) -> None:
        self._shut_socket()

    def wire_types(self, query: str, params: Params) -> list[int]:
        with self.typed(), opened(self._connection, query, params) as cursor:
            return [column.type_code for column in cursor.description or ()]

    def select_patterns(
        self, form: Form, codes: Sequence[int], encodings: Sequence[str], target: Sequence[int]
    ) -> list[str]:
        if form == "pg-binary":
            same = list(codes) == list(target) and _SAME_BYTES.issuperset(codes)
            return ["{}"] * len(codes) if same else []
        if form == "pg-text":
            return ["{}"] * len(codes) if target else []
        found = [_for_mysql(code, encoding) for code, encoding in zip(codes, encodings, strict=True)]
        return found if all(found) else []

    def read_blocks(self, query: str, params: Params, form: Form) -> Generator[tuple[bytes, int], None, None]:
        statement = f"COPY ({self._filled(query, params)}\n) TO STDOUT (FORMAT {_FORMATS[form]})"
        with self.typed(), self._connection.cursor() as cursor, cursor.copy(statement):
            count = yield from gathered(self._connection, made=_portable if form == "mysql-text" else bytes)
        yield b"", count

    def _filled(self, query: str, params: Params) -> str:
        """Return the query with its values quoted by the driver, as ``COPY`` takes no parameters."""
        if params is None:
            return query
        return str(self._driver.ClientCursor(self._connection).mogrify(query, adapted(params)))

    @contextmanager
    def open_sink(self, table: TableName, columns: Sequence[str], form: Form) -> Iterator[Sink]:
        statement = f"COPY {self.sql(table)} ({self.names(columns)}) FROM STDIN (FORMAT {_FORMATS[form]})"
        with self.typed(), self._connection.cursor() as cursor:
            with cursor.copy(statement) as stream:
                sink = _BulkSink(stream)
                yield sink
            sink.rows = cursor.rowcount


def _for_mysql(code: int, encoding: str) -> str:
    """Return the SQL that selects a column for MySQL; empty if there is none."""
    if encoding == "binary":
        return "encode({}, 'hex')" if code == _BYTES else "encode(convert_to({}::text, 'UTF8'), 'hex')"
    return _TO_MYSQL.get(code, "")


def _portable(block: bytearray) -> bytes:
    """Replace the escapes of form feed and vertical tab, which MySQL does not know."""
    if b"\\f" not in block and b"\\v" not in block:
        return bytes(block)
    return _ESCAPED.sub(lambda found: _PLAIN[found[0]], block)
