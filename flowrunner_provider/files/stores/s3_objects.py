"""What is small and many in S3: requests on single objects, and pages of a listing.

There are two ways: our own (:mod:`.s3_wire_objects`), and boto3 in threads, which is far dearer, for what only boto3
knows: proxies, access points and so on (:func:`.s3_wire_place.place_of` says which).
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

__all__ = ["ClientObjects", "Found", "Proof", "S3Objects", "Stored", "taken"]


class Found(NamedTuple):
    """What is known of an object."""

    size: int
    modified: datetime | None
    etag: str


class Proof(NamedTuple):
    """A checksum that goes along with an object, in base64; one of the two."""

    crc32: str = ""
    md5: str = ""


class Stored(NamedTuple):
    """What the far side says of an object that it has taken.

    :param crc32: in base64, if it has compared it.
    """

    etag: str
    crc32: str


class S3Objects(Protocol):
    """Requests on one bucket, repeated while that may help. ``what`` is being done, on what; for messages."""

    async def region(self, what: str) -> str:
        """Where the bucket is; empty if it is not said. ``NotFound`` if there is none."""

    async def head(self, what: str, key: str) -> Found:
        """What is known of an object."""

    async def get(self, what: str, key: str, offset: int, wanted: int, version: str) -> tuple[int, str, bytes] | None:
        """Size and ETag of an object, and ``wanted`` bytes from ``offset``, fewer only at its end; None behind it.

        :param version: the ETag that it must still have; empty for any.
        """

    async def receive(self, what: str, key: str, span: Span, version: str) -> None:
        """Ask once, in a thread, for what is left of a span; it says how much is left when that fails.

        :param version: the ETag that the object must still have.
        """

    async def put(self, what: str, key: str, data: bytes, proof: Proof, *, create: bool) -> Stored:
        """Put an object.

        :param create: raise ``AlreadyExists`` if there is one.
        """

    async def delete(self, what: str, key: str) -> None:
        """Delete an object; one that is not there is deleted."""

    async def page(self, what: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """A page of a listing, both as boto3's ``list_objects_v2`` has them."""


def taken(what: str) -> AlreadyExists:
    """The error of :meth:`S3Objects.put` for a key that there is."""
    return AlreadyExists(f"{what}: it is there already", remedy="choose another name, or replace it")


class ClientObjects:
    """The requests by boto3.

    :param settings: what is sent with everything that is written.
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
            raise IntegrityError(f"{what}: {len(data)} bytes came of {wanted}", remedy="retry")
        return size, str(answer.get("ETag", "")), data

    async def receive(self, what: str, key: str, span: Span, version: str) -> None:
        def work(client: Any) -> None:
            from botocore.exceptions import IncompleteReadError
            from urllib3.exceptions import HTTPError

            question = {"Bucket": self._bucket, "Key": key, "IfMatch": version, "Range": span.header}
            answer = client.get_object(**question)
            with closing(answer["Body"]) as body:
                if not str(answer.get("ContentRange", "")).startswith(f"{span.header.replace('=', ' ')}/"):
                    raise IntegrityError(
                        f"{what}: another range came than was asked for", remedy="look at what stands between"
                    )
                try:
                    span.receive(body.readinto)
                except (IncompleteReadError, HTTPError):
                    raise ConnectionLost(f"{what}: the connection broke", remedy="check the network") from None

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
            raise taken(what) from None
        return Stored(str(answer.get("ETag", "")), str(answer.get("ChecksumCRC32", "")))

    async def delete(self, what: str, key: str) -> None:
        await self._client.call(what, "delete_object", Bucket=self._bucket, Key=key)

    async def page(self, what: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._client.call(what, "list_objects_v2", Bucket=self._bucket, **question)
