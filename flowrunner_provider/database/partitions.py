"""Folders named after values, as Hive, Spark and Arrow read them: ``country=DE/day=2026-01-01``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import MAX_NAME_BYTES
from flowrunner_provider.data.values import kind_of, text_of

__all__ = ["MAX_FOLDERS", "Key", "check_kinds", "folder_of", "key_of"]

MAX_FOLDERS = 10_000
"""The limit of one export; the result lists every file."""

_NULL = "__HIVE_DEFAULT_PARTITION__"
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\"#%'*/:=?\\{}\[\]^]")
_ALLOWED_KINDS = {"string", "integer", "boolean", "date"}

Key = tuple[str | None, ...]
"""The values of one partition as text; None is NULL."""


def check_kinds(kinds: Mapping[str, str]) -> None:
    """Reject columns whose equal values may be written differently.

    :param kinds: column -> type; empty if only the values tell.
    """
    for name, kind in kinds.items():
        if kind and kind not in _ALLOWED_KINDS:
            raise _unsupported(name, kind)


def key_of(columns: Sequence[str], values: Sequence[Any]) -> Key:
    """Return the partition of a row with these values."""
    for name, value in zip(columns, values, strict=True):
        if value is not None and kind_of(value) not in _ALLOWED_KINDS:
            raise _unsupported(name, kind_of(value))
    return tuple(None if value is None else text_of(value) for value in values)


def folder_of(columns: Sequence[str], key: Key) -> str:
    """Return the nested folders of a partition; different partitions have different folders.

    :raises ConfigError: for a value that is too long for a folder name.
    """
    return "/".join(_folder_name(name, value) for name, value in zip(columns, key, strict=True))


def _folder_name(column: str, value: str | None) -> str:
    text = _NULL if value is None else _escape(value)
    if text == _NULL and value is not None:
        text = "%5F" + text[1:]
    name = f"{_escape(column)}={text}"
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ConfigError(
            f"the column {column!r} has a value that is too long for a folder name",
            field="partition_by",
            remedy="partition by a shorter value, e.g. left(name, 1)",
        )
    return name


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _unsupported(name: str, kind: str) -> ConfigError:
    return ConfigError(
        f"the column {name!r} holds values of type {kind or 'unknown'}, which cannot name a folder",
        field="partition_by",
        remedy="partition by strings, integers, booleans or dates; cast the column in sql",
    )
