"""Attachments: content types by file name, and files on the worker's disk, found by glob."""

from __future__ import annotations

import glob
import hashlib
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flowrunner_provider.core.errors import AccessDenied, ConfigError, NotFound
from flowrunner_provider.core.names import safe_component

__all__ = ["Attachment", "LocalFile", "check_lists", "content_type", "found_here", "read_all", "too_large"]

# Not the files of this machine: every worker must tell the same type.
_TYPES = mimetypes.MimeTypes()
for _suffix, _type in {
    ".7z": "application/x-7z-compressed",
    ".arrow": "application/vnd.apache.arrow.file",
    ".avif": "image/avif",
    ".avro": "application/vnd.apache.avro",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".geojson": "application/geo+json",
    ".gpg": "application/pgp-encrypted",
    ".heic": "image/heic",
    ".ics": "text/calendar",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".mp4": "video/mp4",
    ".ndjson": "application/x-ndjson",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".orc": "application/vnd.apache.orc",
    ".parquet": "application/vnd.apache.parquet",
    ".pgp": "application/pgp-encrypted",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rar": "application/vnd.rar",
    ".rtf": "application/rtf",
    ".sql": "application/sql",
    ".toml": "application/toml",
    ".vcf": "text/vcard",
    ".webp": "image/webp",
    ".xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}.items():
    _TYPES.add_type(_type, _suffix)
_TYPES.encodings_map[".zst"] = "zstd"
_PACKED = {
    "br": "application/x-brotli",
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
    "zstd": "application/zstd",
}


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """One file.

    :param name: shown to the reader.
    :param content_type: e.g. ``text/csv``.
    """

    name: str
    content_type: str
    data: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class LocalFile:
    """A file of this disk."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def attachment(self, limit: int) -> Attachment:
        """Its bytes, at most ``limit`` of them."""
        name = safe_component(self.name)
        try:
            with self.path.open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if len(data) > limit:
            raise too_large(len(data), limit)
        return Attachment(name=name, content_type=content_type(name), data=data)


def read_all(paths: Sequence[str], limit: int) -> list[Attachment]:
    """The files of this disk at ``paths``, each of which may be a pattern; as :func:`gather` does for any store.

    :raises NotFound: for a pattern that matches no file.
    :raises ConfigError: when they are too large.
    """
    files = list(dict.fromkeys(file for path in paths for file in found_here(path, "attachments")))
    size = sum(file.size for file in files)
    if size * 4 // 3 > limit:
        raise too_large(size * 4 // 3, limit)
    return [file.attachment(limit) for file in files]


def check_lists(patterns: Sequence[str], inline: Mapping[str, str]) -> None:
    """Refuse what is no list of attachments, or no mapping of pictures."""
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise ConfigError("attachments must be a list", field="attachments", remedy="write ['/data/a.csv']")
    if not isinstance(inline, Mapping):
        raise ConfigError("inline_images must be a mapping", field="inline_images", remedy="write {'logo': path}")


def too_large(size: int, limit: int) -> ConfigError:
    """The mail would have ``size`` encoded bytes."""
    return ConfigError(
        f"the mail would have {size:,} bytes, encoded; max_total_size is {limit:,}",
        field="max_total_size",
        remedy="send a link instead of the file, pack the files, or raise the limit if the server allows it",
    )


def found_here(pattern: str, field: str) -> list[LocalFile]:
    """The files of this disk that ``pattern`` is the name of, or matches; in the order of their names.

    :raises NotFound: when there is none.
    """
    if not isinstance(pattern, str) or not pattern or "\0" in pattern:
        raise ConfigError(f"{field}: {pattern!r} is not a path", field=field, remedy="write '/data/*.csv'")
    if Path(pattern).is_file():
        return [LocalFile(Path(pattern))]
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [LocalFile(path) for path in map(Path, names) if path.is_file()]
    if not found:
        raise NotFound(
            f"{field}: no file matches {pattern!r}", remedy="look at the path, or at the task that writes it"
        )
    return found


def _unreadable(path: Path, error: OSError) -> AccessDenied | NotFound:
    kind = NotFound if isinstance(error, FileNotFoundError) else AccessDenied
    return kind(f"attachment {str(path)!r} cannot be read: {error.strerror}", remedy="look at the file")


def content_type(name: str) -> str:
    """Return the media type of the name's extension."""
    found, packing = _TYPES.guess_type(name)
    if packing:
        return _PACKED.get(packing, "application/octet-stream")
    if found is None or found.startswith(("message/", "multipart/")):  # may not be encoded (RFC 2046)
        return "application/octet-stream"
    return found
