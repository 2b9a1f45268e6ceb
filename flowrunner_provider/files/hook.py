"""Opens the stores of addresses; the registry maps each scheme to its hook."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.rate_limited import RateLimitedStore
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.uri import Location, parse
from flowrunner_provider.registry import STORES

if TYPE_CHECKING:
    from flowrunner_provider.files.hooks.base import StoreHook

__all__ = ["StorePath", "aopen_store", "open_locations", "open_store", "open_stores"]

StorePath = tuple[Store, str]
"""An open store, and a path in it."""


def open_store(where: str | Location, *, field: str = "path") -> Store:
    """Return the store of a location, not opened yet; resolves the connection, so call it on the worker.

    :param where: a URI such as ``sftp://partner@/out``, or a parsed one.
    :param field: the parameter that it was passed as.
    :raises ConfigError: for an unknown scheme, and for settings that the connection lacks.
    """
    location = parse(where, field=field) if isinstance(where, str) else where
    if location.scheme == "file":
        return LocalStore()
    return _hook(location).store(location, field=field)


async def aopen_store(location: Location, *, field: str = "path") -> Store:
    """Like :func:`open_store`, for an event loop that must not be blocked, such as the triggerer's."""
    if location.scheme == "file":
        return LocalStore()
    hook = _hook(location)
    await hook.aload()
    return hook.store(location, field=field)


def _hook(location: Location) -> StoreHook[Any]:
    module, _, name = STORES[location.scheme.partition("+")[0]].rpartition(".")
    return cast("StoreHook[Any]", getattr(import_module(module), name)(location.conn_id))


def _rate_limited_store(location: Location, field: str, run: Run) -> Store:
    """Return the store, limited to the ``rate_limit`` of its connection if there is one."""
    if location.scheme == "file":
        return LocalStore()
    hook = _hook(location)
    store, pacer = hook.store(location, field=field), hook.pacer
    return RateLimitedStore(store, replace(run, pacer=pacer).paced) if pacer else store


async def open_stores(run: Run, stack: AsyncExitStack, **locations: Sequence[Location]) -> dict[str, Store]:
    """Open one store per root; all connections are read before the first one is opened.

    :param locations: by the parameter that they were passed as.
    """
    stores: dict[str, Store] = {}
    for field, several in locations.items():
        for location in several:
            if location.root not in stores:
                stores[location.root] = _rate_limited_store(location, field, run)
    for store in stores.values():

        async def enter(store: Store = store) -> Store:
            return await stack.enter_async_context(store)

        await run.retry.acall(enter, run.deadline)
    return stores


@asynccontextmanager
async def open_locations(run: Run, **locations: Sequence[Location]) -> AsyncIterator[dict[str, list[StorePath]]]:
    """Open the stores for the duration of a block, and yield each location as its store and path.

    :param locations: by the parameter that they were passed as; the result has the same keys.
    """
    async with AsyncExitStack() as stack:
        stores = await open_stores(run, stack, **locations)
        yield {field: [(stores[one.root], one.path) for one in several] for field, several in locations.items()}
