"""Multipart uploads of S3, found again by what S3 itself lists.

Every part travels with a checksum that the far side compares: a CRC-32 where it says that it knows that, else its MD5.

S3 keeps no note of ours with an unfinished upload. An earlier attempt's is known by three things: exactly this key,
the same principal that began it, and parts whose size and MD5 are those of what is to be sent. Whose attempt it was
does not matter then: what is completed names every part's ETag, which is the MD5 of the very bytes that this attempt
has read. Two tasks that write one key at the same moment disturb each other (the slower one is repeated); the object
is always one or the other, whole.

Without the right ``s3:ListBucketMultipartUploads``, and on servers that do not list them, nothing is taken up, and
abandoned parts are left to the bucket's lifecycle rule.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import md5
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.stores.s3_body import Body, FileBody, PiecesBody

if TYPE_CHECKING:
    from flowrunner_provider.files.stores.s3 import S3Store

__all__ = ["MOST_PARTS", "S3Parts", "etag_of", "is_md5"]

MOST_PARTS = 10_000

_CRC32 = "CRC32"
_DAMAGED = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})
_PAGE = 1_000
_NOT_LISTED = (AccessDenied, NotFound, Rejected)


def is_md5(etag: str) -> bool:
    """Whether an ETag looks like a checksum of the bytes; with some kinds of encryption it does and is none."""
    return len(etag) == 32 and all(digit in "0123456789abcdef" for digit in etag)


def etag_of(parts: list[str]) -> str:
    """The ETag of an object made of parts with these MD5s (hexadecimal)."""
    return f"{md5(bytes.fromhex(''.join(parts)), usedforsecurity=False).hexdigest()}-{len(parts)}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that the far side holds.

    :param checksum: its CRC-32 in base64, where the upload has such.
    """

    etag: str
    size: int
    checksum: str = ""

    def named(self, number: int) -> dict[str, Any]:
        """What the completion says of it."""
        more = {"ChecksumCRC32": self.checksum} if self.checksum else {}
        return {"PartNumber": number, "ETag": f'"{self.etag}"', **more}


class S3Parts:
    """The unfinished upload of one key.

    :param length: bytes of a part, by its number.
    """

    def __init__(self, store: S3Store, key: str, length: Callable[[int], int], at_once: int) -> None:
        self._store, self._key = store, key
        self.length, self.at_once = length, at_once
        self._what = f"writing {store.label(key)}"
        self._upload, self._algorithm = "", ""
        self._there: dict[int, _Part] = {}
        self._sent: dict[int, _Part] = {}

    async def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        where = {"Bucket": self._store.bucket, "Key": self._key}
        if self._upload and "UploadId" not in arguments:
            where["UploadId"] = self._upload
        try:
            return await self._store.client.call(self._what, operation, **where, **arguments)
        except Rejected as error:
            if error.code in _DAMAGED:
                raise Unavailable(f"{self._what}: a part was damaged on its way") from None
            if error.code != "NoSuchUpload":
                raise
            raise Unavailable(
                f"{self._what}: its unfinished upload is gone; somebody else finished or removed it",
                remedy="let only one task write this key; the retry begins anew",
            ) from None

    async def start(self) -> None:
        self._upload = ""
        asked = {"ChecksumAlgorithm": _CRC32} if self._store.wants_crc else {}
        answer = await self._call("create_multipart_upload", **self._store.settings, **asked)
        created, self._algorithm = str(answer["UploadId"]), answer.get("ChecksumAlgorithm", "") if asked else ""
        failpoint("s3.after_create")
        self._upload, older = created, await self._older(created)
        for upload in older:  # the newest first
            there = {} if self._there else await self._list(upload)
            if self._fits(there):
                self._upload, self._there = upload, there
            else:
                await self._abort(upload)
        if self._upload != created:
            await self._abort(created)

    async def _older(self, upload: str) -> list[str]:
        """Unfinished uploads of this very key by the principal that has begun ``upload``, the newest first."""
        try:
            answer = await self._store.client.call(
                self._what, "list_multipart_uploads", Bucket=self._store.bucket, Prefix=self._key, MaxUploads=_PAGE
            )
        except _NOT_LISTED:
            return []
        found = [row for row in answer.get("Uploads", []) if row["Key"] == self._key]
        ours = {_principal(row) for row in found if row["UploadId"] == upload}
        mine = [row for row in found if _principal(row) in ours and row["UploadId"] != upload]
        mine.sort(key=lambda row: row["Initiated"], reverse=True)
        return [str(row["UploadId"]) for row in mine]

    async def _list(self, upload: str) -> dict[int, _Part]:
        """The parts that the far side holds, by number; none where it has checksums of another kind than ours."""
        parts: dict[int, _Part] = {}
        marker = 0
        while True:
            answer = await self._call("list_parts", UploadId=upload, PartNumberMarker=marker, MaxParts=_PAGE)
            if _CRC32 in (self._algorithm, kind := answer.get("ChecksumAlgorithm", "")) and self._algorithm != kind:
                return {}
            for row in answer.get("Parts", []):
                etag, checksum = str(row["ETag"]).strip('"'), str(row.get("ChecksumCRC32", ""))
                parts[int(row["PartNumber"])] = _Part(etag, int(row["Size"]), checksum)
            if not answer.get("IsTruncated"):
                return parts
            marker = int(answer["NextPartNumberMarker"])

    def _fits(self, parts: dict[int, _Part]) -> bool:
        """Parts of our own lengths, but for the last one."""
        return bool(parts) and all(
            part.size == self.length(number) for number, part in parts.items() if number < max(parts)
        )

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        await self._send(number, PiecesBody(pieces))

    async def send_file(self, number: int, file: OpenFile, offset: int, length: int) -> None:
        await self._send(number, FileBody(file, offset, length))

    async def _send(self, number: int, data: Body) -> None:
        if number > MOST_PARTS:
            raise PermanentError(
                f"{self._what}: more than {MOST_PARTS} parts",
                remedy="raise part_size in the connection's flowrunner extra",
            )
        there = self._there.get(number)
        if there and (there.etag, there.size) == (await asyncio.to_thread(data.md5), len(data)):
            self._sent[number] = there
            return
        if self._algorithm == _CRC32:
            checksum = b64encode((await asyncio.to_thread(data.crc32)).to_bytes(4, "big")).decode()
            etag = await self._arrived(number, data, "", ChecksumCRC32=checksum)
            self._sent[number] = _Part(etag, len(data), checksum)
            return
        expected = await asyncio.to_thread(data.md5)
        proof = b64encode(bytes.fromhex(expected)).decode()
        self._sent[number] = _Part(await self._arrived(number, data, expected, ContentMD5=proof), len(data))

    async def _arrived(self, number: int, data: Body, expected: str, **proof: str) -> str:
        """Send a part with its checksum; its ETag.

        :param expected: the ETag, if it is an MD5; empty where the answer repeats the checksum that was compared.
        """
        failpoint("s3.before_upload_part")
        answer = await self._call("upload_part", PartNumber=number, Body=data, **proof)
        failpoint("s3.after_upload_part")
        etag = str(answer["ETag"]).strip('"')
        if expected:
            wrong = self._store.etag_is_md5 and is_md5(etag) and etag != expected
        else:
            wrong = answer.get("ChecksumCRC32") != proof["ChecksumCRC32"]
        if wrong:
            raise IntegrityError(
                f"{self._what}: part {number} arrived otherwise than it was sent",
                remedy="retry; if the bucket encrypts with KMS, set server_side_encryption in the connection",
            )
        return etag

    async def held(self) -> int:
        return sum(part.size for number, part in (await self._list(self._upload)).items() if number in self._sent)

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        if tail:
            await self.send(number, tail)
        failpoint("s3.before_complete")
        more: dict[str, str] = {}
        if not replace:
            await self._store.refuse_existing(self._key)
            if self._store.capabilities.atomic_create:
                more["IfNoneMatch"] = "*"
        parts = [part.named(number) for number, part in sorted(self._sent.items())]
        try:
            await self._call("complete_multipart_upload", MultipartUpload={"Parts": parts}, **more)
        except TransientError:
            if not await self._is_there():  # the answer may have been lost
                raise
        except IntegrityError:  # 412: somebody was quicker
            raise AlreadyExists(f"{self._store.label(self._key)} is there already", remedy="choose another") from None

    async def _is_there(self) -> bool:
        etags = [part.etag for _, part in sorted(self._sent.items())]
        if not all(is_md5(etag) for etag in etags):
            return False
        try:
            return (await self._store.head(self._key)).version.strip('"') == etag_of(etags)
        except NotFound:
            return False

    async def abort(self) -> None:
        if not self._upload:
            if not await self._any():
                return
            self._upload = str((await self._call("create_multipart_upload"))["UploadId"])
        for upload in [*await self._older(self._upload), self._upload]:
            await self._abort(upload)
        self._upload = ""

    async def _any(self) -> bool:
        with suppress(*_NOT_LISTED):
            answer = await self._store.client.call(
                self._what, "list_multipart_uploads", Bucket=self._store.bucket, Prefix=self._key, MaxUploads=1
            )
            return any(row["Key"] == self._key for row in answer.get("Uploads", []))
        return False

    async def _abort(self, upload: str) -> None:
        with suppress(Unavailable):  # gone already
            await self._call("abort_multipart_upload", UploadId=upload)


def _principal(row: dict[str, Any]) -> str:
    """Who began an upload; of an assumed role without the name of the session, which differs between attempts."""
    who = str(row.get("Initiator", {}).get("ID", ""))
    return who.rpartition("/")[0] if ":assumed-role/" in who else who
