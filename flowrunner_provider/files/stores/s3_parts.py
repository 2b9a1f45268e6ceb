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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import md5

from flowrunner_provider.core.errors import (
    AccessDenied,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.files.stores.s3_body import Body, FileBody, PiecesBody
from flowrunner_provider.files.stores.s3_bucket import S3Bucket
from flowrunner_provider.files.stores.s3_objects import Proof
from flowrunner_provider.files.stores.s3_uploads import CRC32, PAGE, Begun, Part

__all__ = ["MOST_PARTS", "S3Parts", "etag_of", "is_md5"]

MOST_PARTS = 10_000

_NOT_LISTED = (AccessDenied, NotFound, Rejected)


def is_md5(etag: str) -> bool:
    """Whether an ETag looks like a checksum of the bytes; with some kinds of encryption it does and is none."""
    return len(etag) == 32 and all(digit in "0123456789abcdef" for digit in etag)


def etag_of(parts: list[str]) -> str:
    """The ETag of an object made of parts with these MD5s (hexadecimal)."""
    return f"{md5(bytes.fromhex(''.join(parts)), usedforsecurity=False).hexdigest()}-{len(parts)}"


class S3Parts:
    """The unfinished upload of one key.

    :param length: bytes of a part, by its number.
    """

    def __init__(self, bucket: S3Bucket, key: str, length: Callable[[int], int], at_once: int) -> None:
        self._bucket, self._uploads, self._key = bucket, bucket.uploads, key
        self.length, self.at_once = length, at_once
        self._what = f"writing {bucket.label(key)}"
        self._upload, self._algorithm = "", ""
        self._there: dict[int, Part] = {}
        self._sent: dict[int, Part] = {}

    async def start(self) -> None:
        self._upload = ""
        asked = CRC32 if self._bucket.wants_crc else ""
        created, algorithm = await self._uploads.create(self._what, self._key, asked)
        self._algorithm = algorithm if asked else ""
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
            begun = await self._uploads.begun(self._what, self._key, PAGE)
        except _NOT_LISTED:
            return []
        found = [one for one in begun if one.key == self._key]
        ours = {_principal(one) for one in found if one.upload == upload}
        mine = [one for one in found if _principal(one) in ours and one.upload != upload]
        mine.sort(key=lambda one: one.at, reverse=True)
        return [one.upload for one in mine]

    async def _list(self, upload: str) -> dict[int, Part]:
        """The parts that the far side holds, by number; none where it has checksums of another kind than ours."""
        parts: dict[int, Part] = {}
        after = 0
        while True:
            with self._gone():
                page = await self._uploads.held(self._what, self._key, upload, after)
            if CRC32 in (self._algorithm, page.algorithm) and self._algorithm != page.algorithm:
                return {}
            parts |= page.parts
            if not page.after:
                return parts
            if page.after <= after:
                raise IntegrityError(f"{self._what}: the server does not list its parts", remedy="look at the server")
            after = page.after

    @contextmanager
    def _gone(self) -> Iterator[None]:
        """Tell an upload that is not there any more from what is refused."""
        try:
            yield
        except Rejected as error:
            if error.code != "NoSuchUpload":
                raise
            raise Unavailable(
                f"{self._what}: its unfinished upload is gone; somebody else finished or removed it",
                remedy="let only one task write this key; the retry begins anew",
            ) from None

    def _fits(self, parts: dict[int, Part]) -> bool:
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
        if self._algorithm == CRC32:
            checksum = b64encode((await asyncio.to_thread(data.crc32)).to_bytes(4, "big")).decode()
            self._sent[number] = Part(await self._arrived(number, data, Proof(crc32=checksum)), len(data), checksum)
            return
        expected = await asyncio.to_thread(data.md5)
        proof = Proof(md5=b64encode(bytes.fromhex(expected)).decode())
        self._sent[number] = Part(await self._arrived(number, data, proof, expected), len(data))

    async def _arrived(self, number: int, data: Body, proof: Proof, expected: str = "") -> str:
        """Send a part with its checksum; its ETag.

        :param expected: the ETag, if it is an MD5; empty where the answer repeats the checksum that was compared.
        """
        failpoint("s3.before_upload_part")
        with self._gone():
            stored = await self._uploads.send(self._what, self._key, self._upload, number, data, proof)
        failpoint("s3.after_upload_part")
        etag = stored.etag.strip('"')
        if expected:
            wrong = not etag or (self._bucket.etag_is_md5 and is_md5(etag) and etag != expected)
        else:
            wrong = not etag or stored.crc32 != proof.crc32
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
        if not replace:
            await self._bucket.refuse_existing(self._key)
        create = not replace and self._bucket.capabilities.atomic_create
        with self._gone():
            await self._uploads.complete(
                self._what, self._key, self._upload, self._sent, create=create, there=self._is_there
            )

    async def _is_there(self) -> bool:
        etags = [part.etag for _, part in sorted(self._sent.items())]
        if not all(is_md5(etag) for etag in etags):
            return False
        try:
            return (await self._bucket.head(self._key)).version.strip('"') == etag_of(etags)
        except NotFound:
            return False

    async def abort(self) -> None:
        if not self._upload:
            if not await self._any():
                return
            self._upload, _ = await self._uploads.create(self._what, self._key, "")
        for upload in [*await self._older(self._upload), self._upload]:
            await self._abort(upload)
        self._upload = ""

    async def _any(self) -> bool:
        with suppress(*_NOT_LISTED):
            return any(one.key == self._key for one in await self._uploads.begun(self._what, self._key, 1))
        return False

    async def _abort(self, upload: str) -> None:
        with suppress(Unavailable), self._gone():  # already
            await self._uploads.abort(self._what, self._key, upload)


def _principal(upload: Begun) -> str:
    """Who began it; of an assumed role without the name of the session, which differs between attempts."""
    return upload.by.rpartition("/")[0] if ":assumed-role/" in upload.by else upload.by
