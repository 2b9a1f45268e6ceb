"""What the hooks of all object stores share: which bucket is meant, and whether it can be reached."""

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
    """Of an address that the connection is used without."""

    noun: ClassVar[str] = "bucket"
    """What the vendor calls one, and the option that names one."""

    @classmethod
    def official(cls, found: Connection) -> dict[str, Any]:
        """The extras of the official provider, with and without the prefix that they once had."""
        prefix, extra = f"extra__{cls.conn_type}__", extra_of(found)
        old = {name.removeprefix(prefix): value for name, value in extra.items() if name.startswith(prefix)}
        return {**old, **{name: value for name, value in extra.items() if value or name not in old}}

    @abstractmethod
    def bucket(self, name: str, where: str) -> ObjectStore:
        """The store of a bucket.

        :param where: how messages call it.
        """

    @abstractmethod
    async def around(self) -> str:
        """What can be seen of the account where the connection names no bucket, in one sentence."""

    def store(self, location: Location | None = None, *, field: str = "path") -> ObjectStore:
        name = (location.host if location else "") or getattr(self.config, self.noun)
        scheme = location.scheme if location else self.scheme
        if not name:
            raise ConfigError(
                f"no {self.noun} is named, neither by the address nor by the connection {self.conn_id!r}",
                field=field if location else self.noun,
                remedy=f"write {scheme}://{self.conn_id}@{self.noun}/path",
            )
        return self.bucket(name, f"{scheme}://{self.conn_id}@{name}")

    def check(self) -> str:
        """Look into the connection's bucket, or around where it names none."""
        return asyncio.run(self._into() if getattr(self.config, self.noun) else self.around())

    async def _into(self) -> str:
        prefix, count = getattr(self.config, "prefix", ""), 0
        async with self.store() as store:
            async for found in store.pages(prefix, delimited=True, most=1):
                count += len(found)
        name, seen = getattr(self.config, self.noun), "something" if count else "nothing"
        return f"Reached the {self.noun} {name}; there is {seen} below {prefix or 'its root'!r}."
