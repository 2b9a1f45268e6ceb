"""Stores from addresses: the registry says which hook opens which scheme."""

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

__all__ = ["Place", "aopen_store", "open_store", "opened", "places"]

Place = tuple[Store, str]
"""An open store, and a path in it."""


def open_store(where: str | Location, *, field: str = "path") -> Store:
    """The store that a location lies in, not yet entered; resolves its connection, so call it on the worker.

    :param where: a URI such as ``sftp://partner@/out``, or one that was parsed.
    :param field: the parameter it was given as, for messages.
    :raises ConfigError: for an unknown scheme, and what the connection lacks.
    """
    location = parse(where, field=field) if isinstance(where, str) else where
    if location.scheme == "file":
        return LocalStore()
    return _hook(location).store(location, field=field)


async def aopen_store(location: Location, *, field: str = "path") -> Store:
    """:func:`open_store` for an event loop that must not be blocked: the triggerer's."""
    if location.scheme == "file":
        return LocalStore()
    hook = _hook(location)
    await hook.aload()
    return hook.store(location, field=field)


def _hook(location: Location) -> StoreHook[Any]:
    module, _, name = STORES[location.scheme.partition("+")[0]].rpartition(".")
    return cast("StoreHook[Any]", getattr(import_module(module), name)(location.conn_id))


def _at_its_pace(location: Location, field: str, run: Run) -> Store:
    """The store, which keeps to its connection's ``rate_limit``, if there is one."""
    if location.scheme == "file":
        return LocalStore()
    hook = _hook(location)
    store, pacer = hook.store(location, field=field), hook.pacer
    return RateLimitedStore(store, replace(run, pacer=pacer).paced) if pacer else store


async def opened(run: Run, stack: AsyncExitStack, **locations: Sequence[Location]) -> dict[str, Store]:
    """One open store for each root; all connections are read before the first is made.

    :param locations: by the parameter that they were given as.
    """
    stores: dict[str, Store] = {}
    for field, several in locations.items():
        for location in several:
            if location.root not in stores:
                stores[location.root] = _at_its_pace(location, field, run)
    for store in stores.values():

        async def enter(store: Store = store) -> Store:
            return await stack.enter_async_context(store)

        await run.retry.acall(enter, run.deadline)
    return stores


@asynccontextmanager
async def places(run: Run, **locations: Sequence[Location]) -> AsyncIterator[dict[str, list[Place]]]:
    """:func:`opened` for the length of a block, each location as its store and the path there.

    :param locations: by the parameter that they were given as; so are the places.
    """
    async with AsyncExitStack() as stack:
        stores = await opened(run, stack, **locations)
        yield {field: [(stores[one.root], one.path) for one in several] for field, several in locations.items()}
