"""The base class of the hooks that open buckets of object stores."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.hooks.base import StoreHook
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.hook import extra_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.files.stores.objects import ObjectStore

__all__ = ["BucketHook"]

C = TypeVar("C")


class BucketHook(StoreHook[C]):
    """A hook whose connection is an account with buckets."""

    scheme: ClassVar[str]
    """The URI scheme to use when no address is given."""

    noun: ClassVar[str] = "bucket"
    """The vendor's word for a bucket, which is also the name of the option."""

    @classmethod
    def official(cls, found: Connection) -> dict[str, Any]:
        """Return the extras of the official provider, with or without their old prefix."""
        prefix, extra = f"extra__{cls.conn_type}__", extra_of(found)
        old = {name.removeprefix(prefix): value for name, value in extra.items() if name.startswith(prefix)}
        return {**old, **{name: value for name, value in extra.items() if value or name not in old}}

    @abstractmethod
    def bucket(self, name: str, where: str) -> ObjectStore:
        """Return the store of a bucket.

        :param where: the name of the store in messages.
        """

    @abstractmethod
    async def describe_account(self) -> str:
        """Check the account of a connection that names no bucket; return one sentence about it."""

    def store(self, location: Location | None = None, *, field: str = "path") -> ObjectStore:
        name = (location.host if location else "") or getattr(self.config, self.noun)
        scheme = location.scheme if location else self.scheme
        if not name:
            raise ConfigError(
                f"neither the address nor the connection {self.conn_id!r} names a {self.noun}",
                field=field if location else self.noun,
                remedy=f"write {scheme}://{self.conn_id}@{self.noun}/path",
            )
        return self.bucket(name, f"{scheme}://{self.conn_id}@{name}")

    def check(self) -> str:
        """List the bucket of the connection, or check the account if it names none."""
        return asyncio.run(self._list_bucket() if getattr(self.config, self.noun) else self.describe_account())

    async def _list_bucket(self) -> str:
        prefix, count = getattr(self.config, "prefix", ""), 0
        async with self.store() as store:
            async for found in store.pages(prefix, delimited=True, most=1):
                count += len(found)
        name, content = getattr(self.config, self.noun), "not empty" if count else "empty"
        return f"Reached the {self.noun} {name}; {repr(prefix) if prefix else 'it'} is {content}."
