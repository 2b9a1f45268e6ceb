"""The store for buckets of Google Cloud Storage."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import AsyncExitStack, suppress
from dataclasses import replace as changed
from datetime import timedelta

from flowrunner_provider.core.errors import (
    ConfigError,
    IntegrityError,
    NotFound,
    Rejected,
    TransientError,
)
from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.gcs_bucket import GcsBucket
from flowrunner_provider.files.stores.gcs_client import GcsClient, crc32c
from flowrunner_provider.files.stores.gcs_parts import GcsParts
from flowrunner_provider.files.stores.objects import CAPABILITIES, ObjectStore

__all__ = ["GcsStore", "buckets"]

_MIB = 1024 * 1024


class GcsStore(GcsBucket, ObjectStore):
    """One bucket.

    :param config: the connection.
    :param where: its name in messages.
    """

    def __init__(self, config: GcsConfig, bucket: str, *, where: str = "") -> None:
        super().__init__(config, bucket, where=where)
        self.capabilities = changed(CAPABILITIES, hashes=frozenset({"crc32c"}), presigns=True)

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """Return a signed URL, version 4; see :class:`~flowrunner_provider.files.store.SigningStore`."""
        key = path.removeprefix("/")
        return await GcsClient(self._config).signed(self.bucket, key, method, expires)

    async def fetch(
        self, key: str, what: str, offset: int, wanted: int, version: str | None = None
    ) -> tuple[int, str | None, bytes] | None:
        params = {"alt": "media", **({"generation": version} if version else {})}
        try:
            answer = await self.client.request(
                what,
                "GET",
                self.path(key),
                params=params,
                headers={"Range": f"bytes={offset}-{offset + wanted - 1}"},
            )
        except Rejected as error:
            if error.status == 416:
                return None
            raise
        except NotFound:
            if version:
                raise IntegrityError(f"{what}: the object changed meanwhile", remedy="run the task again") from None
            raise
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdecimal() else len(answer.body)
        if len(answer.body) != max(0, min(wanted, size - offset)):
            raise IntegrityError(f"{what}: {len(answer.body)} of {wanted} bytes arrived", remedy="retry")
        if len(answer.body) == size:
            _verify(answer.body, answer.headers.get("X-Goog-Hash", ""), what)
        return size, answer.headers.get("X-Goog-Generation"), answer.body

    def parts(self, key: str, token: str, size: int | None) -> GcsParts:
        return GcsParts(self, key, token, self._config.part_size * _MIB, self._config.parts_at_once)

    async def put(self, key: str, data: bytes, *, replace: bool) -> None:
        what, checksum = f"writing {self.label(key)}", await asyncio.to_thread(crc32c, data)
        try:
            await self.upload(what, key, data, checksum=checksum, replace=replace)
        except TransientError:
            if replace or not await self._holds(key, checksum):  # the answer may have been lost
                raise
        except IntegrityError:  # 412: another writer was faster
            if not replace:
                await self.refuse_existing(key)
            raise

    async def _holds(self, key: str, checksum: int) -> bool:
        with suppress(NotFound):
            found = await self.resource(key, f"checking {self.label(key)}")
            return found.get("crc32c") == b64encode(checksum.to_bytes(4, "big")).decode()
        return False

    async def copy_key(self, key: str, target: str, *, replace: bool, source: Entry) -> None:
        what = f"copying {self.label(key)}"
        params = {"ifSourceGenerationMatch": source.version} if source.version else {}
        params |= {} if replace else {"ifGenerationMatch": "0"}
        where = f"{self.path(key)}/rewriteTo{self.path(target).removeprefix('/storage/v1')}"
        while True:
            try:
                answer = (await self.client.request(what, "POST", where, params=params)).json()
            except IntegrityError:  # 412: the source changed, or another writer was faster
                if not replace:
                    await self.refuse_existing(target)
                raise
            if answer.get("done"):
                return
            params["rewriteToken"] = str(answer["rewriteToken"])


def _verify(data: bytes, hashes: str, what: str) -> None:
    """Verify a complete object against the checksum in its answer."""
    for item in hashes.split(","):
        name, _, value = item.strip().partition("=")
        if name == "crc32c" and value != b64encode(crc32c(data).to_bytes(4, "big")).decode():
            raise IntegrityError(f"{what}: the data does not match the checksum of the object", remedy="retry")


async def buckets(config: GcsConfig) -> str:
    """List one page of the project's buckets; return one sentence about it."""
    if not config.project:
        raise ConfigError(
            "the connection names neither a bucket nor a project",
            field="project",
            remedy="set the project, or the bucket in the flowrunner extra",
        )
    client = GcsClient(config)
    async with AsyncExitStack() as stack:
        await client.open(stack)
        params = {"project": config.project, "maxResults": "100", "fields": "items(name)"}
        answer = await client.request(f"listing the buckets of {config.project}", "GET", "/storage/v1/b", params=params)
    count = len(answer.json().get("items", []))
    return f"Google answers; {config.project} has {'100 buckets or more' if count == 100 else f'{count} buckets'}."
