"""Rows in the bulk load format ([MS-TDS] 2.2.6.1), each value encoded as the type of its column.

A value that does not fit is rejected here, before any part of its batch is sent.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.dialects.model import Row
from flowrunner_provider.database.dialects.mssql_errors import refused_row
from flowrunner_provider.database.dialects.mssql_tables import Described
from flowrunner_provider.database.dialects.values import as_json, unencodable

__all__ = ["Encoder", "encoded", "encoder", "metadata"]

_UNREADABLE, _RANGE, _TOO_LONG, _CODE_PAGE, _NO_UUID = 8114, 8115, 2628, 2113, 8169
_INTEGERS = {"tinyint": 1, "smallint": 2, "int": 4, "bigint": 8}
_WHOLE = re.compile(r"\s*[+-]?\d{1,40}\s*", re.ASCII)
_TRUE, _FALSE = frozenset({"1", "true", "t", "yes", "y", "on"}), frozenset({"0", "false", "f", "no", "n", "off"})
_DAYS_BEFORE_1900 = date(1900, 1, 1).toordinal()
_EXACT, _FARTHEST_ZONE = Context(prec=100), timedelta(hours=14)
_TIME_BYTES = (3, 3, 3, 4, 4, 5, 5, 5)  # by scale
_CHUNKS, _UNKNOWN, _NO_CHUNKS = b"\xff" * 8, struct.pack("<Q", 2**64 - 2), b"\0" * 4


class Encoder:
    """Encodes a column: its type in the statement and in the stream, and its values.

    :param declaration: the type in ``INSERT BULK``.
    :param info: TYPE_INFO; for a text it is followed by the collation.
    :param null: the encoded NULL.
    :param write: encodes a value that is not NULL.
    """

    def __init__(
        self, declaration: str, info: bytes, null: bytes, write: Callable[[Any], bytes], *, text: bool = False
    ) -> None:
        self.declaration, self.info, self.null, self.text = declaration, info, null, text
        self._write = write

    def column(self, values: Sequence[Any]) -> list[bytes]:
        """Encode the values of a column."""
        null, write = self.null, self._write
        return [null if value is None else write(value) for value in values]


def encoder(column: Described) -> Encoder:
    """Return the encoder of a column.

    :raises ConfigError: for a type that cannot be loaded.
    """
    for kinds, make in _ENCODERS:
        if column.kind in kinds:
            return make(column)
    raise ConfigError(
        f"the column {column.name!r} is of a type that cannot be loaded ({column.kind or 'a .NET type'})",
        field="column_map",
        remedy="map it to null, and fill it with a statement after the load",
    )


def metadata(columns: Sequence[Described], encoders: Sequence[Encoder], collation: bytes) -> bytes:
    """Return the COLMETADATA of the stream."""
    parts = [b"\x81", struct.pack("<H", len(columns))]
    for column, coder in zip(columns, encoders, strict=True):
        name = column.name.encode("utf-16-le")
        parts += [
            struct.pack("<IH", 0, 0x0009), coder.info, collation if coder.text else b"", bytes([len(name) // 2]), name,
        ]  # fmt: skip
    return b"".join(parts)


def encoded(rows: Sequence[Row], encoders: Sequence[Encoder]) -> bytes:
    """Return the encoded rows of a batch and the token that ends them.

    :raises Rejected: if a value does not fit its column.
    """
    columns = [coder.column(values) for coder, values in zip(encoders, zip(*rows, strict=True), strict=True)]
    end = b"\xfd" + bytes(12)
    return b"".join([b"\xd1" + b"".join(row) for row in zip(*columns, strict=True)]) + end


# -- numbers ---------------------------------------------------------------------------------------------------


def _integer(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    number = _decimal(value)
    if number != number.to_integral_value():
        raise refused_row(_UNREADABLE)
    return int(number)


def _plain(text: str) -> str:
    """Raise for underscores and non-ASCII digits, which Python would accept."""
    if "_" in text or not text.isascii():
        raise refused_row(_UNREADABLE)
    return text


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool):
        return Decimal(int(value))
    text = repr(value) if isinstance(value, float) else str(value).strip()
    try:
        number = Decimal(_plain(text))
    except InvalidOperation:
        raise refused_row(_UNREADABLE) from None
    if not number.is_finite() or abs(number.adjusted()) > 400:
        raise refused_row(_UNREADABLE if not number.is_finite() else _RANGE)
    return number


def _integers(column: Described) -> Encoder:
    size = _INTEGERS[column.kind]
    signed = size > 1

    def write(value: Any) -> bytes:
        try:
            return head + (value if type(value) is int else _integer(value)).to_bytes(size, "little", signed=signed)
        except OverflowError:
            raise refused_row(_RANGE) from None

    head = bytes([size])
    return Encoder(column.declaration, bytes([0x26, size]), b"\0", write)


def _bits(column: Described) -> Encoder:
    def write(value: Any) -> bytes:
        text = str(value).strip().lower()
        if text not in _TRUE and text not in _FALSE:
            raise refused_row(_UNREADABLE)
        return b"\x01\x01" if text in _TRUE else b"\x01\x00"

    return Encoder(column.declaration, b"\x68\x01", b"\0", write)


def _floats(column: Described) -> Encoder:
    size, form = (4, "<f") if column.kind == "real" else (8, "<d")

    def write(value: Any) -> bytes:
        try:
            number = float(_plain(value) if isinstance(value, str) else value)
            data = struct.pack(form, number)
        except (TypeError, ValueError):
            raise refused_row(_UNREADABLE) from None
        except OverflowError:
            raise refused_row(_RANGE) from None
        if number - number != 0:  # infinite or NaN
            raise refused_row(_UNREADABLE)
        return bytes([size]) + data

    return Encoder(column.declaration, bytes([0x6D, size]), b"\0", write)


def _scaled(value: Any, scale: int, most: int) -> int:
    number = int(_decimal(value).scaleb(scale, _EXACT).to_integral_value(ROUND_HALF_UP, _EXACT))
    if not -most <= number <= most:
        raise refused_row(_RANGE)
    return number


def _decimals(column: Described) -> Encoder:
    precision, scale = column.precision, column.scale
    size = next(size for most, size in ((9, 4), (19, 8), (28, 12), (38, 16)) if precision <= most)
    head, most = bytes([size + 1]), 10**precision - 1

    def write(value: Any) -> bytes:
        number = _scaled(value, scale, most)
        return head + (b"\0" if number < 0 else b"\1") + abs(number).to_bytes(size, "little")

    return Encoder(column.declaration, bytes([0x6A, size + 1, precision, scale]), b"\0", write)


def _moneys(column: Described) -> Encoder:
    small = column.kind == "smallmoney"

    def write(value: Any) -> bytes:
        number = _scaled(value, 4, 2**63)
        try:
            if small:
                return b"\x04" + struct.pack("<i", number)
            return b"\x08" + struct.pack("<iI", number >> 32, number & 0xFFFFFFFF)
        except struct.error:
            raise refused_row(_RANGE) from None

    return Encoder(column.declaration, bytes([0x6E, 4 if small else 8]), b"\0", write)


# -- dates and times ---------------------------------------------------------------------------------------------------


def _timestamp(value: Any) -> datetime:
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
    except ValueError:
        raise refused_row(_UNREADABLE) from None
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    raise refused_row(_UNREADABLE)


def _naive(value: Any) -> datetime:
    moment = _timestamp(value)
    try:
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment
    except OverflowError:
        raise refused_row(242) from None


def _day(moment: date) -> bytes:
    return (moment.toordinal() - 1).to_bytes(3, "little")


def _ticks(moment: time | datetime, scale: int) -> int:
    micros = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond
    return int(micros * 10 ** (scale - 6) if scale >= 6 else micros // 10 ** (6 - scale))


def _dates(column: Described) -> Encoder:
    return Encoder(column.declaration, b"\x28", b"\0", lambda value: b"\x03" + _day(_timestamp(value)))


def _times(column: Described) -> Encoder:
    scale = column.scale
    size = _TIME_BYTES[scale]

    def write(value: Any) -> bytes:
        if isinstance(value, str):
            try:
                value = time.fromisoformat(value.strip())
            except ValueError:
                raise refused_row(_UNREADABLE) from None
        if not isinstance(value, time | datetime):
            raise refused_row(_UNREADABLE)
        return bytes([size]) + _ticks(value, scale).to_bytes(size, "little")

    return Encoder(column.declaration, bytes([0x29, scale]), b"\0", write)


def _timestamps(column: Described) -> Encoder:
    scale, zoned = column.scale, column.kind == "datetimeoffset"
    size = _TIME_BYTES[scale]
    head = bytes([size + (5 if zoned else 3)])

    def write(value: Any) -> bytes:
        moment = _naive(value)
        data = head + _ticks(moment, scale).to_bytes(size, "little") + _day(moment)
        if not zoned:
            return data
        offset = _timestamp(value).utcoffset() or timedelta()
        if abs(offset) > _FARTHEST_ZONE:
            raise refused_row(242)
        return data + struct.pack("<h", int(offset.total_seconds()) // 60)

    return Encoder(column.declaration, bytes([0x2B if zoned else 0x2A, scale]), b"\0", write)


def _legacy_timestamps(column: Described) -> Encoder:
    small = column.kind == "smalldatetime"

    def write(value: Any) -> bytes:
        moment = _naive(value)
        if moment.year < (1900 if small else 1753):
            raise refused_row(242)
        seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second + moment.microsecond / 1_000_000
        unit, per_day = (1 / 60, 1440) if small else (300, 86400 * 300)
        days, count = moment.toordinal() - _DAYS_BEFORE_1900, round(seconds * unit)
        days, count = (days + 1, 0) if count == per_day else (days, count)
        try:
            return b"\x04" + struct.pack("<HH", days, count) if small else b"\x08" + struct.pack("<iI", days, count)
        except struct.error:
            raise refused_row(242) from None

    return Encoder(column.declaration, bytes([0x6F, 4 if small else 8]), b"\0", write)


# -- texts and bytes -------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return as_json(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raise refused_row(_UNREADABLE)
    return str(value)


def _codec(column: Described) -> str | None:
    """Return the codec that must be able to encode a text; the server would store question marks otherwise."""
    if column.kind not in ("char", "varchar", "text") or column.code_page in (None, 65001):
        return "utf-8" if column.code_page == 65001 and column.kind in ("char", "varchar") else None
    try:
        return codecs.lookup(f"cp{column.code_page}").name
    except LookupError:
        return "ascii"


def _texts(column: Described) -> Encoder:
    long = column.size == -1 or column.kind in ("text", "ntext", "xml") or column.size > 8000
    codec, limit = _codec(column), 0 if long else column.size
    units = limit // 2 if column.kind in ("nchar", "nvarchar") else limit

    def write(value: Any) -> bytes:
        text = _text(value)
        try:
            data = text.encode("utf-16-le")
        except UnicodeEncodeError:
            raise unencodable() from None
        if codec is not None:
            try:
                size = len(text.encode(codec))
            except UnicodeEncodeError:
                raise refused_row(_CODE_PAGE) from None
        else:
            size = len(data)
        if limit and size > limit:
            raise refused_row(_TOO_LONG)
        return _chunked(data) if long or units > 4000 else struct.pack("<H", len(data)) + data

    if long or units > 4000:
        return Encoder("nvarchar(max)", b"\xe7\xff\xff", _CHUNKS, write, text=True)
    return Encoder(f"nvarchar({units})", b"\xe7" + struct.pack("<H", units * 2), b"\xff\xff", write, text=True)


def _chunked(data: bytes) -> bytes:
    """Encode without a total length in advance: with one the server misreads a bulk load."""
    return _UNKNOWN + (struct.pack("<I", len(data)) + data if data else b"") + _NO_CHUNKS


def _binaries(column: Described) -> Encoder:
    long, limit = column.size == -1 or column.kind == "image", column.size

    def write(value: Any) -> bytes:
        if isinstance(value, str):
            try:
                value = bytes.fromhex(value.removeprefix("0x")) if value.startswith("0x") else None
            except ValueError:
                value = None
        if not isinstance(value, bytes | bytearray | memoryview):
            raise refused_row(_UNREADABLE)
        data = bytes(value)
        if long:
            return _chunked(data)
        if len(data) > limit:
            raise refused_row(_TOO_LONG)
        return struct.pack("<H", len(data)) + data

    if long:
        return Encoder("varbinary(max)", b"\xa5\xff\xff", _CHUNKS, write)
    return Encoder(f"varbinary({limit})", b"\xa5" + struct.pack("<H", limit), b"\xff\xff", write)


def _uuids(column: Described) -> Encoder:
    def write(value: Any) -> bytes:
        try:
            return b"\x10" + (value if isinstance(value, UUID) else UUID(str(value).strip())).bytes_le
        except ValueError:
            raise refused_row(_NO_UUID) from None

    return Encoder(column.declaration, b"\x24\x10", b"\0", write)


_ENCODERS: tuple[tuple[frozenset[str], Callable[[Described], Encoder]], ...] = (
    (frozenset(_INTEGERS), _integers),
    (frozenset({"char", "varchar", "text", "nchar", "nvarchar", "ntext", "xml"}), _texts),
    (frozenset({"bit"}), _bits),
    (frozenset({"real", "float"}), _floats),
    (frozenset({"decimal", "numeric"}), _decimals),
    (frozenset({"money", "smallmoney"}), _moneys),
    (frozenset({"date"}), _dates),
    (frozenset({"time"}), _times),
    (frozenset({"datetime2", "datetimeoffset"}), _timestamps),
    (frozenset({"datetime", "smalldatetime"}), _legacy_timestamps),
    (frozenset({"binary", "varbinary", "image"}), _binaries),
    (frozenset({"uniqueidentifier"}), _uuids),
)
