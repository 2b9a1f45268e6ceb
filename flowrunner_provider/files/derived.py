"""What the actions return that make files out of files."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ArchiveResult",
    "ConcatResult",
    "ConvertedFile",
    "CryptResult",
    "DerivedFile",
    "EncodingResult",
    "ExtractResult",
    "PresignResult",
    "PresignedFile",
    "SplitResult",
]


@dataclass(frozen=True, kw_only=True)
class DerivedFile:
    """One file that was made."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class ArchiveResult:
    """The archive.

    :param path: where it is.
    :param files: how many files are in it; 0 if it was there before and was left alone.
    :param bytes: their size together.
    :param size: of the archive.
    :param sha256: of the archive; empty if it was left alone.
    :param skipped: it was there and was left alone.
    """

    path: str
    format: str
    files: int
    bytes: int
    size: int
    sha256: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What was unpacked, over all attempts.

    :param archive: which one.
    :param format: what it turned out to be.
    :param files: how many files were unpacked.
    :param bytes: their size together.
    :param skipped: how many were left alone because their target was there.
    :param dest: where they are.
    :param entries: the first of them, at most 20.
    """

    archive: str
    format: str
    files: int
    bytes: int
    skipped: int
    dest: str
    entries: list[DerivedFile]


@dataclass(frozen=True, kw_only=True)
class CryptResult:
    """What was encrypted, decrypted, signed or verified, over all attempts.

    :param files: how many files.
    :param bytes: the size of the results together; of what was verified, where nothing is made.
    :param skipped: how many were left alone because their target was there.
    :param signers: fingerprints of the keys whose signatures were verified.
    :param entries: the first of the results, at most 20.
    """

    operation: str
    files: int
    bytes: int
    skipped: int
    signers: list[str]
    entries: list[DerivedFile]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The parts, over all attempts.

    :param source: what was split.
    :param parts: their addresses in order, to be mapped over.
    :param count: how many there are.
    :param bytes: the size together of those that were made, with their headers.
    :param skipped: how many were left alone because their target was there.
    """

    source: str
    parts: list[str]
    count: int
    bytes: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class ConcatResult:
    """The joined file.

    :param path: where it is.
    :param files: how many files are in it; 0 if it was there before and was left alone.
    :param size: of the joined file.
    :param sha256: of the joined file; empty if it was left alone.
    :param skipped: it was there and was left alone.
    """

    path: str
    files: int
    size: int
    sha256: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class ConvertedFile:
    """One file that was converted.

    :param encoding: what it was in before.
    :param found_by: how that is known: ``given``, by its ``mark``, because it is valid ``utf-8``, ``detected`` by its
        letters, or the ``fallback``.
    :param lost: how many places of it could not be read or written.
    """

    path: str
    size: int
    encoding: str
    found_by: str
    lost: int


@dataclass(frozen=True, kw_only=True)
class EncodingResult:
    """What was converted, over all attempts.

    :param files: how many files.
    :param bytes: the size of the results together.
    :param skipped: how many were left alone because their target was there.
    :param lost: how many places could not be read or written and were replaced or left out; with ``strict`` 0.
    :param entries: the first of the results, at most 20.
    """

    files: int
    bytes: int
    skipped: int
    lost: int
    entries: list[ConvertedFile]


@dataclass(frozen=True, kw_only=True)
class PresignedFile:
    """One signed address.

    :param path: the file.
    :param url: the signed address; as good as a key.
    :param expires_at: in UTC, ISO 8601.
    """

    path: str
    url: str
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class PresignResult:
    """The signed addresses.

    :param url: that of the first file.
    :param expires_at: when they expire, in UTC, ISO 8601.
    :param files: all of them.
    """

    url: str
    expires_at: str
    files: list[PresignedFile]
