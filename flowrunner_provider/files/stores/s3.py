"""S3 buckets, and those of compatible servers, as stores."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace as with_changes
from hashlib import md5
from typing import Any
from zlib import crc32

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.objects import CAPABILITIES, ObjectStore
from flowrunner_provider.files.stores.s3_bucket import S3Bucket
from flowrunner_provider.files.stores.s3_client import S3Target
from flowrunner_provider.files.stores.s3_copy import copy_object
from flowrunner_provider.files.stores.s3_objects import Proof, Stored
from flowrunner_provider.files.stores.s3_parts import MAX_PARTS, S3Parts, is_md5
from flowrunner_provider.files.stores.s3_ranges import read_into
from flowrunner_provider.files.stores.s3_wire_requests import LARGE

__all__ = ["S3Store", "S3Target"]

_MIB = 1024 * 1024


class S3Store(S3Bucket, ObjectStore):
    """One bucket.

    :param where: the name of the bucket in messages.
    """

    def __init__(self, target: S3Target, *, where: str = "") -> None:
        super().__init__(target, where=where)
        part, conditional = target.config.part_size * _MIB, target.config.conditional_writes
        self.capabilities = with_changes(
            CAPABILITIES,
            atomic_create=target.config.endpoint_url is None if conditional is None else conditional,
            presigns=True,
            reads_ranges=part,
            takes_ranges=part,
        )

    async def fetch(
        self, key: str, what: str, offset: int, wanted: int, version: str | None = None
    ) -> tuple[int, str | None, bytes] | None:
        return await self.objects.get(what, key, offset, wanted, version or "")

    async def put(self, key: str, data: bytes, *, replace: bool) -> None:
        create = not replace and self.capabilities.atomic_create
        if not replace and not create:
            await self.refuse_existing(key)
        proof = self.proof(data) if len(data) < LARGE else await asyncio.to_thread(self.proof, data)
        stored = await self.objects.put(f"writing {self.label(key)}", key, data, proof, create=create)
        self.verify_stored(data, proof, stored)

    def proof(self, data: bytes) -> Proof:
        """Return the checksum to send with an object: the fastest that the server supports."""
        if self.wants_crc:
            return Proof(crc32=b64encode(crc32(data).to_bytes(4, "big")).decode())
        return Proof(md5=b64encode(md5(data, usedforsecurity=False).digest()).decode())

    def verify_stored(self, data: bytes, proof: Proof, stored: Stored) -> None:
        """Raise unless the answer matches the sent bytes: its CRC-32, or else its ETag if that is an MD5."""
        wrong, etag = False, stored.etag.strip('"')
        if stored.crc32:
            wrong = stored.crc32 != proof.crc32
        elif self.etag_is_md5 and is_md5(etag):
            wrong = etag != (b64decode(proof.md5) or md5(data, usedforsecurity=False).digest()).hex()
        if wrong:
            raise IntegrityError(
                f"{self.where}: the server stored other bytes than were sent",
                remedy="retry; if the bucket encrypts with KMS, set server_side_encryption in the connection",
            )

    async def remove(self, key: str) -> None:
        await self.objects.delete(f"deleting {self.label(key)}", key)

    async def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        what, token = f"listing {self.label(prefix)}", ""
        arguments: dict[str, Any] = {"Prefix": prefix}
        if delimited:
            arguments["Delimiter"] = "/"
        if most:
            arguments["MaxKeys"] = most
        next_page = asyncio.ensure_future(self.objects.page(what, arguments))
        try:
            while True:
                answer = await next_page
                truncated = not most and answer.get("IsTruncated")
                following = str(answer.get("NextContinuationToken") or "") if truncated else ""
                if truncated and following in ("", token):
                    raise IntegrityError(
                        f"{what}: the server did not return the token of the next page", remedy="check the server"
                    )
                if token := following:  # fetched while this page is processed
                    next_page = asyncio.ensure_future(
                        self.objects.page(what, {**arguments, "ContinuationToken": token})
                    )
                page = [self.folder(row["Prefix"]) for row in answer.get("CommonPrefixes", [])]
                page += [
                    self.entry(row["Key"], row["Size"], row["LastModified"], row["ETag"])
                    for row in answer.get("Contents", [])
                ]
                yield page
                if not token:
                    return
        finally:
            next_page.cancel()
            await asyncio.gather(next_page, return_exceptions=True)

    def parts(self, key: str, token: str, size: int | None) -> S3Parts:
        config = self._target.config
        return S3Parts(self, key, part_lengths(config.part_size * _MIB, MAX_PARTS, size), config.parts_at_once)

    @property
    def ranges_at_once(self) -> int:
        return self._target.config.parts_at_once

    async def read_into(self, file: OpenFile, path: str, offset: int, length: int, version: str) -> int:
        key = path.removeprefix("/")
        return await read_into(self.objects, f"reading {self.label(key)}", file, key, offset, length, version)

    async def copy_key(self, key: str, target: str, *, replace: bool, source: Entry) -> None:
        await copy_object(self, key, target, replace=replace, source=source)
