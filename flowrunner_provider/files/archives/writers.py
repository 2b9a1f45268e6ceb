"""Streaming archive writers: chunks of members go in, bytes of the archive come out; nothing is seeked.

ZIP is written by :mod:`zipfile`, or by pyzipper with a password, into a buffer, with data descriptors, and ZIP64 if a
member needs it. TAR headers are written by :mod:`tarfile` in pax format.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load

__all__ = ["FORMATS", "ArchiveFormat", "ArchiveWriter", "compressor", "format_of", "writer_for"]

ArchiveFormat = Literal["auto", "zip", "tar", "tar.gz", "tar.zst", "gz", "zst"]

FORMATS = {
    ".zip": "zip", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar.zst": "tar.zst", ".tzst": "tar.zst",
    ".tar": "tar", ".gz": "gz", ".zst": "zst",
}  # fmt: skip
"""The format of each file name suffix; longer suffixes come first."""

EPOCH = datetime(1980, 1, 1, tzinfo=UTC)
"""The oldest time that ZIP can represent."""

_MODE = 0o644
_LATEST = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)


class ArchiveWriter(Protocol):
    """Writes an archive; each method returns the bytes that are ready."""

    def begin(self, name: str, size: int | None, modified: datetime) -> bytes:
        """Start a member."""

    def write(self, chunk: bytes) -> bytes:
        """Add the next bytes of the member."""

    def end(self) -> bytes:
        """Complete the member."""

    def finish(self) -> bytes:
        """Complete the archive."""

    def close(self) -> None:
        """Release resources, whether the archive is complete or not."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Stored:
    """No compression."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: str, level: int | None) -> _Compressor:
    """Return a compressor for gzip (without name and time in its header), zstd, or no compression."""
    if kind == "gz":
        return zlib.compressobj(6 if level is None else level, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    if kind == "zst":
        zstandard = load("zstandard", extra="archive", needed_for="a zst archive")
        made: _Compressor = zstandard.ZstdCompressor(
            level=3 if level is None else level, write_checksum=True
        ).compressobj()
        return made
    return _Stored()


def format_of(name: str, given: str) -> str:
    """Return the given format, or for ``auto`` the one of the file name."""
    known = ["auto", *dict.fromkeys(FORMATS.values())]
    if given not in known:
        raise ConfigError(f"format is {given!r}", field="format", remedy=f"write one of {', '.join(known)}")
    if given != "auto":
        return given
    for ending, kind in FORMATS.items():
        if name.lower().endswith(ending):
            return kind
    raise ConfigError(
        f"the format cannot be derived from the name {name!r}",
        field="format",
        remedy=f"set format, or end the name with one of {', '.join(FORMATS)}",
    )


def writer_for(kind: str, level: int | None, password: str) -> ArchiveWriter:
    """Return a writer for a format.

    :param level: the compression level; None for the default of the format.
    :param password: encrypts the members with AES-256 (zip only); empty for none.
    :raises ConfigError: if level or password do not fit the format.
    """
    most = {"tar": 0, "zst": 19, "tar.zst": 19}.get(kind, 9)
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= most):
        raise ConfigError(f"level is {level!r}", field="level", remedy=f"write a whole number from 0 to {most}")
    if password and kind != "zip":
        raise ConfigError(
            f"{kind} does not support passwords", field="keys_conn_id", remedy="use zip, or encrypt with files.crypt"
        )
    if kind == "zip":
        return _ZipWriter(level, password)
    if kind.startswith("tar"):
        return _TarWriter(compressor(kind.rpartition(".")[2], level))
    return _SingleWriter(compressor(kind, level))


class _Buffer:
    """A write-only file without seek, for :mod:`zipfile`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def take(self) -> bytes:
        data = bytes(self._held)
        self._held.clear()
        return data


class _ZipWriter:
    def __init__(self, level: int | None, password: str) -> None:
        self._buffer, self._level = _Buffer(), 6 if level is None else level
        self._member: Any = None
        self._zip: Any
        if password:
            pyzipper = load("pyzipper", extra="archive", needed_for="a zip with a password")
            self._info = pyzipper.zipfile_aes.AESZipInfo
            self._zip = pyzipper.AESZipFile(self._buffer, "w", compression=zipfile.ZIP_DEFLATED)
            self._zip.setpassword(password.encode())
            self._zip.setencryption(pyzipper.WZ_AES, nbits=256)
        else:
            self._info = zipfile.ZipInfo
            self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED)  # type: ignore[call-overload]

    def begin(self, name: str, size: int | None, modified: datetime) -> bytes:
        when = min(max(modified.astimezone(UTC), EPOCH), _LATEST)
        info = self._info(name, when.timetuple()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED
        info._compresslevel = self._level  # public only since Python 3.13
        info.external_attr = (0o100000 | _MODE) << 16
        info.create_system = 3
        info.file_size = size or 0
        self._member = self._zip.open(info, "w", force_zip64=size is None)
        return self._buffer.take()

    def write(self, chunk: bytes) -> bytes:
        self._member.write(chunk)
        return self._buffer.take()

    def end(self) -> bytes:
        self._member.close()
        return self._buffer.take()

    def finish(self) -> bytes:
        self._zip.close()
        return self._buffer.take()

    def close(self) -> None:
        """Close zipfile's objects, also after an error; their last output is discarded."""
        with suppress(ValueError, RuntimeError, zipfile.LargeZipFile):
            if self._member is not None:
                self._member.close()
            self._zip.close()


class _TarWriter:
    def __init__(self, packer: _Compressor) -> None:
        self._packer = packer
        self._left = self._written = 0
        self._name = ""

    def begin(self, name: str, size: int | None, modified: datetime) -> bytes:
        if size is None:
            raise ConfigError(
                f"the store does not report the size of {name}, which tar needs in advance",
                field="format",
                remedy="use zip",
            )
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, _MODE
        info.mtime = int(modified.timestamp())
        self._name, self._left = name, size
        return self._out(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))

    def write(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise _changed_error(self._name)
        return self._out(chunk)

    def end(self) -> bytes:
        if self._left:
            raise _changed_error(self._name)
        return self._out(bytes(-self._written % tarfile.BLOCKSIZE))

    def finish(self) -> bytes:
        end = 2 * tarfile.BLOCKSIZE
        return self._out(bytes(end + -(self._written + end) % tarfile.RECORDSIZE)) + self._packer.flush()

    def close(self) -> None:
        """Do nothing: the writer holds no resources."""

    def _out(self, data: bytes) -> bytes:
        self._written += len(data)
        return self._packer.compress(data)


class _SingleWriter:
    def __init__(self, packer: _Compressor) -> None:
        self._packer = packer

    def begin(self, name: str, size: int | None, modified: datetime) -> bytes:
        return b""

    def write(self, chunk: bytes) -> bytes:
        return self._packer.compress(chunk)

    def end(self) -> bytes:
        return b""

    def finish(self) -> bytes:
        return self._packer.flush()

    def close(self) -> None:
        """Do nothing: the writer holds no resources."""


def _changed_error(name: str) -> IntegrityError:
    return IntegrityError(f"{name} changed while it was read", remedy="archive it after it was written completely")
