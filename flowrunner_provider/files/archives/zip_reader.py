"""ZIP archives, with a password (AES, or the old cipher) or without, read wherever the store can.

The table at the end says what is there, and each member says it again before its data. Programs differ in which of
the two they believe; here an archive whose two stories differ is refused, as are members that share their bytes.
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
_TABLE = 1024 * 1024
_LOCAL = struct.Struct("<4s2B4HL2L2H")  # APPNOTE.TXT 4.3.7
_ENTRY = 46  # APPNOTE.TXT 4.3.12
_ENCRYPTED, _DESCRIPTOR, _UTF8, _UNKNOWN = 0x1, 0x8, 0x800, 0xFFFFFFFF
_AES, _REPARSE = 99, 0x400
_BAD = (
    zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError, ValueError, OverflowError, IndexError,
    KeyError,
)  # fmt: skip


class ZipReader:
    """A ZIP archive.

    :param file: the archive.
    :param password: empty for none.
    """

    def __init__(self, file: RangedFile, size: int, password: str, limits: Limits, what: str) -> None:
        self._file, self._size, self._password, self._limits, self._what = file, size, password, limits, what
        self._zip: Any = None
        self._bad: tuple[type[Exception], ...] = _BAD

    async def members(self) -> AsyncIterator[Member]:
        for member, _ in await asyncio.to_thread(self._survey):
            yield member

    async def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        for member, info in await asyncio.to_thread(self._listed):
            yield member, self._opener(info)

    async def aclose(self) -> None:
        await self._file.aclose()

    def _survey(self) -> list[tuple[Member, Any]]:
        """All entries, after each was compared with what stands before its data."""
        listed = self._listed()
        end = 0
        try:
            for member, info in listed:
                if info.header_offset < end:
                    raise SecurityError(
                        f"{self._what}: the member {member.name!a} shares its bytes with another one",
                        remedy="it is made to deceive: do not unpack it",
                    )
                end = self._compared(info)
        except self._bad as error:
            raise damaged(self._what, error) from error
        return listed

    def _listed(self) -> list[tuple[Member, Any]]:
        """What the table at the end says, in the order of the data."""
        if self._zip is None:
            try:
                self._zip = self._opened()
            except NotImplementedError as error:
                raise PermanentError(f"{self._what}: {error}", remedy="ask for a plain zip") from error
            except self._bad as error:
                raise damaged(self._what, error) from error
        infos = sorted(self._zip.infolist(), key=lambda info: info.header_offset)
        return [(_member(info), info) for info in infos]

    def _opened(self) -> Any:
        self._count()
        self._file.seek(0)
        archive: Any = zipfile.ZipFile(self._file)
        if not any(info.flag_bits & _ENCRYPTED for info in archive.infolist()):
            return archive
        if not self._password:
            raise MissingCredential(
                f"{self._what} is encrypted", field="keys_conn_id", remedy="name the connection with its password"
            )
        pyzipper = load("pyzipper", extra="archive", needed_for="an encrypted zip")
        self._bad = (*_BAD, pyzipper.BadZipFile)
        self._file.seek(0)
        archive = pyzipper.AESZipFile(self._file)
        archive.setpassword(self._password.encode())
        return archive

    def _count(self) -> None:
        """Count the entries before zipfile keeps an object for each of them."""
        end = zipfile._EndRecData(self._file)  # type: ignore[attr-defined]
        if not end:
            raise damaged(self._what, "it has no table of contents")
        left, location = end[5], end[9]
        if left > _TABLE + 512 * self._limits.max_entries:
            raise BombDetected(
                f"{self._what} has a table of contents of {left} bytes", remedy="it is made to fill the memory"
            )
        self._file.seek(max(0, location - left - (76 if end[0] == b"PK\x06\x06" else 0)))
        count, held = 0, b""
        while left >= _ENTRY:
            if len(held) < _ENTRY:
                held += self._file.read(_CHUNK)
            if len(held) < _ENTRY or held[:4] != b"PK\x01\x02":
                raise damaged(self._what, "its table of contents is broken")
            length = _ENTRY + sum(struct.unpack_from("<3H", held, 28))
            while len(held) < length and (more := self._file.read(_CHUNK)):
                held += more
            held, left, count = held[length:], left - length, count + 1
            if count > self._limits.max_entries:
                raise BombDetected(
                    f"{self._what} has more than {self._limits.max_entries} entries",
                    remedy="raise max_entries if that is expected",
                )

    def _compared(self, info: Any) -> int:
        """Compare the two stories of a member; returns where its data ends, at least."""
        self._file.seek(info.header_offset)
        head = _LOCAL.unpack(self._file.read(_LOCAL.size))
        flags, method, crc, packed, size, name_length, extra_length = (*head[3:5], *head[7:12])
        said = {"method": (method, info.compress_type), "encryption": (flags & 1, info.flag_bits & 1)}
        if not flags & _DESCRIPTOR:
            said |= {
                "size": (size, info.file_size),
                "packed size": (packed, info.compress_size),
                "CRC": (crc, info.CRC),
            }
        for field, (here, there) in said.items():
            if here != there and here != _UNKNOWN and not (field == "method" and here == _AES):
                raise damaged(self._what, f"{info.filename!a} has two different values of its {field}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PermanentError(
                f"{self._what}: {info.filename!a} is packed by method {info.compress_type}",
                remedy="ask for a zip with deflate, which everybody reads",
            )
        if info.file_size > 1024 * 1024 and info.file_size > self._limits.max_ratio * max(1, info.compress_size):
            raise BombDetected(
                f"{self._what}: {info.filename!a} unpacks to more than {self._limits.max_ratio:g} times its size",
                remedy="raise max_ratio if the data is known to be this regular",
            )
        self._member(info).close()  # compares the names, and tries the password
        end: int = info.header_offset + _LOCAL.size + name_length + extra_length + info.compress_size
        if end > self._size:
            raise damaged(self._what, f"{info.filename!a} is cut off")
        return end

    def _member(self, info: Any) -> Any:
        try:
            return self._zip.open(info)
        except NotImplementedError as error:
            raise PermanentError(f"{self._what}: {error}", remedy="ask for a plain zip") from error
        except RuntimeError as error:  # pyzipper's word for it
            raise SecurityError(
                f"{self._what}: the password does not open {info.filename!a}",
                remedy="correct the password of the connection",
            ) from error

    def _opener(self, info: Any) -> Open:
        async def read() -> AsyncIterator[bytes]:
            left = info.file_size
            try:
                file = await asyncio.to_thread(self._member, info)
                with file:
                    while chunk := await asyncio.to_thread(file.read, _CHUNK):
                        left -= len(chunk)
                        yield chunk
            except FlowRunnerError:
                raise
            except self._bad as error:
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
    """Without the mark for UTF-8 a name is in the code page of the first IBM PC, or was packed on Linux in UTF-8."""
    name = str(info.filename)
    if not info.flag_bits & _UTF8 and not name.isascii():
        try:
            return name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    return name
