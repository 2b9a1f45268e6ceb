"""Folders named after values, as Hive, Spark and Arrow read them back: ``country=DE/day=2026-01-01``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import MAX_NAME_BYTES
from flowrunner_provider.data.values import kind_of, text_of

__all__ = ["MOST", "Key", "check_kinds", "folder_of", "key_of"]

MOST = 10_000
"""Folders of one export; each is named in the result."""

_NULL = "__HIVE_DEFAULT_PARTITION__"
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\"#%'*/:=?\\{}\[\]^]")
_KINDS = {"string", "integer", "boolean", "date"}

Key = tuple[str | None, ...]
"""The values of one folder as text; None is NULL."""


def check_kinds(kinds: Mapping[str, str]) -> None:
    """Refuse columns whose equal values may be written differently.

    :param kinds: column -> kind; empty where only the values tell.
    """
    for name, kind in kinds.items():
        if kind and kind not in _KINDS:
            raise _unfit(name, kind)


def key_of(columns: Sequence[str], values: Sequence[Any]) -> Key:
    """Where a row with these values belongs."""
    for name, value in zip(columns, values, strict=True):
        if value is not None and kind_of(value) not in _KINDS:
            raise _unfit(name, kind_of(value))
    return tuple(None if value is None else text_of(value) for value in values)


def folder_of(columns: Sequence[str], key: Key) -> str:
    """The folders, one below the other; different keys have different ones.

    :raises ConfigError: for a value that is too long for the name of a folder.
    """
    return "/".join(_named(name, value) for name, value in zip(columns, key, strict=True))


def _named(column: str, value: str | None) -> str:
    text = _NULL if value is None else _escaped(value)
    if text == _NULL and value is not None:
        text = "%5F" + text[1:]
    name = f"{_escaped(column)}={text}"
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ConfigError(
            f"the column {column!r} has a value too long for the name of a folder",
            field="partition_by",
            remedy="partition by something shorter, left(name, 1) for example",
        )
    return name


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _unfit(name: str, kind: str) -> ConfigError:
    return ConfigError(
        f"the column {name!r} holds values of the kind {kind or 'unknown'}",
        field="partition_by",
        remedy="partition by texts, whole numbers, truth values or dates; cast the column in sql",
    )
