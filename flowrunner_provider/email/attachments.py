"""Attachments: files of this disk, found by pattern and read before anything is sent."""

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

__all__ = ["Attachment", "read_all", "too_large"]

# Not the files of this machine: every worker must tell the same type.
_TYPES = mimetypes.MimeTypes()
for _suffix, _type in {
    ".avro": "application/vnd.apache.avro",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "application/yaml",
}.items():
    _TYPES.add_type(_type, _suffix)
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


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


def read_all(
    patterns: Sequence[str], inline: Mapping[str, str], limit: int
) -> tuple[list[Attachment], dict[str, Attachment]]:
    """The files of ``patterns`` in the order of their names, and the pictures of ``inline`` by content id.

    :param limit: encoded bytes of the whole mail; files that cannot fit are not read.
    :raises NotFound: for a pattern that matches no file.
    :raises ConfigError: when they are too large.
    :raises PathEscape: for a file name that is not safe as one.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise ConfigError("attachments must be a list", field="attachments", remedy="write ['/data/a.csv']")
    if not isinstance(inline, Mapping):
        raise ConfigError("inline_images must be a mapping", field="inline_images", remedy="write {'logo': path}")
    files = list(dict.fromkeys(path for pattern in patterns for path in _matches(pattern, "attachments")))
    pictures = {cid: _one(path) for cid, path in inline.items()}
    size = sum(_size(path) for path in (*files, *pictures.values()))
    if size * 4 // 3 > limit:
        raise too_large(size * 4 // 3, limit)
    return [_read(path, limit) for path in files], {cid: _read(path, limit) for cid, path in pictures.items()}


def too_large(size: int, limit: int) -> ConfigError:
    """The mail would have ``size`` encoded bytes."""
    return ConfigError(
        f"the mail would have {size:,} bytes, encoded; max_total_size is {limit:,}",
        field="max_total_size",
        remedy="send a link instead of the file, pack the files, or raise the limit if the server allows it",
    )


def _matches(pattern: str, field: str) -> list[Path]:
    if not isinstance(pattern, str) or not pattern or "\0" in pattern:
        raise ConfigError(f"{field}: {pattern!r} is not a path", field=field, remedy="write '/data/*.csv'")
    if Path(pattern).is_file():
        return [Path(pattern)]
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [path for path in map(Path, names) if path.is_file()]
    if not found:
        raise NotFound(
            f"{field}: no file matches {pattern!r}", remedy="look at the path, or at the task that writes it"
        )
    return found


def _one(path: str) -> Path:
    found = _matches(path, "inline_images")
    if len(found) > 1:
        raise ConfigError(
            f"inline_images: {path!r} matches {len(found)} files",
            field="inline_images",
            remedy="give one file for each content id",
        )
    return found[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path, limit: int) -> Attachment:
    name = safe_component(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > limit:
        raise too_large(len(data), limit)
    return Attachment(name=name, content_type=_content_type(name), data=data)


def _unreadable(path: Path, error: OSError) -> AccessDenied | NotFound:
    kind = NotFound if isinstance(error, FileNotFoundError) else AccessDenied
    return kind(f"attachment {str(path)!r} cannot be read: {error.strerror}", remedy="look at the file")


def _content_type(name: str) -> str:
    found, packing = _TYPES.guess_type(name)
    if packing:
        return _PACKED.get(packing, "application/octet-stream")
    if found is None or found.startswith(("message/", "multipart/")):  # may not be encoded (RFC 2046)
        return "application/octet-stream"
    return found
