"""One check of a folder: which files exist, are stable by now, and complete the wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.deadline import Clock
from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.files.listing import Filter, listed, matcher, moment, selection, walk
from flowrunner_provider.files.results import WaitResult
from flowrunner_provider.files.store import Entry, Store, identity
from flowrunner_provider.files.uri import Location

__all__ = ["FileWatch", "Memory"]

MOST = 10_000
"""The maximum number of matches of one check."""

_SHOWN = 1_000

Memory = dict[str, tuple[Any, float]]
"""For each file its identity, and since when it has had it (monotonic seconds)."""


@dataclass(frozen=True, kw_only=True)
class FileWatch:
    """What to wait for; the parameters of ``files.wait`` document the fields. Durations are in seconds."""

    path: str
    pattern: str | None = None
    recursive: bool = False
    min_files: int = 1
    min_size: int = 0
    stable_for: float = 0.0
    newer_than: str | None = None
    marker_file: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FileWatch:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raise ``ConfigError`` for invalid values."""
        for name, least in (("min_files", 1), ("min_size", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value:
                raise ConfigError(f"{name} is {value!r}", field=name, remedy=f"write a whole number from {least}")
        if self.min_files > MOST:
            raise ConfigError(f"min_files is above {MOST}", field="min_files", remedy="wait for a marker_file")
        if self.marker_file is not None and (not self.marker_file or "/" in self.marker_file):
            raise ConfigError(
                f"marker_file {self.marker_file!r} is not a plain file name",
                field="marker_file",
                remedy="write e.g. _SUCCESS",
            )
        moment(self.newer_than, "newer_than")
        if self.pattern:
            matcher(self.pattern, "glob")

    async def find_files(self, store: Store, location: Location, memory: Memory, clock: Clock) -> WaitResult | None:
        """Return the files, or None if the wait goes on; updates ``memory``.

        Only what certainly does not exist is waited for; any failure to find out is raised.
        """
        folder, pattern, deep = selection(location.path, self.pattern, recursive=self.recursive)
        try:
            entries = await self._found(store, location, folder, pattern, deep, clock)
            if self.marker_file is not None:
                await store.stat(store.join(folder, self.marker_file))
        except NotFound:
            return None
        now = clock.monotonic()
        seen = {entry.path: identity(entry) for entry in entries}
        for path in [path for path in memory if path not in seen]:
            del memory[path]
        for path, what in seen.items():
            if path not in memory or memory[path][0] != what:
                memory[path] = (what, now)
        stable = [entry for entry in entries if now - memory[entry.path][1] >= self.stable_for]
        if len(stable) < self.min_files:
            return None
        stable.sort(key=lambda entry: entry.path)
        return WaitResult(count=len(stable), files=[listed(location, entry) for entry in stable[:_SHOWN]])

    async def _found(
        self, store: Store, location: Location, folder: str, pattern: str, deep: bool, clock: Clock
    ) -> list[Entry]:
        accept = Filter(
            now=clock.now(),
            matches=matcher(pattern, "glob", field="path") if pattern else lambda relative: True,
            newer_than=moment(self.newer_than, "newer_than"),
            min_size=self.min_size,
        )
        if not pattern:
            entry = await store.stat(folder)
            if not entry.is_dir:
                if self.marker_file is not None:
                    raise ConfigError(
                        f"{location.path} is a file, and marker_file needs a folder",
                        field="marker_file",
                        remedy="use the folder as path, and the file as pattern",
                    )
                return [entry] if not entry.is_link and accept(entry.name, entry) else []
        found: list[Entry] = []
        async for relative, entry in walk(store, folder, accept, recursive=deep):
            if relative != self.marker_file:
                found.append(entry)
            if len(found) > MOST:
                raise ConfigError(
                    f"more than {MOST} files match", field="pattern", remedy="narrow the pattern, or set newer_than"
                )
        return found
