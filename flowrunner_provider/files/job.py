"""What it takes to copy one file: from where, to where, how carefully, and who is told how far it came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from flowrunner_provider.core.streams import Count, Crc32, Digest
from flowrunner_provider.files.guard import Guard
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.store import Store

__all__ = ["Transfer"]


@dataclass(kw_only=True)
class Transfer:
    """One file to copy.

    :param resume: how far an earlier attempt came: its offset and the digest of the bytes before it.
    :param advance: told how many bytes have passed.
    :param due: whether it is time to remember how far it came.
    :param remember: given an offset and a digest that a later attempt may take up.
    :param guard: whether this attempt may still act; asked before it begins a part and before the commit.
    :param algorithm: of the digest, the same in every attempt.
    :param expected: the checksum that the bytes must have, in hexadecimal; empty for any.
    :param digested: the caller wants the digest; else there is one only where the transfer itself needs it.
    :param mode: the permission bits to give it, with ``sets_mode``.
    :param within: the store may copy it within itself.
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
    guard: Guard
    algorithm: str = "sha256"
    expected: str = ""
    digested: bool = False
    mode: int | None = None
    within: bool = False

    @property
    def modified(self) -> datetime | None:
        """The time to give it."""
        return self.item.modified if self.preserve_times else None

    @property
    def at_one_moment(self) -> bool:
        """Whether the file is so small that one request reads all of it."""
        return 0 < (self.item.size or 0) <= self.source.capabilities.reads_whole

    def digest(self) -> Digest:
        """A new one: no better than what it is compared with, as it may cost as much as the network."""
        if self.digested or self.expected or self.verify == "checksum":
            return Digest(self.algorithm)
        resumed = self.dest.capabilities.resumable_upload and not self.at_one_moment
        return Crc32() if resumed else Count()
