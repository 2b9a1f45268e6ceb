"""Requests on multipart uploads, and what S3 reports of them.

As in :mod:`.s3_objects` there are two implementations: our own (:mod:`.s3_wire_uploads`), and boto3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from flowrunner_provider.core.errors import IntegrityError, Rejected, TransientError
from flowrunner_provider.files.stores.s3_body import Body
from flowrunner_provider.files.stores.s3_client import S3Client
from flowrunner_provider.files.stores.s3_objects import Proof, Stored, already_exists

__all__ = ["CRC32", "PAGE", "ClientUploads", "Part", "PartsPage", "S3Uploads", "UnfinishedUpload"]

CRC32 = "CRC32"
"""The name of the algorithm in S3."""

PAGE = 1_000
"""Rows per page."""


class UnfinishedUpload(NamedTuple):
    """An unfinished upload.

    :param by: the principal that created it.
    """

    key: str
    upload: str
    by: str
    at: datetime


class Part(NamedTuple):
    """An uploaded part.

    :param etag: without quotes.
    :param crc32: in base64; empty if the upload has no such checksums.
    """

    etag: str
    size: int
    crc32: str = ""


class PartsPage(NamedTuple):
    """A page of the parts of an upload, by number.

    :param algorithm: of their checksums; empty if the server does not report it.
    :param after: the part number to continue after; 0 on the last page.
    """

    parts: Mapping[int, Part]
    algorithm: str
    after: int


class S3Uploads(Protocol):
    """Requests on one bucket, retried after transient errors; ``what`` names the operation in messages."""

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        """Create an upload; return its id and the checksum algorithm that the server agreed to verify.

        :param algorithm: the requested one; empty for none.
        """

    async def unfinished(self, what: str, key: str, most: int) -> list[UnfinishedUpload]:
        """Return one page of the unfinished uploads whose keys start with ``key``, those of ``key`` first."""

    async def parts_page(self, what: str, key: str, upload: str, after: int) -> PartsPage:
        """Return the page of parts after the part number ``after``."""

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        """Upload a part. Raise ``Unavailable`` if its checksum differs on the server; the caller must read it again."""

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        is_complete: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """Complete the upload.

        :param create: raise ``AlreadyExists`` if the key exists.
        :param is_complete: returns whether the object is complete already; called if an answer may have been lost.
        """

    async def abort(self, what: str, key: str, upload: str) -> None:
        """Abort an upload, which deletes its parts."""


class ClientUploads:
    """The requests with boto3.

    :param settings: parameters of every write.
    """

    def __init__(self, client: S3Client, bucket: str, settings: Mapping[str, str]) -> None:
        self._client, self._bucket, self._settings = client, bucket, settings

    async def _call(self, what: str, operation: str, **arguments: Any) -> dict[str, Any]:
        return await self._client.call(what, operation, Bucket=self._bucket, **arguments)

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        answer = await self._call(what, "create_multipart_upload", Key=key, **self._settings, **more)
        return str(answer["UploadId"]), str(answer.get("ChecksumAlgorithm", ""))

    async def unfinished(self, what: str, key: str, most: int) -> list[UnfinishedUpload]:
        answer = await self._call(what, "list_multipart_uploads", Prefix=key, MaxUploads=most)
        return [
            UnfinishedUpload(
                row["Key"], str(row["UploadId"]), str(row.get("Initiator", {}).get("ID", "")), row["Initiated"]
            )
            for row in answer.get("Uploads", [])
        ]

    async def parts_page(self, what: str, key: str, upload: str, after: int) -> PartsPage:
        answer = await self._call(
            what, "list_parts", Key=key, UploadId=upload, PartNumberMarker=after, MaxParts=PAGE
        )  # fmt: skip
        parts = {
            int(row["PartNumber"]): Part(
                str(row["ETag"]).strip('"'), int(row["Size"]), str(row.get("ChecksumCRC32", ""))
            )
            for row in answer.get("Parts", [])
        }
        after = int(answer["NextPartNumberMarker"]) if answer.get("IsTruncated") else 0
        return PartsPage(parts, str(answer.get("ChecksumAlgorithm", "")), after)

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        checksum = {"ChecksumCRC32": proof.crc32} if proof.crc32 else {"ContentMD5": proof.md5}
        answer = await self._call(
            what, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data, **checksum
        )  # fmt: skip
        return Stored(str(answer["ETag"]), str(answer.get("ChecksumCRC32", "")))

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        is_complete: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        rows = [
            {"PartNumber": number, "ETag": f'"{part.etag}"'} | ({"ChecksumCRC32": part.crc32} if part.crc32 else {})
            for number, part in sorted(parts.items())
        ]
        more = {"IfNoneMatch": "*"} if create else {}
        try:
            await self._call(
                what, "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": rows}, **more
            )  # fmt: skip
        except IntegrityError:  # 412
            raise already_exists(what) from None
        except (TransientError, Rejected):  # such as NoSuchUpload
            if not await is_complete():
                raise

    async def abort(self, what: str, key: str, upload: str) -> None:
        await self._call(what, "abort_multipart_upload", Key=key, UploadId=upload)
