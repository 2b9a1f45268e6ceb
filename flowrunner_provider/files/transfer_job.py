"""The parameters of one file transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from flowrunner_provider.core.streams import Count, Crc32, Digest
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.store import Store

__all__ = ["Transfer"]


@dataclass(kw_only=True)
class Transfer:
    """One file to copy.

    :param resume: the offset and the digest up to which an earlier attempt came.
    :param advance: called with the number of bytes that have been copied.
    :param due: returns whether it is time to call ``remember``.
    :param remember: called with an offset and a digest from which a later attempt can resume.
    :param guard: checked before an upload begins and before it is committed.
    :param algorithm: the digest algorithm, the same in every attempt.
    :param expected: the checksum that the bytes must have, in hexadecimal; empty for any.
    :param digested: whether the caller needs the digest; otherwise it is computed only if the transfer needs it.
    :param mode: the permission bits to set, with ``sets_mode``.
    :param within: whether the store may copy the file within itself.
    """

    source: Store
    path: str
    item: Item
    dest: Store
    target: str
    token: str
    verify: Literal["size", "checksum"]
    replace: bool
    preserve_times: bool
    durable: bool
    resume: tuple[int, str] | None
    advance: Callable[[int], None]
    due: Callable[[], bool]
    remember: Callable[[int, str], None]
    guard: FencingGuard
    algorithm: str = "sha256"
    expected: str = ""
    digested: bool = False
    mode: int | None = None
    within: bool = False

    @property
    def modified(self) -> datetime | None:
        """The modification time to set."""
        return self.item.modified if self.preserve_times else None

    @property
    def at_one_moment(self) -> bool:
        """Whether the file is small enough to be read by a single request."""
        return 0 < (self.item.size or 0) <= self.source.capabilities.reads_whole

    def digest(self) -> Digest:
        """Return a new digest: the cheapest that suffices, because hashing may cost as much as the network."""
        if self.digested or self.expected or self.verify == "checksum":
            return Digest(self.algorithm)
        resumed = self.dest.capabilities.resumable_upload and not self.at_one_moment
        return Crc32() if resumed else Count()
