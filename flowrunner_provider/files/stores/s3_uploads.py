"""Uploads in parts, request by request: what S3 keeps of one, and what can be asked of it.

As with :mod:`.s3_objects` there are two ways: our own (:mod:`.s3_wire_uploads`), and boto3 for what only boto3 knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from flowrunner_provider.core.errors import IntegrityError, Rejected, TransientError
from flowrunner_provider.files.stores.s3_body import Body
from flowrunner_provider.files.stores.s3_client import S3Client
from flowrunner_provider.files.stores.s3_objects import Proof, Stored, taken

__all__ = ["CRC32", "PAGE", "Begun", "ClientUploads", "Held", "Part", "S3Uploads"]

CRC32 = "CRC32"
"""What S3 calls the checksum."""

PAGE = 1_000
"""Rows of a page."""


class Begun(NamedTuple):
    """An unfinished upload.

    :param by: the principal.
    """

    key: str
    upload: str
    by: str
    at: datetime


class Part(NamedTuple):
    """A part that the far side holds.

    :param etag: without quotes.
    :param crc32: in base64, where the upload has such.
    """

    etag: str
    size: int
    crc32: str = ""


class Held(NamedTuple):
    """A page of the parts of an upload, by their number.

    :param algorithm: of their checksums; empty where it is not said.
    :param after: the number that the next page begins behind; 0 if there is none.
    """

    parts: Mapping[int, Part]
    algorithm: str
    after: int


class S3Uploads(Protocol):
    """Requests on one bucket, repeated while that may help. ``what`` is being done, on what; for messages."""

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        """Begin an upload; its id, and the algorithm of checksums that the server says it will compare.

        :param algorithm: that it is asked for; empty for none.
        """

    async def begun(self, what: str, key: str, most: int) -> list[Begun]:
        """Unfinished uploads of keys that start with ``key``, itself first; no more than one page."""

    async def held(self, what: str, key: str, upload: str, after: int) -> Held:
        """The parts behind a number."""

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        """Send a part. One that does not have its checksum there is ``Unavailable``, and not sent again from here."""

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        there: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """Make the object.

        :param create: raise ``AlreadyExists`` if there is one.
        :param there: whether it is made already; asked when an answer may have been lost.
        """

    async def abort(self, what: str, key: str, upload: str) -> None:
        """Remove an upload and its parts."""


class ClientUploads:
    """The requests by boto3.

    :param settings: what is sent with everything that is written.
    """

    def __init__(self, client: S3Client, bucket: str, settings: Mapping[str, str]) -> None:
        self._client, self._bucket, self._settings = client, bucket, settings

    async def _call(self, what: str, operation: str, **arguments: Any) -> dict[str, Any]:
        return await self._client.call(what, operation, Bucket=self._bucket, **arguments)

    async def create(self, what: str, key: str, algorithm: str) -> tuple[str, str]:
        more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        answer = await self._call(what, "create_multipart_upload", Key=key, **self._settings, **more)
        return str(answer["UploadId"]), str(answer.get("ChecksumAlgorithm", ""))

    async def begun(self, what: str, key: str, most: int) -> list[Begun]:
        answer = await self._call(what, "list_multipart_uploads", Prefix=key, MaxUploads=most)
        return [
            Begun(row["Key"], str(row["UploadId"]), str(row.get("Initiator", {}).get("ID", "")), row["Initiated"])
            for row in answer.get("Uploads", [])
        ]

    async def held(self, what: str, key: str, upload: str, after: int) -> Held:
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
        return Held(parts, str(answer.get("ChecksumAlgorithm", "")), after)

    async def send(self, what: str, key: str, upload: str, number: int, data: Body, proof: Proof) -> Stored:
        checksum = {"ChecksumCRC32": proof.crc32} if proof.crc32 else {"ContentMD5": proof.md5}
        answer = await self._call(
            what, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data, **checksum
        )  # fmt: skip
        return Stored(str(answer["ETag"]), str(answer.get("ChecksumCRC32", "")))

    async def complete(
        self, what: str, key: str, upload: str, parts: Mapping[int, Part], *, create: bool,
        there: Callable[[], Awaitable[bool]],
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
            raise taken(what) from None
        except (TransientError, Rejected):  # such as NoSuchUpload
            if not await there():
                raise

    async def abort(self, what: str, key: str, upload: str) -> None:
        await self._call(what, "abort_multipart_upload", Key=key, UploadId=upload)
