"""Server-side cursors, ``COPY ... TO STDOUT``, parameters and column types of user queries in PostgreSQL."""

from __future__ import annotations

import csv
import itertools
import re
import select
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import ConnectionLost
from flowrunner_provider.core.extras import load
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import OnBlock, Params, Row
from flowrunner_provider.database.dialects.refusals import distinct
from flowrunner_provider.database.dialects.values import as_json

if TYPE_CHECKING:
    import psycopg

__all__ = ["LEVELS", "adapted", "cast_for", "columns_of", "copied_out", "gathered", "lines_out", "opened", "settle"]

LEVELS: Mapping[Isolation, str] = MappingProxyType(
    {
        "read committed": "READ COMMITTED",
        "repeatable read": "REPEATABLE READ",
        "serializable": "SERIALIZABLE",
    }
)
_SETTINGS = {
    "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
    "synchronize_seqscans": "off",
}  # fmt: skip
_KINDS: Mapping[int, str] = MappingProxyType(
    {
        16: "boolean", 17: "binary", 18: "string", 19: "string", 20: "integer", 21: "integer", 23: "integer",
        25: "string", 26: "integer", 114: "json", 700: "number", 701: "number", 1042: "string", 1043: "string",
        1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1700: "decimal", 2950: "string",
        3802: "json", 1000: "array", 1005: "array", 1007: "array", 1009: "array", 1015: "array", 1016: "array",
        1021: "array", 1022: "array", 1231: "array",
    }
)  # fmt: skip
_BLOCK = 256 * 1024
_ODD = re.compile(r'[",\r\n]')
_names = itertools.count(1)


def settle(session: Session) -> None:
    """Set what the text of values depends on, so that the same rows always give the same text."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())
    session.run(f"SELECT {calls}")


def adapted(params: Params) -> Any:
    """Return parameters for the driver: objects become JSON; None stays, so that ``%`` is not a placeholder."""
    if params is None:
        return None
    if isinstance(params, Mapping):
        return {name: _value(value) for name, value in params.items()}
    return [_value(value) for value in params]


def _value(value: Any) -> Any:
    return as_json(value) if isinstance(value, dict) else value


@contextmanager
def opened(
    connection: psycopg.Connection[Row], query: str, params: Params, *, as_text: bool = False
) -> Iterator[psycopg.ServerCursor[Row]]:
    """Open a server-side cursor, which refuses anything but a single query."""
    with connection.cursor(f"flowrunner_{next(_names)}") as cursor:
        cursor.execute(query, adapted(params))
        if as_text:
            loader = load("psycopg.types.string", extra="postgres", needed_for="reading text").TextLoader
            for column in cursor.description or ():
                cursor.adapters.register_loader(column.type_code, loader)
        yield cursor


def columns_of(connection: psycopg.Connection[Row], query: str, params: Params) -> dict[str, str]:
    """Return the columns of a query: name -> dataset type or ``json``; empty for any other type."""
    with opened(connection, query, params) as cursor:
        found = cursor.description or ()
        names = distinct([column.name for column in found])
        return {name: _KINDS.get(column.type_code, "") for name, column in zip(names, found, strict=True)}


def digits_of(connection: psycopg.Connection[Row], query: str, params: Params) -> dict[str, tuple[int, int]]:
    """Return precision and scale of the columns that have both."""
    with opened(connection, query, params) as cursor:
        return {
            column.name: (column.precision, column.scale)
            for column in cursor.description or ()
            if column.precision is not None and column.scale is not None
        }


def cast_for(kind: str, name: str, target: str) -> str:
    """Cast a column to text where the format lacks its type; in CSV also booleans, as ``true`` and ``false``."""
    as_text = kind == "" or (target == "csv" and kind == "boolean")
    as_text |= target == "parquet" and kind in ("json", "array")
    return f"{name}::text AS {name}" if as_text else name


def gathered(
    connection: psycopg.Connection[Row],
    *,
    block_limit: Callable[[], int] = lambda: sys.maxsize,
    made: Callable[[bytearray], bytes] = bytes,
) -> Generator[tuple[bytes, int], None, int]:
    """Collect the messages of a running COPY, one per row, into blocks; return the server's count.

    Each message is read from libpq directly: the driver's own loop would cost more than everything else.

    :param block_limit: returns the row limit of the next block.
    :param made: converts a block before it is yielded.
    """
    wire = connection.pgconn
    receive = wire.get_copy_data
    block, rows, limit = bytearray(), 0, block_limit()
    while True:
        size, data = receive(1)
        if size > 0:
            block += data  # kept as a list they would keep the garbage collector busy
            rows += 1
            if len(block) < _BLOCK and rows < limit:
                continue
            yield made(block), rows
            block.clear()
            rows, limit = 0, block_limit()
        elif size == 0:
            _readable(wire.socket)
            wire.consume_input()
        else:
            break
    if block:
        yield made(block), rows
    return _ended(connection)


def _readable(descriptor: int) -> None:
    """Wait until the server sends data; the connection's guard ends the wait at the deadline."""
    if descriptor < 0:
        raise ConnectionLost("the connection ended while rows were read")
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    waiting.poll()


def _ended(connection: psycopg.Connection[Row]) -> int:
    driver = load("psycopg", extra="postgres", needed_for="reading rows")
    generators = load("psycopg.generators", extra="postgres", needed_for="reading rows")
    results = connection.wait(generators.fetch_many(connection.pgconn))
    if results[-1].status != driver.pq.ExecStatus.COMMAND_OK:
        raise driver.errors.error_from_result(results[-1], encoding="utf-8")
    return int(results[-1].command_tuples or 0)


def copied_out(connection: psycopg.Connection[Row], block_limit: Callable[[], int], on_block: OnBlock) -> int:
    """Pass on the rows of a running COPY; return the server's count."""
    blocks = gathered(connection, block_limit=block_limit)
    while True:
        try:
            on_block(*next(blocks), ())
        except StopIteration as ended:
            return int(ended.value)


def lines_out(
    connection: psycopg.Connection[Row],
    query: str,
    params: Params,
    block_limit: Callable[[], int],
    on_block: OnBlock,
    shared_columns: int,
) -> int:
    """Pass on the same lines as :func:`copied_out` for a query with parameters, which ``COPY`` does not take.

    :param shared_columns: how many trailing columns to keep out of the lines.
    """
    count = 0
    with opened(connection, query, params, as_text=True) as cursor:
        width = len(cursor.description or ()) - shared_columns
        while batch := cursor.fetchmany(block_limit()):
            for common, found in groupby(batch, lambda row: row[width:]):
                rows = [row[:width] for row in found] if shared_columns else batch
                on_block("".join(_lines(rows)).encode(), len(rows), common)
            count += len(batch)
    return count


class _Lines(list[str]):
    """The lines that ``csv.writer`` writes."""

    write = list.append


def _lines(rows: list[Row]) -> list[str]:
    """Format by Python's writer where it agrees with the server: it does not distinguish NULL and empty text."""
    if len(rows[0]) == 1 or any("" in column for column in zip(*rows, strict=True)):
        return [",".join(map(_field, row)) + "\n" if row != ("\\.",) else '"\\."\n' for row in rows]
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(rows)  # so that CR and LF in values are quoted
    return [line[:-2] + "\n" for line in lines]


def _field(value: str | None) -> str:
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if not value or _ODD.search(value) else value
