"""The messages of SFTP version 3 (draft-ietf-secsh-filexfer-02): pack, split and parse them, without a network.

The server is not trusted: every inconsistent length or count raises :class:`Violation` before memory is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

__all__ = [
    "BAD_MESSAGE", "EOF", "MAX_MESSAGE", "OK", "VERSION", "Attributes", "Kind", "Message", "Splitter", "StatusError",
    "Violation", "pack", "pack_attributes", "pack_name", "pack_range", "pack_string", "parse_attributes",
    "parse_extensions", "parse_handle", "parse_names", "parse_numbers", "parse_status", "parse_string",
]  # fmt: skip

VERSION = 3
MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of the longest accepted message. Servers in use send up to 256 KiB."""


class Kind:
    """The types of messages (section 3)."""

    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(1, 11)
    OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = range(11, 19)
    STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
    EXTENDED, EXTENDED_REPLY = 200, 201


OK, EOF, BAD_MESSAGE = 0, 1, 5

Message = tuple[int, int, bytes]
"""Message type, request number (for VERSION: the version) and body; for DATA the body is only the data."""


class Violation(Exception):
    """The server violated the protocol."""


class StatusError(Exception):
    """The server refused a request.

    :param code: SSH_FX_*, section 7.
    :param reason: the message of the server.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Attributes(NamedTuple):
    """The attributes of a file (section 5); None for those that the server does not send."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None


_SIZE, _OWNER, _PERMISSIONS, _TIMES, _EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000
_U32, _U64, _PAIR, _HEAD = Struct(">I"), Struct(">Q"), Struct(">II"), Struct(">IBI")
_RANGE = Struct(">QI")
_FIELDS = (
    (_SIZE, "size", _U64),
    (_OWNER, "owner", _PAIR),
    (_PERMISSIONS, "permissions", _U32),
    (_TIMES, "times", _PAIR),
)
_USUAL = Struct(">IQIIIII")
"""The attributes of a POSIX server, parsed in one step."""


def pack(kind: int, number: int, body: bytes, more: int = 0) -> bytes:
    """Pack a message; the caller sends ``more`` further bytes of its body."""
    return _HEAD.pack(len(body) + more + 5, kind, number) + body


def pack_string(value: bytes) -> bytes:
    """Pack a string: its length and its bytes."""
    return _U32.pack(len(value)) + value


def pack_name(name: str) -> bytes:
    """Pack a path; surrogate escapes of a listing become the original bytes.

    :raises StatusError: if the path cannot be encoded.
    """
    try:
        value = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise StatusError(BAD_MESSAGE, "the name cannot be encoded") from None
    return _U32.pack(len(value)) + value


def pack_range(handle: bytes, offset: int, length: int) -> bytes:
    """Pack a range of an open file."""
    return pack_string(handle) + _RANGE.pack(offset, length)


def pack_attributes(attributes: Attributes) -> bytes:
    """Pack the attributes that are not None."""
    flags, packed = 0, b""
    if attributes.size is not None:
        flags |= _SIZE
        packed += _U64.pack(attributes.size)
    if attributes.owner is not None:
        flags |= _OWNER
        packed += _PAIR.pack(*attributes.owner)
    if attributes.permissions is not None:
        flags |= _PERMISSIONS
        packed += _U32.pack(attributes.permissions)
    if attributes.times is not None:
        flags |= _TIMES
        packed += _PAIR.pack(*attributes.times)
    return _U32.pack(flags) + packed


class Splitter:
    """Splits received bytes into messages; a long message is joined once, when it is complete."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = self._number = self._missing = 0
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes.

        :raises Violation: if the length of a message is invalid for its type.
        """
        at, end = 0, len(data)
        if self._parts:
            at = min(end, self._missing)
            self._parts.append(data[:at])
            self._missing -= at
            if self._missing:
                return
            body = b"".join(self._parts)
            self._parts.clear()
            yield self._kind, self._number, body
        if self._head:
            data, self._head = self._head + data[at:], b""
            at, end = 0, len(data)
        while end - at >= 9:
            length, kind, number = _HEAD.unpack_from(data, at)
            if not 5 <= length <= MAX_MESSAGE:
                raise Violation(f"a message of {length} bytes")
            start, stop = at + 9, at + 4 + length
            if kind == Kind.DATA:
                if end < start + 4:
                    break
                (size,) = _U32.unpack_from(data, start)
                if size != length - 9:
                    raise Violation(f"{size} bytes of data in a message of {length}")
                start += 4
            if stop > end:
                self._kind, self._number, self._missing = kind, number, stop - end
                self._parts.append(data[start:])
                return
            at = stop
            yield kind, number, data[start:stop]
        self._head = data[at:]


def parse_attributes(body: bytes, at: int = 0) -> tuple[Attributes, int]:
    """Parse the attributes at ``at``; return them and the position of their end."""
    try:
        (flags,) = _U32.unpack_from(body, at)
        if flags == _SIZE | _OWNER | _PERMISSIONS | _TIMES:
            _, size, user, group, permissions, accessed, modified = _USUAL.unpack_from(body, at)
            return Attributes(size, (user, group), permissions, (accessed, modified)), at + 32
        at += 4
        given: dict[str, int | tuple[int, int]] = {}
        for flag, name, shape in _FIELDS:
            if flags & flag:
                values = shape.unpack_from(body, at)
                given[name] = values if len(values) > 1 else values[0]
                at += shape.size
        if flags & _EXTENDED:
            count, at = parse_count(body, at)
            for _ in range(2 * count):
                _, at = parse_string(body, at)
    except struct.error:
        raise Violation("truncated attributes") from None
    return Attributes(**given), at  # type: ignore[arg-type]


def parse_count(body: bytes, at: int) -> tuple[int, int]:
    """Parse a count of items of at least four bytes each; return it and the position of the first item."""
    try:
        (count,) = _U32.unpack_from(body, at)
    except struct.error:
        raise Violation("a truncated count") from None
    if count > (len(body) - at) // 4:
        raise Violation(f"{count} items in {len(body)} bytes")
    return count, at + 4


def parse_string(body: bytes, at: int) -> tuple[bytes, int]:
    """Parse the string at ``at``; return it and the position of its end."""
    try:
        (size,) = _U32.unpack_from(body, at)
    except struct.error:
        raise Violation("a truncated string") from None
    at += 4
    if size > len(body) - at:
        raise Violation(f"a string of {size} bytes in a message of {len(body)}")
    return body[at : at + size], at + size


def parse_names(body: bytes) -> list[tuple[str, Attributes]]:
    """Parse the names in a NAME message, without their long form (the line of ``ls -l``)."""
    count, at = parse_count(body, 0)
    names = []
    for _ in range(count):
        name, at = parse_string(body, at)
        _, at = parse_string(body, at)
        attributes, at = parse_attributes(body, at)
        if not name:
            raise Violation("a file without a name")
        names.append((name.decode("utf-8", "surrogateescape"), attributes))
    if at != len(body):
        raise Violation("trailing bytes after the names")
    return names


def parse_handle(body: bytes) -> bytes:
    """Parse the handle of an open file or folder."""
    handle, at = parse_string(body, 0)
    if at != len(body) or len(handle) > 256:  # section 6.3
        raise Violation(f"a handle of {len(handle)} bytes in a message of {len(body)}")
    return handle


def parse_status(body: bytes) -> StatusError | None:
    """Parse a status; return None for OK. Some servers omit the message or its language."""
    try:
        (code,) = _U32.unpack_from(body, 0)
    except struct.error:
        raise Violation("a truncated status") from None
    if code == OK:
        return None
    reason = parse_string(body, 4)[0] if len(body) > 4 else b""
    return StatusError(code, reason.decode("utf-8", "replace"))


def parse_numbers(body: bytes, count: int) -> tuple[int, ...]:
    """Parse the 64-bit numbers in the answer to an extension of OpenSSH."""
    try:
        return Struct(f">{count}Q").unpack_from(body, 0)
    except struct.error:
        raise Violation(f"an answer of {len(body)} bytes instead of {8 * count}") from None


def parse_extensions(body: bytes) -> dict[bytes, bytes]:
    """Parse the extensions after the version: their data by name."""
    found, at = {}, 0
    while at < len(body):
        name, at = parse_string(body, at)
        found[name], at = parse_string(body, at)
    return found
