"""Values of TDS 7.4 ([MS-TDS] 2.2.5): read as clients write them, and written as servers do."""

# ruff: noqa: DTZ001 - the types have no zone
from __future__ import annotations

import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["COLLATION", "Reader", "Unsupported", "column_info", "info_bytes", "stored", "value_bytes"]

COLLATION = bytes.fromhex("0904d00034")


class Unsupported(Exception):
    """The fake does not know this."""


class Reader:
    """A message of a client, from ``place`` on."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place

    @property
    def more(self) -> bool:
        return self.place < len(self.data)

    def take(self, size: int) -> bytes:
        found = self.data[self.place : self.place + size]
        if len(found) != size:
            raise Unsupported("the message ends too early")
        self.place += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        return self.take(2 * size).decode("utf-16-le")

    def chunks(self) -> bytes | None:
        """A value of a type that is ``max``."""
        if self.number(8) == 2**64 - 1:
            return None
        found = b""
        while size := self.number(4):
            found += self.take(size)
        return found

    def type(self) -> Callable[[], Any]:
        """TYPE_INFO; the result reads a value."""
        kind = self.number(1)
        if kind in (0x26, 0x68, 0x6D, 0x6E, 0x6F, 0x24):
            self.number(1)
            return lambda: self._sized(kind, 0)
        if kind in (0x6A, 0x6C):
            _, _, scale = self.take(3)
            return lambda: self._sized(kind, scale)
        if kind == 0x28:
            return lambda: self._sized(kind, 0)
        if kind in (0x29, 0x2A, 0x2B):
            scale = self.number(1)
            return lambda: self._sized(kind, scale)
        if kind == 0x38:
            return lambda: struct.unpack("<i", self.take(4))[0]
        if kind in (0xE7, 0xEF, 0xA7, 0xAF, 0xA5, 0xAD):
            most = self.number(2)
            if kind not in (0xA5, 0xAD):
                self.take(5)
            return lambda: self._long(kind, most)
        if kind == 0x63:
            self.take(9)
            return lambda: None if (size := self.number(4)) == 0xFFFFFFFF else self.take(size).decode("utf-16-le")
        raise Unsupported(f"type {kind:#x}")

    def _long(self, kind: int, most: int) -> Any:
        if most == 0xFFFF:
            found = self.chunks()
        else:
            size = self.number(2)
            found = None if size == 0xFFFF else self.take(size)
        if found is None or kind in (0xA5, 0xAD):
            return found
        return found.decode("utf-16-le" if kind in (0xE7, 0xEF) else "latin-1")

    def _sized(self, kind: int, scale: int) -> Any:
        size = self.number(1)
        if not size:
            return None
        data = self.take(size)
        match kind:
            case 0x26:
                return int.from_bytes(data, "little", signed=size > 1)
            case 0x68:
                return data != b"\0"
            case 0x6D:
                return struct.unpack("<f" if size == 4 else "<d", data)[0]
            case 0x24:
                return UUID(bytes_le=data)
            case 0x6A | 0x6C:
                number = Decimal(int.from_bytes(data[1:], "little")).scaleb(-scale)
                return number if data[0] else -number
            case 0x6E:
                high, low = (0, *struct.unpack("<i", data)) if size == 4 else struct.unpack("<iI", data)
                return Decimal((high << 32) + low).scaleb(-4)
            case 0x6F if size == 4:
                days, minutes = struct.unpack("<HH", data)
                return datetime(1900, 1, 1) + timedelta(days=days, minutes=minutes)
            case 0x6F:
                days, ticks = struct.unpack("<iI", data)
                return datetime(1900, 1, 1) + timedelta(days=days, milliseconds=round(ticks * 10 / 3))
            case 0x28:
                return _day(data)
            case 0x29:
                return _clock(data, scale).time()
            case 0x2A:
                return datetime.combine(_day(data[-3:]), _clock(data[:-3], scale).time())
            case 0x2B:
                moment = datetime.combine(_day(data[-5:-2]), _clock(data[:-5], scale).time())
                zone = timezone(timedelta(minutes=struct.unpack("<h", data[-2:])[0]))
                return moment.replace(tzinfo=timezone.utc).astimezone(zone)  # noqa: UP017
        raise Unsupported(f"type {kind:#x}")


def _day(data: bytes) -> date:
    return date.fromordinal(int.from_bytes(data, "little") + 1)


def _clock(data: bytes, scale: int) -> datetime:
    ticks = int.from_bytes(data, "little")
    return datetime(1, 1, 1) + timedelta(microseconds=ticks * 10**6 // 10**scale)


def stored(value: Any) -> Any:
    """As SQLite keeps it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | UUID) else value


def column_info(values: list[Any], declared: str = "", *, digits: tuple[int, int] = (0, 0), times: bool = False) -> str:
    """Which of the types below holds all of them.

    :param declared: the type of the column, if it is one.
    :param digits: precision and scale, if it is a decimal.
    :param times: a text that reads like a time is one.
    """
    if declared == "decimal":
        return "decimal:{}:{}".format(*digits)
    if declared in ("date", "datetime", "datetime2", "smalldatetime"):
        return "date" if declared == "date" else "moment"
    if times and not declared and any(values) and all(v is None or _MOMENT.fullmatch(str(v)) for v in values):
        return "moment"
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int}:
        return "int"
    if kinds and kinds <= {int, float}:
        return "float"
    return "bytes" if kinds == {bytes} else "text"


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?")
INFO = {
    "date": b"\x28", "moment": b"\x2a\x06", "int": b"\x26\x08", "float": b"\x6d\x08", "bytes": b"\xa5\xff\xff",
    "text": b"\xe7\xff\xff" + COLLATION,
}  # fmt: skip


def info_bytes(kind: str) -> bytes:
    """TYPE_INFO."""
    if kind.startswith("decimal"):
        return b"\x6a\x11" + bytes(map(int, kind.split(":")[1:]))
    return INFO[kind]


def _decimal_bytes(kind: str, value: Any) -> bytes:
    number = int(Decimal(str(value)).scaleb(int(kind.rpartition(":")[2])).to_integral_value())
    return b"\x11" + (b"\0" if number < 0 else b"\1") + abs(number).to_bytes(16, "little")


def _moment_bytes(kind: str, text: str) -> bytes:
    moment = datetime.fromisoformat(text)
    day = (moment.toordinal() - 1).to_bytes(3, "little")
    if kind == "date":
        return b"\x03" + day
    clock = ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond
    return b"\x08" + clock.to_bytes(5, "little") + day


def value_bytes(kind: str, value: Any) -> bytes:
    """A value of a row."""
    if kind == "int":
        return b"\0" if value is None else b"\x08" + struct.pack("<q", value)
    if kind == "float":
        return b"\0" if value is None else b"\x08" + struct.pack("<d", value)
    if kind.startswith("decimal"):
        return b"\0" if value is None else _decimal_bytes(kind, value)
    if kind in ("date", "moment"):
        return b"\0" if value is None else _moment_bytes(kind, str(value))
    if value is None:
        return b"\xff" * 8
    data = value if kind == "bytes" else str(value).encode("utf-16-le", "surrogatepass")
    body = struct.pack("<I", len(data)) + data if data else b""
    return struct.pack("<Q", len(data)) + body + bytes(4)
