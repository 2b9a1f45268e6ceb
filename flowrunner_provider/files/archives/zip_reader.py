"""Reader for ZIP archives, with or without a password (AES or ZipCrypto), in any store with ranged reads.

The central directory at the end describes every member, and so does the local header before its data. Programs differ
in which of the two they trust, so archives whose headers contradict each other are refused, as are members that share
data.
"""

from __future__ import annotations

import asyncio
import stat
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from flowrunner_provider.core.errors import (
    BombDetected,
    FlowRunnerError,
    MissingCredential,
    PermanentError,
    SecurityError,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.archives.members import Limits, Member, Open, damaged
from flowrunner_provider.files.blocking import RangedFile

__all__ = ["ZipReader"]

_CHUNK = 256 * 1024
_MAX_DIRECTORY = 1024 * 1024
_LOCAL = struct.Struct("<4s2B4HL2L2H")  # APPNOTE.TXT 4.3.7
_ENTRY = 46  # APPNOTE.TXT 4.3.12
_ENCRYPTED, _DESCRIPTOR, _UTF8, _UNKNOWN = 0x1, 0x8, 0x800, 0xFFFFFFFF
_AES, _REPARSE = 99, 0x400
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError, ValueError, OverflowError, IndexError,
    KeyError,
)  # fmt: skip


class ZipReader:
    """A ZIP archive.

    :param file: the archive as a seekable file.
    :param password: empty for none.
    """

    def __init__(self, file: RangedFile, size: int, password: str, limits: Limits, what: str) -> None:
        self._file, self._size, self._password, self._limits, self._what = file, size, password, limits, what
        self._zip: Any = None
        self._zip_errors: tuple[type[Exception], ...] = _ZIP_ERRORS

    async def members(self) -> AsyncIterator[Member]:
        for member, _ in await asyncio.to_thread(self._checked):
            yield member

    async def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        for member, info in await asyncio.to_thread(self._listed):
            yield member, self._content_of(info)

    async def aclose(self) -> None:
        await self._file.aclose()

    def _checked(self) -> list[tuple[Member, Any]]:
        """Return all entries after comparing each with its local header."""
        listed = self._listed()
        end = 0
        try:
            for member, info in listed:
                if info.header_offset < end:
                    raise SecurityError(
                        f"{self._what}: the member {member.name!a} shares data with another one",
                        remedy="do not unpack it: it was built to deceive",
                    )
                end = self._compare_headers(info)
        except self._zip_errors as error:
            raise damaged(self._what, error) from error
        return listed

    def _listed(self) -> list[tuple[Member, Any]]:
        """Return the entries of the central directory in the order of their data."""
        if self._zip is None:
            try:
                self._zip = self._open()
            except NotImplementedError as error:
                raise PermanentError(f"{self._what}: {error}", remedy="ask the sender for a plain zip") from error
            except self._zip_errors as error:
                raise damaged(self._what, error) from error
        infos = sorted(self._zip.infolist(), key=lambda info: info.header_offset)
        return [(_member(info), info) for info in infos]

    def _open(self) -> Any:
        self._check_entry_count()
        self._file.seek(0)
        archive: Any = zipfile.ZipFile(self._file)
        if not any(info.flag_bits & _ENCRYPTED for info in archive.infolist()):
            return archive
        if not self._password:
            raise MissingCredential(
                f"{self._what} is encrypted", field="keys_conn_id", remedy="name a connection with its password"
            )
        pyzipper = load("pyzipper", extra="archive", needed_for="an encrypted zip")
        self._zip_errors = (*_ZIP_ERRORS, pyzipper.BadZipFile)
        self._file.seek(0)
        archive = pyzipper.AESZipFile(self._file)
        archive.setpassword(self._password.encode())
        return archive

    def _check_entry_count(self) -> None:
        """Check the number of entries before zipfile creates an object for each of them."""
        end = zipfile._EndRecData(self._file)  # type: ignore[attr-defined]
        if not end:
            raise damaged(self._what, "it has no central directory")
        left, location = end[5], end[9]
        if left > _MAX_DIRECTORY + 512 * self._limits.max_entries:
            raise BombDetected(
                f"{self._what} has a central directory of {left} bytes",
                remedy="do not unpack it: it was built to fill memory",
            )
        self._file.seek(max(0, location - left - (76 if end[0] == b"PK\x06\x06" else 0)))
        count, held = 0, b""
        while left >= _ENTRY:
            if len(held) < _ENTRY:
                held += self._file.read(_CHUNK)
            if len(held) < _ENTRY or held[:4] != b"PK\x01\x02":
                raise damaged(self._what, "its central directory is broken")
            length = _ENTRY + sum(struct.unpack_from("<3H", held, 28))
            while len(held) < length and (more := self._file.read(_CHUNK)):
                held += more
            held, left, count = held[length:], left - length, count + 1
            if count > self._limits.max_entries:
                raise BombDetected(
                    f"{self._what} has more than {self._limits.max_entries} entries",
                    remedy="raise max_entries if that is expected",
                )

    def _compare_headers(self, info: Any) -> int:
        """Compare both headers of a member; return the smallest possible end of its data."""
        self._file.seek(info.header_offset)
        head = _LOCAL.unpack(self._file.read(_LOCAL.size))
        flags, method, crc, packed, size, name_length, extra_length = (*head[3:5], *head[7:12])
        values = {"method": (method, info.compress_type), "encryption": (flags & 1, info.flag_bits & 1)}
        if not flags & _DESCRIPTOR:
            values |= {
                "size": (size, info.file_size),
                "packed size": (packed, info.compress_size),
                "CRC": (crc, info.CRC),
            }
        for field, (here, there) in values.items():
            if here != there and here != _UNKNOWN and not (field == "method" and here == _AES):
                raise damaged(self._what, f"the headers of {info.filename!a} contradict each other: {field}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PermanentError(
                f"{self._what}: {info.filename!a} uses compression method {info.compress_type}",
                remedy="ask the sender for a zip with deflate",
            )
        if info.file_size > 1024 * 1024 and info.file_size > self._limits.max_ratio * max(1, info.compress_size):
            raise BombDetected(
                f"{self._what}: {info.filename!a} unpacks to more than {self._limits.max_ratio:g} times its size",
                remedy="raise max_ratio if the data is known to be this regular",
            )
        self._open_member(info).close()  # compares the names and verifies the password
        end: int = info.header_offset + _LOCAL.size + name_length + extra_length + info.compress_size
        if end > self._size:
            raise damaged(self._what, f"{info.filename!a} is truncated")
        return end

    def _open_member(self, info: Any) -> Any:
        try:
            return self._zip.open(info)
        except NotImplementedError as error:
            raise PermanentError(f"{self._what}: {error}", remedy="ask the sender for a plain zip") from error
        except RuntimeError as error:  # raised by pyzipper for a wrong password
            raise SecurityError(
                f"{self._what}: the password does not open {info.filename!a}",
                remedy="correct the password of the connection",
            ) from error

    def _content_of(self, info: Any) -> Open:
        async def read() -> AsyncIterator[bytes]:
            left = info.file_size
            try:
                file = await asyncio.to_thread(self._open_member, info)
                with file:
                    while chunk := await asyncio.to_thread(file.read, _CHUNK):
                        left -= len(chunk)
                        yield chunk
            except FlowRunnerError:
                raise
            except self._zip_errors as error:
                raise damaged(self._what, error) from error
            if left:
                raise damaged(self._what, f"{info.filename!a} is {left} bytes short")

        return read


def _member(info: Any) -> Member:
    mode = info.external_attr >> 16
    kind = "folder" if info.filename.endswith("/") else "file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "symbolic link" if stat.S_ISLNK(mode) else "device"
    elif info.external_attr & _REPARSE and not mode:
        kind = "link"
    try:
        year, month, day, hour, minute, second = info.date_time
        modified = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        modified = None
    if "\0" in info.orig_filename:
        raise damaged("the zip", f"the name {info.orig_filename!a} holds a NUL")
    return Member(name=_name(info), size=info.file_size, modified=modified, kind=kind)


def _name(info: Any) -> str:
    """Return the name. Without the UTF-8 flag it is CP437, or UTF-8 if a Linux program wrote it."""
    name = str(info.filename)
    if not info.flag_bits & _UTF8 and not name.isascii():
        try:
            return name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    return name
