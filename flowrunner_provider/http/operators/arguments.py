"""Validation of rendered arguments; each ConfigError names the parameter to correct."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import ConfigError

if TYPE_CHECKING:
    from flowrunner_provider.files.store import Store
    from flowrunner_provider.files.uri import Location
    from flowrunner_provider.http.targets import Target

__all__ = ["Stores", "local_path", "location", "mapping", "one_of", "positive", "strings"]


def local_path(value: str, field: str) -> Path:
    """Return the value as an absolute path on the worker's disk.

    :raises ConfigError: naming ``field``.
    """
    if not value or "\0" in value or "://" in value or not Path(value).is_absolute():
        raise ConfigError(
            f"{field} must be an absolute path on the worker's disk",
            field=field,
            remedy="use a path such as /data/orders.jsonl",
        )
    return Path(value)


def location(value: Any, field: str) -> Location:
    """Parse the value as a path on any store.

    :raises ConfigError: naming ``field``.
    """
    from flowrunner_provider.files.uri import parse

    if not isinstance(value, str):
        raise ConfigError(
            f"{field} must be a path", field=field, remedy="use a path such as /data/x or sftp://partner@/out/x"
        )
    return parse(value, field=field)


class Stores:
    """Async context manager that opens each store of a task once, and closes all of them."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._stores: dict[tuple[str, str], Store] = {}

    async def __aenter__(self) -> Stores:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def target(self, value: Any, field: str) -> Target:
        """Return the file or folder at a path, opening its store if needed.

        :raises ConfigError: naming ``field``, for a malformed path or an unknown connection.
        """
        from flowrunner_provider.files.hook import open_store
        from flowrunner_provider.http.targets import Target

        place = location(value, field)
        key = (place.scheme, place.root)
        if key not in self._stores:
            self._stores[key] = await self._stack.enter_async_context(open_store(place, field=field))
        return Target(store=self._stores[key], path=place.path, root=place.root)


def strings(value: Mapping[str, Any] | None, field: str) -> dict[str, str]:
    """Return a mapping with all values as strings; entries that are None are dropped."""
    return {str(name): str(item) for name, item in mapping(value, field).items() if item is not None}


def mapping(value: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """Return the value as a dict, empty for None.

    :raises ConfigError: naming ``field``.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{field} must be a mapping", field=field, remedy=f"write {field}={{'name': 'value'}}")
    return dict(value or {})


def positive(value: int | None, field: str) -> int | None:
    """Return the value if it is None or positive.

    :raises ConfigError: naming ``field``.
    """
    if value is not None and value < 1:
        raise ConfigError(f"{field} must be positive", field=field, remedy=f"correct {field}")
    return value


def one_of(field: str, value: str, choices: Any) -> None:
    """Raise unless ``value`` is one of the choices of a Literal.

    :raises ConfigError: naming ``field``.
    """
    if value not in choices.__args__:
        raise ConfigError(
            f"{field} cannot be {value!r}", field=field, remedy=f"choose one of {', '.join(choices.__args__)}"
        )
