"""The hook of a database connection of any supported type; the official providers own the types."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.hooks.base import SqlHook
from flowrunner_provider.registry import CONNECTORS
from flowrunner_provider.runtime.hook import aconnection, connection

__all__ = ["SqlHook", "ahook_for", "hook_for"]


def hook_for(conn_id: str) -> SqlHook[Any]:
    """Return the hook for the connection, by its type.

    :raises ConfigError: if the type is not a supported database.
    """
    return _hook(conn_id, connection(conn_id).conn_type)


async def ahook_for(conn_id: str) -> SqlHook[Any]:
    """Return the hook like :func:`hook_for`, without blocking the event loop; its settings are already read."""
    hook = _hook(conn_id, (await aconnection(conn_id)).conn_type)
    await hook.aload()
    return hook


def _hook(conn_id: str, kind: str | None) -> SqlHook[Any]:
    hooks = dict(next(item.hooks for item in CONNECTORS if item.name == "database"))
    if kind not in hooks:
        raise ConfigError(
            f"connection {conn_id!r} is of type {kind!r}, which is not a supported database",
            field="conn_id",
            remedy=f"use a connection of type {', '.join(sorted(hooks))}",
        )
    module, _, name = hooks[kind].rpartition(".")
    return cast("SqlHook[Any]", getattr(import_module(module), name)(conn_id))
