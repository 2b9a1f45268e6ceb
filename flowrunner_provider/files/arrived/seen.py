"""Which versions of which files a watcher has told of: ten bytes each, pruned of what is gone.

A few thousand fit into the watcher's own record. More are kept on the triggerer's disk, in two files of which the
record names the one that counts, with its checksum: the other one is written next. A triggerer that takes over writes
two other files, so that the earlier one, should it wake, does not spoil the file that counts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from flowrunner_provider.core.errors import ConfigError, Json
from flowrunner_provider.files.store import Entry

__all__ = ["INLINE", "MOST_FILES", "Known", "Shelf", "digests"]

INLINE = 2_500
"""Files up to which all is in the record, which is to stay below 48 KB."""

MOST_FILES = 100_000
"""Files below one watcher: they cost about 50 MB of the triggerer's memory during a look."""

_PATH, _VERSION = 6, 4


class Shelf(Protocol):
    """Where long lists are kept: the methods of a state store; they block."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


class Watcher(Protocol):
    """The watcher whose files these are."""

    @property
    def epoch(self) -> int:
        """How many times it has been taken over."""

    async def assure(self) -> None:
        """Raise if somebody else has taken over."""


def digests(relative: str, entry: Entry) -> tuple[int, int]:
    """What stands for a file, and for the version of it that is there."""
    name = hashlib.sha256(relative.encode("utf-8", "surrogatepass")).digest()
    when = entry.modified.timestamp() if entry.modified else None
    version = hashlib.sha256(json.dumps([entry.size, when, entry.version]).encode()).digest()
    return int.from_bytes(name[:_PATH]), int.from_bytes(version[:_VERSION])


class Known:
    """The versions that are known.

    :param there: of the files that the last look has listed.
    :param gone: of those that it was the first look to miss: one that comes back as it was is not told again.
    """

    def __init__(self, there: dict[int, int] | None = None, gone: dict[int, int] | None = None) -> None:
        self.there, self.gone = there or {}, gone or {}

    def forget_but(self, listed: set[int]) -> None:
        """A complete listing has shown these files: others are gone, and forgotten the second time.

        :param listed: as :func:`digests` calls them.
        """
        missing = {path: version for path, version in self.there.items() if path not in listed}
        for path in missing:
            del self.there[path]
        self.gone = missing

    async def to_json(self, shelf: Shelf, cursor: Json, watcher: Watcher) -> Json:
        """The cursor that says this.

        :param shelf: gets what is too long.
        :param cursor: the present one.
        :param watcher: who writes.
        """
        there, gone = await asyncio.to_thread(lambda: (_packed(self.there), _packed(self.gone)))
        if len(self.there) + len(self.gone) <= INLINE:
            return {"there": there, "gone": gone}
        check = hashlib.sha256(f"{there} {gone}".encode()).hexdigest()[:32]
        before = cursor if isinstance(cursor, dict) else {}
        if before.get("check") == check:
            return cursor
        slots = "cd" if watcher.epoch % 2 else "ab"
        slot = slots[1] if before.get("shelf") == slots[0] else slots[0]
        await watcher.assure()
        await asyncio.to_thread(shelf.set, slot, {"there": there, "gone": gone})
        return {"shelf": slot, "check": check}

    @classmethod
    async def from_json(cls, shelf: Shelf, cursor: Any, where: Callable[[], Path]) -> Known:
        """What a cursor says.

        :param where: the folder that the shelf is in, for the message.
        """
        if "shelf" not in cursor:
            return cls(_unpacked(cursor["there"]), _unpacked(cursor["gone"]))
        record = await asyncio.to_thread(shelf.get, cursor["shelf"])
        lists = (record["there"], record["gone"]) if isinstance(record, dict) else ("", "")
        if hashlib.sha256(f"{lists[0]} {lists[1]}".encode()).hexdigest()[:32] != cursor["check"]:
            raise ConfigError(
                f"the list of the files that were told is not in {where()} any more",
                field="state_path",
                remedy="point [flowrunner] state_path to a disk that all triggerers share and that lasts; "
                "to start afresh, delete the watcher's entries on the asset's page",
            )
        return await asyncio.to_thread(lambda: cls(*map(_unpacked, lists)))


def _packed(versions: dict[int, int]) -> str:
    rows = (path.to_bytes(_PATH) + version.to_bytes(_VERSION) for path, version in sorted(versions.items()))
    return base64.b64encode(b"".join(rows)).decode("ascii")


def _unpacked(text: str) -> dict[int, int]:
    data, row = base64.b64decode(text), _PATH + _VERSION
    starts = range(0, len(data), row)
    return {int.from_bytes(data[n : n + _PATH]): int.from_bytes(data[n + _PATH : n + row]) for n in starts}
