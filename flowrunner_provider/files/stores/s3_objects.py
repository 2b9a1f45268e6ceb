"""Requests on single objects, and pages of a listing.

There are two implementations: our own connections (:mod:`.s3_wire_objects`), and boto3 in threads. The second one is
much slower and only serves what only boto3 supports, such as proxies and access points
(:func:`.s3_wire_address.bucket_address` decides).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import AlreadyExists, ConnectionLost, IntegrityError, Rejected
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.files.stores.s3_client import S3Client
from flowrunner_provider.files.stores.s3_span import Span

__all__ = ["ClientObjects", "Found", "Proof", "S3Objects", "Stored", "already_exists"]


class Found(NamedTuple):
    """The metadata of an object."""

    size: int
    modified: datetime | None
    etag: str


class Proof(NamedTuple):
    """The checksum that is sent with an object, in base64; exactly one of the two is set."""

    crc32: str = ""
    md5: str = ""


class Stored(NamedTuple):
    """The answer to a write.

    :param crc32: in base64; empty if the server has not verified it.
    """

    etag: str
    crc32: str


class S3Objects(Protocol):
    """Requests on one bucket, retried after transient errors; ``what`` names the operation in messages."""

    async def region(self, what: str) -> str:
        """Return the region of the bucket, or "" if it is not reported; raise ``NotFound`` without a bucket."""

    async def head(self, what: str, key: str) -> Found:
        """Return the metadata of an object."""

    async def get(self, what: str, key: str, offset: int, wanted: int, version: str) -> tuple[int, str, bytes] | None:
        """Return size and ETag of an object, and ``wanted`` bytes from ``offset`` or all up to its end.

        None if ``offset`` is behind the end.

        :param version: the ETag that the object must have; empty for any.
        """

    async def receive(self, what: str, key: str, span: Span, version: str) -> None:
        """Request the rest of a span once, in a thread; after an error the span knows what is still missing.

        :param version: the ETag that the object must have.
        """

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        """Put an object.

        :param create: raise ``AlreadyExists`` if the key exists.
        """

    async def delete(self, what: str, key: str) -> None:
        """Delete an object if it exists."""

    async def page(self, what: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a page of a listing; arguments and result are those of ``list_objects_v2`` of boto3."""


def already_exists(what: str) -> AlreadyExists:
    """Return the error for a key that exists."""
    return AlreadyExists(f"{what}: already exists", remedy="choose another name, or set if_exists to 'overwrite'")


class ClientObjects:
    """The requests with boto3.

    :param settings: parameters of every write.
    """

    def __init__(
        self, client: S3Client, bucket: str, settings: Mapping[str, str], plan: RetryPlan, timeout: float
    ) -> None:
        self._client, self._bucket, self._settings = client, bucket, settings
        self._plan, self._timeout = plan, timeout

    async def region(self, what: str) -> str:
        answer = await self._client.call(what, "head_bucket", Bucket=self._bucket)
        return str(answer.get("BucketRegion") or "")

    async def head(self, what: str, key: str) -> Found:
        answer = await self._client.call(what, "head_object", Bucket=self._bucket, Key=key)
        return Found(int(answer["ContentLength"]), answer.get("LastModified"), str(answer.get("ETag", "")))

    async def get(self, what: str, key: str, offset: int, wanted: int, version: str) -> tuple[int, str, bytes] | None:
        more = {"IfMatch": version} if version else {}
        where = {"Bucket": self._bucket, "Key": key, "Range": f"bytes={offset}-{offset + wanted - 1}", **more}

        async def once() -> tuple[dict[str, Any], bytes]:
            return await self._client.read(what, wanted, **where)

        try:
            answer, data = await self._plan.acall(once, Deadline(2 * self._timeout))
        except Rejected as error:
            if error.status == 416:
                return None
            raise
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]
        size = int(total) if total.isdecimal() else len(data)
        if len(data) != max(0, min(wanted, size - offset)):
            raise IntegrityError(f"{what}: received {len(data)} of {wanted} bytes", remedy="retry")
        return size, str(answer.get("ETag", "")), data

    async def receive(self, what: str, key: str, span: Span, version: str) -> None:
        def work(client: Any) -> None:
            from botocore.exceptions import IncompleteReadError
            from urllib3.exceptions import HTTPError

            parameters = {"Bucket": self._bucket, "Key": key, "IfMatch": version, "Range": span.header}
            answer = client.get_object(**parameters)
            with closing(answer["Body"]) as body:
                if not str(answer.get("ContentRange", "")).startswith(f"{span.header.replace('=', ' ')}/"):
                    raise IntegrityError(
                        f"{what}: the server sent another range than requested", remedy="check proxies in between"
                    )
                try:
                    span.receive(body.readinto)
                except (IncompleteReadError, HTTPError):
                    raise ConnectionLost(f"{what}: the connection was lost", remedy="check the network") from None

        await self._client.run(what, work)

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        more = {"ChecksumCRC32": proof.crc32} if proof.crc32 else {"ContentMD5": proof.md5}
        if create:
            more["IfNoneMatch"] = "*"
        try:
            answer = await self._client.call(
                what, "put_object", Bucket=self._bucket, Key=key, Body=data, **more, **self._settings
            )
        except IntegrityError:  # 412
            raise already_exists(what) from None
        return Stored(str(answer.get("ETag", "")), str(answer.get("ChecksumCRC32", "")))

    async def delete(self, what: str, key: str) -> None:
        await self._client.call(what, "delete_object", Bucket=self._bucket, Key=key)

    async def page(self, what: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._client.call(what, "list_objects_v2", Bucket=self._bucket, **parameters)
