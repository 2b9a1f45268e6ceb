"""Checks of rendered arguments: each refusal names the parameter to correct, before any effect."""

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


def location(value: Any, field: str) -> Location:
    """The value as an address on any store.

    :raises ConfigError: naming ``field``.
    """
    from flowrunner_provider.files.uri import parse

    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a path", field=field, remedy="write /data/x or sftp://partner@/out/x")
    return parse(value, field=field)


class Stores:
    """The stores that a task uses, each opened once; an async context manager that closes them."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._open: dict[tuple[str, str], Store] = {}

    async def __aenter__(self) -> Stores:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def target(self, value: Any, field: str) -> Target:
        """The file or folder at an address.

        :raises ConfigError: naming ``field``, for an address that is none, or a connection that is not there.
        """
        from flowrunner_provider.files.hook import open_store
        from flowrunner_provider.http.targets import Target

        where = location(value, field)
        key = (where.scheme, where.root)
        if key not in self._open:
            self._open[key] = await self._stack.enter_async_context(open_store(where, field=field))
        return Target(store=self._open[key], path=where.path, root=where.root)


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
