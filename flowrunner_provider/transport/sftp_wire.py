"""The messages of SFTP, version 3 (draft-ietf-secsh-filexfer-02): packing, splitting, unpacking; no network.

A server is not trusted to keep to the protocol: whatever does not add up is a :class:`Violation`, before memory is
taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

__all__ = [
    "BAD_MESSAGE", "EOF", "MOST", "OK", "VERSION", "Attributes", "Kind", "Message", "Splitter", "StatusError",
    "Violation", "attributes_in", "extensions_in", "handle_in", "names_in", "numbers_in", "pack", "pack_attributes",
    "pack_name", "pack_place", "pack_string", "status_in", "string_in",
]  # fmt: skip

VERSION = 3
MOST = 4 * 1024 * 1024
"""The longest message that is taken, in bytes; those of the servers at large have up to 256 KiB."""


class Kind:
    """The types of messages (section 3)."""

    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(1, 11)
    OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = range(11, 19)
    STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
    EXTENDED, EXTENDED_REPLY = 200, 201


OK, EOF, BAD_MESSAGE = 0, 1, 5

Message = tuple[int, int, bytes]
"""Type, number of the request (of VERSION: the version), and what follows it; of DATA only the data."""


class Violation(Exception):
    """The server does not keep to the protocol."""


class StatusError(Exception):
    """The server refused a request.

    :param code: SSH_FX_*, section 7.
    :param reason: the server's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Attributes(NamedTuple):
    """What is known of a file; None for what the server does not say (section 5)."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None


_SIZE, _OWNER, _PERMISSIONS, _TIMES, _EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000
_U32, _U64, _PAIR, _HEAD = Struct(">I"), Struct(">Q"), Struct(">II"), Struct(">IBI")
_PLACE = Struct(">QI")
_FIELDS = (
    (_SIZE, "size", _U64),
    (_OWNER, "owner", _PAIR),
    (_PERMISSIONS, "permissions", _U32),
    (_TIMES, "times", _PAIR),
)
_USUAL = Struct(">IQIIIII")
"""The attributes that a POSIX server sends."""


def pack(kind: int, number: int, body: bytes, more: int = 0) -> bytes:
    """A message, of which ``more`` bytes are still to follow."""
    return _HEAD.pack(len(body) + more + 5, kind, number) + body


def pack_string(value: bytes) -> bytes:
    """A string as SSH has it: its length and its bytes."""
    return _U32.pack(len(value)) + value


def pack_name(name: str) -> bytes:
    """A path; what was not UTF-8 in a listing goes back as it came.

    :raises StatusError: if no bytes stand for it.
    """
    try:
        value = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise StatusError(BAD_MESSAGE, "the name cannot be encoded") from None
    return _U32.pack(len(value)) + value


def pack_place(handle: bytes, offset: int, length: int) -> bytes:
    """Where in an open file to read or to write."""
    return pack_string(handle) + _PLACE.pack(offset, length)


def pack_attributes(attributes: Attributes) -> bytes:
    """Those that are known."""
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
    """Cuts what arrives into messages; a long one is put together once, when its last byte is there."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = self._number = self._missing = 0
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now.

        :raises Violation: for one that is too short or too long for its type.
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
            if not 5 <= length <= MOST:
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


def attributes_in(body: bytes, at: int = 0) -> tuple[Attributes, int]:
    """The attributes at ``at``, and where they end."""
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
            count, at = count_in(body, at)
            for _ in range(2 * count):
                _, at = string_in(body, at)
    except struct.error:
        raise Violation("attributes that are cut off") from None
    return Attributes(**given), at  # type: ignore[arg-type]


def count_in(body: bytes, at: int) -> tuple[int, int]:
    """A number of things of at least four bytes each, and where they begin."""
    try:
        (count,) = _U32.unpack_from(body, at)
    except struct.error:
        raise Violation("a count that is cut off") from None
    if count > (len(body) - at) // 4:
        raise Violation(f"{count} things in {len(body)} bytes")
    return count, at + 4


def string_in(body: bytes, at: int) -> tuple[bytes, int]:
    """A string and where it ends."""
    try:
        (size,) = _U32.unpack_from(body, at)
    except struct.error:
        raise Violation("a string that is cut off") from None
    at += 4
    if size > len(body) - at:
        raise Violation(f"a string of {size} bytes in a message of {len(body)}")
    return body[at : at + size], at + size


def names_in(body: bytes) -> list[tuple[str, Attributes]]:
    """The names in a NAME message; the long form, made for people, is left out."""
    count, at = count_in(body, 0)
    names = []
    for _ in range(count):
        name, at = string_in(body, at)
        _, at = string_in(body, at)
        attributes, at = attributes_in(body, at)
        if not name:
            raise Violation("a file without a name")
        names.append((name.decode("utf-8", "surrogateescape"), attributes))
    if at != len(body):
        raise Violation("more than names in an answer")
    return names


def handle_in(body: bytes) -> bytes:
    """What the server calls an open file or folder."""
    handle, at = string_in(body, 0)
    if at != len(body) or len(handle) > 256:  # section 6.3
        raise Violation(f"a handle of {len(handle)} bytes in a message of {len(body)}")
    return handle


def status_in(body: bytes) -> StatusError | None:
    """Why a request was refused; None if it was not. Some servers leave out the words, or their language."""
    try:
        (code,) = _U32.unpack_from(body, 0)
    except struct.error:
        raise Violation("a status that is cut off") from None
    if code == OK:
        return None
    reason = string_in(body, 4)[0] if len(body) > 4 else b""
    return StatusError(code, reason.decode("utf-8", "replace"))


def numbers_in(body: bytes, count: int) -> tuple[int, ...]:
    """The 64-bit numbers of which the answers to OpenSSH's extensions consist."""
    try:
        return Struct(f">{count}Q").unpack_from(body, 0)
    except struct.error:
        raise Violation(f"an answer of {len(body)} bytes instead of {8 * count}") from None


def extensions_in(body: bytes) -> dict[bytes, bytes]:
    """What follows the version: the names of extensions and their data."""
    found, at = {}, 0
    while at < len(body):
        name, at = string_in(body, at)
        found[name], at = string_in(body, at)
    return found
