"""Requests to a bucket of Google Cloud Storage. The version of an object is its generation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from urllib.parse import quote

from flowrunner_provider.core.errors import AccessDenied, ConfigError, IntegrityError, NotFound
from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.gcs_client import GcsClient, Resource
from flowrunner_provider.files.stores.object_bucket import Bucket

__all__ = ["GcsBucket"]

_PAGE = 1_000
_FIELDS = "name,size,timeCreated,generation,crc32c"


class GcsBucket(Bucket):
    """One bucket.

    :param config: the connection.
    :param where: its name in messages.
    """

    def __init__(self, config: GcsConfig, bucket: str, *, where: str = "") -> None:
        super().__init__(where or f"gs://{bucket}")
        self._config, self.bucket = config, bucket
        self._client: GcsClient | None = None

    @property
    def client(self) -> GcsClient:
        """The client of the JSON API, while the store is open."""
        if self._client is None:
            raise ValueError("the store is not open")
        return self._client

    async def connect(self, stack: AsyncExitStack) -> None:
        self._client = GcsClient(self._config)
        await self._client.open(stack)
        with suppress(AccessDenied):  # credentials may be allowed to write only; each call checks its own rights
            try:
                await self._client.request(
                    f"connecting to {self.where}", "GET", self.path(), params={"maxResults": "1", "fields": "kind"}
                )
            except NotFound:
                raise ConfigError(
                    f"{self.where}: the bucket {self.bucket!r} does not exist",
                    field="bucket",
                    remedy="correct the address; buckets are not created",
                ) from None

    def path(self, key: str | None = None) -> str:
        """Return the path of the bucket's objects, or of one object, in the JSON API."""
        objects = f"/storage/v1/b/{quote(self.bucket, safe='')}/o"
        return objects if key is None else f"{objects}/{quote(key, safe='')}"

    async def resource(self, key: str, what: str) -> Resource:
        """Return the metadata of an object."""
        return (await self.client.request(what, "GET", self.path(key), params={"fields": _FIELDS})).json()

    async def head(self, key: str) -> Entry:
        return self._entry(await self.resource(key, f"checking {self.label(key)}"))

    def _entry(self, item: Resource) -> Entry:
        created = datetime.fromisoformat(item["timeCreated"])
        return self.entry(item["name"], int(item["size"]), created, str(item["generation"]))

    async def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        async for page, prefixes in self._listing(prefix, delimited=delimited, most=most):
            yield [self.folder(folder) for folder in prefixes] + [self._entry(item) for item in page]

    async def resources(self, prefix: str) -> AsyncIterator[Sequence[Resource]]:
        """Yield the metadata of the objects whose keys start with ``prefix``, page by page."""
        async for page, _ in self._listing(prefix, delimited=False, most=0):
            yield page

    async def _listing(
        self, prefix: str, *, delimited: bool, most: int
    ) -> AsyncIterator[tuple[Sequence[Resource], Sequence[str]]]:
        params = {"fields": f"nextPageToken,prefixes,items({_FIELDS})", "maxResults": str(most or _PAGE)}
        params |= {"prefix": prefix} if prefix else {}
        params |= {"delimiter": "/"} if delimited else {}
        what = f"listing {self.label(prefix)}"
        while True:
            page = (await self.client.request(what, "GET", self.path(), params=params)).json()
            yield page.get("items", []), page.get("prefixes", [])
            if not page.get("nextPageToken"):
                return
            if params.get("pageToken") == page["nextPageToken"]:
                raise IntegrityError(
                    f"{what}: the server repeats a page", remedy="retry; if it happens again, contact Google's support"
                )
            params["pageToken"] = page["nextPageToken"]

    async def upload(self, what: str, key: str, data: bytes, *, checksum: int, replace: bool = True) -> Resource:
        """Put an object in one request and verify its checksum."""
        condition = {} if replace else {"ifGenerationMatch": "0"}
        return await self.client.upload(what, self.bucket, key, data, params=condition, checksum=checksum)

    async def remove(self, key: str) -> None:
        await self.client.request(f"deleting {self.label(key)}", "DELETE", self.path(key))
