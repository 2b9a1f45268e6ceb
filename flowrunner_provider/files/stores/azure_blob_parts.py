"""Multipart uploads to Azure Blob Storage: staged blocks with ids that identify their content.

A block id contains the token, the block number and the MD5 of the data. So a block that an earlier attempt staged is
known by its id to hold the right bytes. A block that an abandoned attempt stages later has another id, which nobody
commits, or the same bytes.

Staged blocks are invisible, and any commit of the blob drops the blocks that it does not name. Azure cannot drop them
otherwise without making the blob visible for a moment; it removes uncommitted blocks after a week. They are the only
leftover of :meth:`AzureBlobParts.abort`.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import md5, sha256
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import (
    AlreadyExists,
    IntegrityError,
    NotFound,
    Rejected,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.stores.azure_blob_client import azure_errors

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient

__all__ = ["MAX_BLOCKS", "AzureBlobParts"]

MAX_BLOCKS = 50_000


class AzureBlobParts:
    """The staged blocks of one blob.

    :param blob: Microsoft's client of the blob.
    :param label: its name in messages.
    :param token: names the task.
    :param length: returns the length of a block by its number.
    """

    def __init__(self, blob: BlobClient, label: str, token: str, length: Callable[[int], int], at_once: int) -> None:
        self._blob, self._label, self._token = blob, label, token
        self.length, self.at_once = length, at_once
        self._what = f"writing {label}"
        self._existing: dict[str, int] = {}
        self._ids: dict[int, str] = {}

    async def _staged(self) -> dict[str, int]:
        """Return the size of every staged block by its id."""
        try:
            with azure_errors(self._what):
                _, staged = await self._blob.get_block_list("uncommitted")
        except NotFound:
            return {}
        return {block.id: block.size for block in staged}

    async def start(self) -> None:
        self._existing = await self._staged()

    async def send(self, number: int, pieces: Sequence[bytes]) -> None:
        data = b"".join(pieces)
        checksum = await asyncio.to_thread(lambda: md5(data, usedforsecurity=False).digest())
        block = self._id(number, checksum)
        if self._existing.get(block) != len(data):
            failpoint("azure.before_send")
            await self._stage(block, data, checksum)
        self._ids[number] = block

    async def _stage(self, block: str, data: bytes, checksum: bytes) -> None:
        """Send a block with its MD5, which Azure verifies."""
        header = {"Content-MD5": b64encode(checksum).decode()}
        try:
            with azure_errors(self._what):
                await self._blob.stage_block(block, data, len(data), headers=header)
        except Rejected as error:
            if error.code == "Md5Mismatch":
                raise Unavailable(f"{self._what}: a block was damaged in transit") from None
            if error.code == "InvalidBlobOrBlock":
                raise Rejected(
                    f"{self._what}: another program left uncommitted blocks under this name",
                    status=error.status,
                    code=error.code,
                    remedy="write to another name, or let that program finish; Azure drops them after a week",
                ) from None
            raise

    def _id(self, number: int, checksum: bytes) -> str:
        """Return the block id, 48 characters: the same for equal bytes at the same position of the same task."""
        token = sha256(self._token.encode()).digest()[:16]
        return b64encode(token + number.to_bytes(4, "big") + checksum).decode()

    async def stored_size(self) -> int:
        staged = await self._staged()
        return sum(staged.get(block, 0) for block in self._ids.values())

    async def complete(self, number: int, tail: Sequence[bytes], *, replace: bool) -> None:
        if tail:
            await self.send(number, tail)
        failpoint("azure.before_commit_blocks")
        from azure.core import MatchConditions
        from azure.storage.blob import BlobBlock

        blocks = [BlobBlock(self._ids[n]) for n in sorted(self._ids)]
        condition: dict[str, Any] = {} if replace else {"match_condition": MatchConditions.IfMissing}
        try:
            with azure_errors(self._what):
                await self._blob.commit_block_list(blocks, **condition)
        except TransientError:
            if not await self._is_committed():  # the answer may have been lost
                raise
        except Rejected as error:
            if error.code != "InvalidBlockList":
                raise
            raise Unavailable(
                f"{self._what}: its staged blocks are gone because another writer committed this blob",
                remedy="let only one task write this blob; the retry uploads it again",
            ) from None
        except IntegrityError:  # 412: another writer was faster
            raise AlreadyExists(f"{self._label} already exists", remedy="choose another name") from None

    async def _is_committed(self) -> bool:
        """Return whether the blob consists of exactly our blocks."""
        try:
            with azure_errors(self._what):
                committed, _ = await self._blob.get_block_list("committed")
        except (NotFound, TransientError):
            return False
        return [block.id for block in committed] == [self._ids[n] for n in sorted(self._ids)]

    async def abort(self) -> None:
        """Do nothing; see the module docstring."""
