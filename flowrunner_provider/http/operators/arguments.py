"""Checks of rendered arguments: each refusal names the parameter to correct, before any effect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError

__all__ = ["local_path", "mapping", "one_of", "positive", "strings"]


def local_path(value: str, field: str) -> Path:
    """The value as an absolute path on this disk.

    :raises ConfigError: naming ``field``.
    """
    if not value or "\0" in value or "://" in value or not Path(value).is_absolute():
        raise ConfigError(
            f"{field} must be an absolute path on the worker's disk",
            field=field,
            remedy="write /data/orders.jsonl, say",
        )
    return Path(value)


def strings(value: Mapping[str, Any] | None, field: str) -> dict[str, str]:
    """A mapping of texts; entries of None are left out."""
    return {str(name): str(item) for name, item in mapping(value, field).items() if item is not None}


def mapping(value: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """The value as a dict; None is empty.

    :raises ConfigError: naming ``field``.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{field} must be a mapping", field=field, remedy=f"write {field}={{'name': 'value'}}")
    return dict(value or {})


def positive(value: int | None, field: str) -> int | None:
    """The value, if it is None or positive.

    :raises ConfigError: naming ``field``.
    """
    if value is not None and value < 1:
        raise ConfigError(f"{field} must be positive", field=field, remedy=f"correct {field}")
    return value


def one_of(field: str, value: str, choices: Any) -> None:
    """Refuse what is not one of the choices of a Literal.

    :raises ConfigError: naming ``field``.
    """
    if value not in choices.__args__:
        raise ConfigError(
            f"{field} cannot be {value!r}", field=field, remedy=f"choose one of {', '.join(choices.__args__)}"
        )
