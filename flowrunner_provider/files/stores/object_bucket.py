"""A bucket or container, and how its objects are spoken of: the floor that parts and copies of objects stand on.

Above it :mod:`.objects` makes a store of it.
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

    :param where: how messages call it, e.g. ``s3://aws_default@raw``.
    """

    capabilities: Capabilities

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    async def connect(self, stack: AsyncExitStack) -> None:
        """Load the packages of the extra, and be ready; what is entered into ``stack`` is left with the store.

        :raises ConfigError: when the bucket is known not to be there.
        """

    @abstractmethod
    async def head(self, key: str) -> Entry:
        """What is known of an object; ``NotFound`` for a folder, too."""

    def entry(self, key: str, size: int | None, modified: datetime | None, version: str) -> Entry:
        """A key of a listing; one that ends in ``/`` is the marker of a folder."""
        if key.endswith("/"):
            return self.folder(key)
        if modified is not None:  # a look gives whole seconds, a listing sometimes more
            modified = modified.replace(microsecond=0)
        return Entry(path=f"/{key}", name=key.rpartition("/")[2], size=size, modified=modified, version=version)

    def folder(self, prefix: str) -> Entry:
        """A folder of a listing; ``prefix`` ends in ``/`` or is empty for the bucket."""
        path = f"/{prefix.removesuffix('/')}"
        return Entry(path=path, name=path.rpartition("/")[2], size=None, modified=None, is_dir=True)

    def label(self, key: str) -> str:
        """How messages call a key."""
        return f"{self.where}/{key}"

    async def refuse_existing(self, key: str) -> None:
        """Raise ``AlreadyExists`` if there is such an object."""
        with suppress(NotFound):
            await self.head(key)
            raise AlreadyExists(
                f"{self.label(key)} is there already", remedy="choose another name, or if_exists='overwrite'"
            )


def refuse_odd(key: str, what: str) -> None:
    """Raise ``PermanentError`` for a key that a store, or what stands before it, would take for another one."""
    if not key or key.startswith("/") or key.endswith("/"):
        raise PermanentError(f"{what}: this is no name of a file here", remedy="rename it")
