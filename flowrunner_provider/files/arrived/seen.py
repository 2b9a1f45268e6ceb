"""The file versions that a watcher has reported: ten bytes per file; files that disappeared are removed.

A few thousand versions fit into the state record of the watcher. Longer lists are kept on the triggerer's disk in two
files, written alternately: the record names the valid one and its checksum. A triggerer that takes over writes two
other files, so that its predecessor, should it wake up, cannot damage the valid file.
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

__all__ = ["INLINE", "MAX_FILES", "Known", "Shelf", "digests"]

INLINE = 2_500
"""The most files kept in the state record, which must stay below 48 KB."""

MAX_FILES = 100_000
"""The most files per watcher; they take about 50 MB of the triggerer's memory during a check."""

_PATH, _VERSION = 6, 4


class Shelf(Protocol):
    """The storage for long lists: the methods of a state store, which block."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


class Watcher(Protocol):
    """The watcher that the versions belong to."""

    @property
    def epoch(self) -> int:
        """How many times another triggerer took the watcher over."""

    async def assure(self) -> None:
        """Raise if another triggerer has taken over."""


def digests(relative: str, entry: Entry) -> tuple[int, int]:
    """Return the digests of a file's path and of its version."""
    name = hashlib.sha256(relative.encode("utf-8", "surrogatepass")).digest()
    when = entry.modified.timestamp() if entry.modified else None
    version = hashlib.sha256(json.dumps([entry.size, when, entry.version]).encode()).digest()
    return int.from_bytes(name[:_PATH]), int.from_bytes(version[:_VERSION])


class Known:
    """The known versions by path digest.

    :param listed: the files of the last listing.
    :param missing: the files that the last listing was the first to miss; one that returns unchanged is not reported.
    """

    def __init__(self, listed: dict[int, int] | None = None, missing: dict[int, int] | None = None) -> None:
        self.listed, self.missing = listed or {}, missing or {}

    def keep_only(self, paths: set[int]) -> None:
        """Update the versions after a complete listing: files that are missing twice in a row are forgotten.

        :param paths: the path digests of the listed files.
        """
        self.missing = {path: version for path, version in self.listed.items() if path not in paths}
        for path in self.missing:
            del self.listed[path]

    async def to_json(self, shelf: Shelf, cursor: Json, watcher: Watcher) -> Json:
        """Return the cursor for these versions.

        :param shelf: stores long lists.
        :param cursor: the current cursor.
        :param watcher: the watcher that writes.
        """
        listed, missing = await asyncio.to_thread(lambda: (_pack(self.listed), _pack(self.missing)))
        if len(self.listed) + len(self.missing) <= INLINE:
            return {"there": listed, "gone": missing}
        check = hashlib.sha256(f"{listed} {missing}".encode()).hexdigest()[:32]
        before = cursor if isinstance(cursor, dict) else {}
        if before.get("check") == check:
            return cursor
        slots = "cd" if watcher.epoch % 2 else "ab"
        slot = slots[1] if before.get("shelf") == slots[0] else slots[0]
        await watcher.assure()
        await asyncio.to_thread(shelf.set, slot, {"there": listed, "gone": missing})
        return {"shelf": slot, "check": check}

    @classmethod
    async def from_json(cls, shelf: Shelf, cursor: Any, where: Callable[[], Path]) -> Known:
        """Read the versions of a cursor.

        :param where: returns the folder of the shelf, for the message.
        """
        if "shelf" not in cursor:
            return cls(_unpack(cursor["there"]), _unpack(cursor["gone"]))
        record = await asyncio.to_thread(shelf.get, cursor["shelf"])
        lists = (record["there"], record["gone"]) if isinstance(record, dict) else ("", "")
        if hashlib.sha256(f"{lists[0]} {lists[1]}".encode()).hexdigest()[:32] != cursor["check"]:
            raise ConfigError(
                f"the list of reported files is missing in {where()}",
                field="state_path",
                remedy="set [flowrunner] state_path to a persistent disk that all triggerers share; "
                "to start over, delete the watcher's entries on the page of the asset",
            )
        return await asyncio.to_thread(lambda: cls(*map(_unpack, lists)))


def _pack(versions: dict[int, int]) -> str:
    rows = (path.to_bytes(_PATH) + version.to_bytes(_VERSION) for path, version in sorted(versions.items()))
    return base64.b64encode(b"".join(rows)).decode("ascii")


def _unpack(text: str) -> dict[int, int]:
    data, row = base64.b64decode(text), _PATH + _VERSION
    starts = range(0, len(data), row)
    return {int.from_bytes(data[n : n + _PATH]): int.from_bytes(data[n + _PATH : n + row]) for n in starts}
