"""Results of the actions that make files from other files."""

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
    """A file that was made."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class ArchiveResult:
    """An archive.

    :param path: its path.
    :param files: the number of files in it; 0 if it existed before and was skipped.
    :param bytes: their total size.
    :param size: the size of the archive.
    :param sha256: the digest of the archive; empty if it was skipped.
    :param skipped: whether it existed before and was skipped.
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
    """What was extracted, over all attempts.

    :param archive: the archive.
    :param format: its format.
    :param files: the number of extracted files.
    :param bytes: their total size.
    :param skipped: the number of files that were skipped because their target exists.
    :param dest: the destination.
    :param entries: the first extracted files, at most 20.
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

    :param files: the number of files.
    :param bytes: the total size of the results; with ``verify``, of the verified files.
    :param skipped: the number of files that were skipped because their target exists.
    :param signers: the fingerprints of the keys whose signatures were verified.
    :param entries: the first results, at most 20.
    """

    operation: str
    files: int
    bytes: int
    skipped: int
    signers: list[str]
    entries: list[DerivedFile]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The parts of a file, over all attempts.

    :param source: the file that was split.
    :param parts: the addresses of the parts in order, for mapped tasks.
    :param count: the number of parts.
    :param bytes: the total size of the parts that were written, with their headers.
    :param skipped: the number of parts that were skipped because their target exists.
    """

    source: str
    parts: list[str]
    count: int
    bytes: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class ConcatResult:
    """The joined file.

    :param path: its path.
    :param files: the number of files in it; 0 if it existed before and was skipped.
    :param size: the size of the joined file.
    :param sha256: the digest of the joined file; empty if it was skipped.
    :param skipped: whether it existed before and was skipped.
    """

    path: str
    files: int
    size: int
    sha256: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class ConvertedFile:
    """A converted file.

    :param encoding: its previous encoding.
    :param found_by: how the encoding was determined: ``given``, by its byte order ``mark``, because it is valid
        ``utf-8``, ``detected`` by its letters, or the ``fallback``.
    :param lost: the number of places that could not be decoded or encoded.
    """

    path: str
    size: int
    encoding: str
    found_by: str
    lost: int


@dataclass(frozen=True, kw_only=True)
class EncodingResult:
    """The converted files, over all attempts.

    :param files: the number of files.
    :param bytes: the total size of the results.
    :param skipped: the number of files that were skipped because their target exists.
    :param lost: the number of places that could not be decoded or encoded and were replaced or dropped; 0 with
        ``strict``.
    :param entries: the first results, at most 20.
    """

    files: int
    bytes: int
    skipped: int
    lost: int
    entries: list[ConvertedFile]


@dataclass(frozen=True, kw_only=True)
class PresignedFile:
    """A presigned URL.

    :param path: the file.
    :param url: the URL; treat it as a credential.
    :param expires_at: in UTC, ISO 8601.
    """

    path: str
    url: str
    expires_at: str


@dataclass(frozen=True, kw_only=True)
class PresignResult:
    """Presigned URLs.

    :param url: the URL of the first file.
    :param expires_at: when the URLs expire, in UTC, ISO 8601.
    :param files: all files.
    """

    url: str
    expires_at: str
    files: list[PresignedFile]
