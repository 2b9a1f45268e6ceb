"""The base class of buckets and containers, which the uploads and copies of object stores use.

:mod:`.objects` builds the store on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, suppress
from datetime import datetime

from flowrunner_provider.core.errors import AlreadyExists, NotFound, PermanentError
from flowrunner_provider.files.store import Capabilities, Entry

__all__ = ["Bucket", "refuse_odd"]


class Bucket(ABC):
    """One bucket or container.

    :param where: its name in messages, e.g. ``s3://aws_default@raw``.
    """

    capabilities: Capabilities

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    async def connect(self, stack: AsyncExitStack) -> None:
        """Load the packages of the extra and open the clients; ``stack`` closes them with the store.

        :raises ConfigError: if the bucket is known not to exist.
        """

    @abstractmethod
    async def head(self, key: str) -> Entry:
        """Return the entry of an object; raise ``NotFound`` also for a folder."""

    def entry(self, key: str, size: int | None, modified: datetime | None, version: str) -> Entry:
        """Return the entry of a listed key; a key that ends with ``/`` is a folder marker."""
        if key.endswith("/"):
            return self.folder(key)
        if modified is not None:  # HEAD returns whole seconds, some listings fractions
            modified = modified.replace(microsecond=0)
        return Entry(path=f"/{key}", name=key.rpartition("/")[2], size=size, modified=modified, version=version)

    def folder(self, prefix: str) -> Entry:
        """Return the entry of a folder; ``prefix`` ends with ``/``, or is empty for the bucket."""
        path = f"/{prefix.removesuffix('/')}"
        return Entry(path=path, name=path.rpartition("/")[2], size=None, modified=None, is_dir=True)

    def label(self, key: str) -> str:
        """Return a key as messages show it."""
        return f"{self.where}/{key}"

    async def refuse_existing(self, key: str) -> None:
        """Raise ``AlreadyExists`` if the object exists."""
        with suppress(NotFound):
            await self.head(key)
            raise AlreadyExists(
                f"{self.label(key)} already exists", remedy="choose another name, or set if_exists to 'overwrite'"
            )


def refuse_odd(key: str, what: str) -> None:
    """Raise ``PermanentError`` for a key that a server or a proxy would normalise to another one."""
    if not key or key.startswith("/") or key.endswith("/"):
        raise PermanentError(f"{what}: object stores cannot hold a file of this name", remedy="rename it")
