"""What can be asked of a bucket of Google Cloud Storage, in our words. An object's version is its generation."""

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
    :param where: how messages call it.
    """

    def __init__(self, config: GcsConfig, bucket: str, *, where: str = "") -> None:
        super().__init__(where or f"gs://{bucket}")
        self._config, self.bucket = config, bucket
        self._client: GcsClient | None = None

    @property
    def client(self) -> GcsClient:
        """The JSON API; only while the store is open."""
        if self._client is None:
            raise ValueError("the store is not open")
        return self._client

    async def connect(self, stack: AsyncExitStack) -> None:
        self._client = GcsClient(self._config)
        await self._client.open(stack)
        with suppress(AccessDenied):  # who may only write may not look; each call tells what it may
            try:
                await self._client.request(
                    f"connecting to {self.where}", "GET", self.path(), params={"maxResults": "1", "fields": "kind"}
                )
            except NotFound:
                raise ConfigError(
                    f"{self.where}: there is no bucket {self.bucket!r}",
                    field="bucket",
                    remedy="correct the address; buckets are not made",
                ) from None

    def path(self, key: str | None = None) -> str:
        """The path of the bucket's objects, or of one, as the JSON API has it."""
        objects = f"/storage/v1/b/{quote(self.bucket, safe='')}/o"
        return objects if key is None else f"{objects}/{quote(key, safe='')}"

    async def resource(self, key: str, what: str) -> Resource:
        """What Google knows of an object."""
        return (await self.client.request(what, "GET", self.path(key), params={"fields": _FIELDS})).json()

    async def head(self, key: str) -> Entry:
        return self._entry(await self.resource(key, f"looking at {self.label(key)}"))

    def _entry(self, item: Resource) -> Entry:
        created = datetime.fromisoformat(item["timeCreated"])
        return self.entry(item["name"], int(item["size"]), created, str(item["generation"]))

    async def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        async for page, prefixes in self._listing(prefix, delimited=delimited, most=most):
            yield [self.folder(folder) for folder in prefixes] + [self._entry(item) for item in page]

    async def resources(self, prefix: str) -> AsyncIterator[Sequence[Resource]]:
        """The objects whose keys start with ``prefix``, page by page."""
        async for page, _ in self._listing(prefix, delimited=False, most=0):
            yield page

    async def _listing(
        self, prefix: str, *, delimited: bool, most: int
    ) -> AsyncIterator[tuple[Sequence[Resource], Sequence[str]]]:
        question = {"fields": f"nextPageToken,prefixes,items({_FIELDS})", "maxResults": str(most or _PAGE)}
        question |= {"prefix": prefix} if prefix else {}
        question |= {"delimiter": "/"} if delimited else {}
        what = f"listing {self.label(prefix)}"
        while True:
            page = (await self.client.request(what, "GET", self.path(), params=question)).json()
            yield page.get("items", []), page.get("prefixes", [])
            if not page.get("nextPageToken"):
                return
            if question.get("pageToken") == page["nextPageToken"]:
                raise IntegrityError(f"{what}: the same page comes twice", remedy="retry; tell Google's support")
            question["pageToken"] = page["nextPageToken"]

    async def upload(self, what: str, key: str, data: bytes, *, checksum: int, replace: bool = True) -> Resource:
        """Put an object in one request; its checksum has been compared on return."""
        condition = {} if replace else {"ifGenerationMatch": "0"}
        return await self.client.upload(what, self.bucket, key, data, params=condition, checksum=checksum)

    async def remove(self, key: str) -> None:
        await self.client.request(f"deleting {self.label(key)}", "DELETE", self.path(key))
