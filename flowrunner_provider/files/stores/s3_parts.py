"""Multipart uploads of S3 that resume from what S3 itself lists.

Every part is sent with a checksum that the server verifies: a CRC-32 if it supports that, else its MD5.

S3 stores no metadata with an unfinished upload. An upload is resumed if it has exactly this key and the same
principal, and its parts have the sizes used here. Each of its parts is sent again unless its size and MD5 equal those
of the bytes to send. It does not matter which attempt created the upload: the completion names the ETag of every part,
which is the MD5 of the bytes that this attempt has read. Two tasks that write one key at the same time disturb each
other, and the slower one is retried; the object is always complete, from one of the two.

Without the permission ``s3:ListBucketMultipartUploads``, and on servers without that request, nothing is resumed, and
abandoned parts remain until a lifecycle rule of the bucket deletes them.
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
from flowrunner_provider.files.stores.s3_uploads import CRC32, PAGE, Part, UnfinishedUpload

__all__ = ["MAX_PARTS", "S3Parts", "etag_of", "is_md5"]

MAX_PARTS = 10_000

_CANNOT_LIST = (AccessDenied, NotFound, Rejected)


def is_md5(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5; with some kinds of encryption it is none nevertheless."""
    return len(etag) == 32 and all(digit in "0123456789abcdef" for digit in etag)


def etag_of(parts: list[str]) -> str:
    """Return the ETag of an object whose parts have these hexadecimal MD5s."""
    return f"{md5(bytes.fromhex(''.join(parts)), usedforsecurity=False).hexdigest()}-{len(parts)}"


class S3Parts:
    """The unfinished upload of one key.

    :param length: returns the bytes of a part by its number.
    :param at_once: the parts in flight.
    """

    def __init__(self, bucket: S3Bucket, key: str, length: Callable[[int], int], at_once: int) -> None:
        self._bucket, self._uploads, self._key = bucket, bucket.uploads, key
        self.length, self.at_once = length, at_once
        self._what = f"writing {bucket.label(key)}"
        self._upload, self._algorithm = "", ""
        self._resumable: dict[int, Part] = {}
        self._sent: dict[int, Part] = {}

    async def start(self) -> None:
        self._upload = ""
        asked = CRC32 if self._bucket.wants_crc else ""
        created, algorithm = await self._uploads.create(self._what, self._key, asked)
        self._algorithm = algorithm if asked else ""
        failpoint("s3.after_create")
        self._upload, others = created, await self._other_uploads(created)
        for upload in others:  # the newest first
            parts = {} if self._resumable else await self._list(upload)
            if self._fits(parts):
                self._upload, self._resumable = upload, parts
            else:
                await self._abort(upload)
        if self._upload != created:
            await self._abort(created)

    async def _other_uploads(self, upload: str) -> list[str]:
        """Return the other uploads of exactly this key by the principal of ``upload``, the newest first."""
        try:
            unfinished = await self._uploads.unfinished(self._what, self._key, PAGE)
        except _CANNOT_LIST:
            return []
        found = [candidate for candidate in unfinished if candidate.key == self._key]
        ours = {_principal(candidate) for candidate in found if candidate.upload == upload}
        resumable = [candidate for candidate in found if _principal(candidate) in ours and candidate.upload != upload]
        resumable.sort(key=lambda candidate: candidate.at, reverse=True)
        return [candidate.upload for candidate in resumable]

    async def _list(self, upload: str) -> dict[int, Part]:
        """Return the uploaded parts by number; none if their checksums have another algorithm."""
        parts: dict[int, Part] = {}
        after = 0
        while True:
            with self._upload_exists():
                page = await self._uploads.parts_page(self._what, self._key, upload, after)
            if CRC32 in (self._algorithm, page.algorithm) and self._algorithm != page.algorithm:
                return {}
            parts |= page.parts
            if not page.after:
                return parts
            if page.after <= after:
                raise IntegrityError(f"{self._what}: the server repeats a page of the parts", remedy="check the server")
            after = page.after

    @contextmanager
    def _upload_exists(self) -> Iterator[None]:
        """Raise ``Unavailable`` if the upload does not exist any more."""
        try:
            yield
        except Rejected as error:
            if error.code != "NoSuchUpload":
                raise
            raise Unavailable(
                f"{self._what}: its multipart upload was completed or aborted by somebody else",
                remedy="let only one task write this key; the retry starts a new upload",
            ) from None

    def _fits(self, parts: dict[int, Part]) -> bool:
        """Return whether all parts but the last have the lengths used here."""
        return bool(parts) and all(
            part.size == self.length(number) for number, part in parts.items() if number < max(parts)
        )

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        await self._send(number, PiecesBody(pieces))

    async def send_file(self, number: int, file: OpenFile, offset: int, length: int) -> None:
        await self._send(number, FileBody(file, offset, length))

    async def _send(self, number: int, data: Body) -> None:
        if number > MAX_PARTS:
            raise PermanentError(
                f"{self._what}: more than {MAX_PARTS} parts",
                remedy="raise part_size in the flowrunner extra of the connection",
            )
        uploaded = self._resumable.get(number)
        if uploaded and (uploaded.etag, uploaded.size) == (await asyncio.to_thread(data.md5), len(data)):
            self._sent[number] = uploaded
            return
        if self._algorithm == CRC32:
            checksum = b64encode((await asyncio.to_thread(data.crc32)).to_bytes(4, "big")).decode()
            self._sent[number] = Part(
                await self._send_verified(number, data, Proof(crc32=checksum)), len(data), checksum
            )
            return
        expected = await asyncio.to_thread(data.md5)
        proof = Proof(md5=b64encode(bytes.fromhex(expected)).decode())
        self._sent[number] = Part(await self._send_verified(number, data, proof, expected), len(data))

    async def _send_verified(self, number: int, data: Body, proof: Proof, expected: str = "") -> str:
        """Send a part and verify the answer; return the ETag.

        :param expected: the MD5 that the ETag must be; empty if the answer repeats the verified CRC-32 instead.
        """
        failpoint("s3.before_upload_part")
        with self._upload_exists():
            stored = await self._uploads.send(self._what, self._key, self._upload, number, data, proof)
        failpoint("s3.after_upload_part")
        etag = stored.etag.strip('"')
        if expected:
            wrong = not etag or (self._bucket.etag_is_md5 and is_md5(etag) and etag != expected)
        else:
            wrong = not etag or stored.crc32 != proof.crc32
        if wrong:
            raise IntegrityError(
                f"{self._what}: the server stored other bytes than were sent as part {number}",
                remedy="retry; if the bucket encrypts with KMS, set server_side_encryption in the connection",
            )
        return etag

    async def stored_size(self) -> int:
        return sum(part.size for number, part in (await self._list(self._upload)).items() if number in self._sent)

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        if tail:
            await self.send(number, tail)
        failpoint("s3.before_complete")
        if not replace:
            await self._bucket.refuse_existing(self._key)
        create = not replace and self._bucket.capabilities.atomic_create
        with self._upload_exists():
            await self._uploads.complete(
                self._what, self._key, self._upload, self._sent, create=create, is_complete=self._is_complete
            )

    async def _is_complete(self) -> bool:
        etags = [part.etag for _, part in sorted(self._sent.items())]
        if not all(is_md5(etag) for etag in etags):
            return False
        try:
            return (await self._bucket.head(self._key)).version.strip('"') == etag_of(etags)
        except NotFound:
            return False

    async def abort(self) -> None:
        if not self._upload:
            if not await self._exists():
                return
            self._upload, _ = await self._uploads.create(self._what, self._key, "")
        for upload in [*await self._other_uploads(self._upload), self._upload]:
            await self._abort(upload)
        self._upload = ""

    async def _exists(self) -> bool:
        with suppress(*_CANNOT_LIST):
            unfinished = await self._uploads.unfinished(self._what, self._key, 1)
            return any(candidate.key == self._key for candidate in unfinished)
        return False

    async def _abort(self, upload: str) -> None:
        with suppress(Unavailable), self._upload_exists():  # it is gone already
            await self._uploads.abort(self._what, self._key, upload)


def _principal(upload: UnfinishedUpload) -> str:
    """Return the creator, without the session name of an assumed role, which differs between attempts."""
    return upload.by.rpartition("/")[0] if ":assumed-role/" in upload.by else upload.by
