"""The engine of ``files.arrived``: it finds files that are new or changed since the last check."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, Json, NotFound, Unavailable
from flowrunner_provider.core.retry import apause
from flowrunner_provider.files.arrived.seen import MAX_FILES, Known, digests
from flowrunner_provider.files.listing import listed, matcher, selection, walk
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import Location

__all__ = ["Arrivals", "Batch", "On", "Pending", "Start"]

On = Literal["create", "update", "both"]
Batch = Literal["file", "look"]
Start = Literal["now", "beginning"]

MAX_EVENTS = 40
"""The most files per check, so that they fit into the state record of the watcher."""

_MAX_CHARACTERS = 12_000
_YIELD_EVERY = 500

Pending = dict[int, tuple[int, float]]
"""The version of each file that is not yet reported, and when (monotonic seconds) it was first seen."""


@dataclass(kw_only=True)
class _Candidate:
    path: int
    version: int
    change: str
    entry: Entry

    @property
    def order(self) -> tuple[float, str]:
        return (self.entry.modified.timestamp() if self.entry.modified else 0.0, self.entry.path)


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """The options of ``files.arrived``; see its parameters. Durations are in seconds."""

    path: str
    pattern: str | None = None
    recursive: bool = False
    on: On = "create"
    stable_for: float = 0.0
    min_size: int = 0
    marker_file: str | None = None
    batch: Batch = "file"
    start: Start = "now"

    def check(self) -> None:
        """Raise ``ConfigError`` for invalid options."""
        for name, allowed in (("on", On), ("batch", Batch), ("start", Start)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}",
                    field=name,
                    remedy=f"write one of {', '.join(get_args(allowed))}",
                )
        if isinstance(self.min_size, bool) or not isinstance(self.min_size, int) or self.min_size < 0:
            raise ConfigError(
                f"min_size is {self.min_size!r}", field="min_size", remedy="write a whole number of bytes"
            )
        if self.marker_file is not None and (not self.marker_file or "/" in self.marker_file):
            raise ConfigError(
                f"marker_file {self.marker_file!r} is not a file name",
                field="marker_file",
                remedy="write e.g. _SUCCESS",
            )
        if self.pattern:
            matcher(self.pattern, "glob")

    async def poll(
        self, store: Store, location: Location, known: Known | None, pending: Pending, now: float
    ) -> tuple[list[dict[str, Json]], Known, bool]:
        """Return the new events, the versions known after them, and whether more files are waiting.

        :param known: the known versions, which are updated; None for the first check.
        :param pending: the files that are not yet stable; updated.
        :param now: the current time in monotonic seconds.
        """
        baseline = known is None and self.start == "now"
        known = known or Known()
        listed_paths: set[int] = set()
        candidates: list[_Candidate] = []
        marked = self.marker_file is None or await self._has_marker(store, location)
        more = False
        async for relative, entry in self._files(store, location):
            path, version = digests(relative, entry)
            listed_paths.add(path)
            if len(listed_paths) > MAX_FILES:
                raise _too_many(location)
            if len(listed_paths) % _YIELD_EVERY == 0:
                await apause(0)
            if baseline:
                known.listed[path] = version
            elif change := self._change_of(path, version, known, pending, now):
                if change not in self._reported_changes:
                    known.listed[path] = version
                elif marked:
                    candidates.append(_Candidate(path=path, version=version, change=change, entry=entry))
            if len(candidates) > 8 * MAX_EVENTS:
                more = True
                candidates = sorted(candidates, key=lambda candidate: candidate.order)[:MAX_EVENTS]
        known.keep_only(listed_paths)
        for path in pending.keys() - listed_paths:
            del pending[path]
        reported = _fitting(sorted(candidates, key=lambda candidate: candidate.order), location)
        for candidate in reported:
            known.listed[candidate.path] = candidate.version
            pending.pop(candidate.path, None)
        return self._events(reported, location), known, more or len(reported) < len(candidates)

    @property
    def _reported_changes(self) -> tuple[str, ...]:
        return {"create": ("created",), "update": ("updated",), "both": ("created", "updated")}[self.on]

    def _change_of(self, path: int, version: int, known: Known, pending: Pending, now: float) -> str:
        """Return ``created`` or ``updated``; empty if the file is unchanged or not yet stable."""
        if known.listed.get(path) == version:
            pending.pop(path, None)
            return ""
        if path not in known.listed and known.missing.get(path) == version:  # an earlier listing missed it
            known.listed[path] = version
            return ""
        if self.stable_for:
            before = pending.get(path)
            if before is None or before[0] != version:
                pending[path] = before = (version, now)
            if now - before[1] < self.stable_for:
                return ""
        return "updated" if path in known.listed else "created"

    async def _files(self, store: Store, location: Location) -> AsyncIterator[tuple[str, Entry]]:
        """Yield the matching files; a failed listing raises and never just ends early.

        A missing folder is an error in stores with real folders: a disk may not be mounted.
        """
        folder, pattern, deep = selection(location.path, self.pattern, recursive=self.recursive)
        matches = matcher(pattern, "glob", field="path") if pattern else lambda relative: True

        def accept(relative: str, entry: Entry) -> bool:
            return relative != self.marker_file and (entry.size or 0) >= self.min_size and matches(relative)

        if not pattern and (single := await self._single(store, folder)) is not None:
            for entry in single:
                if accept(entry.name, entry):
                    yield entry.name, entry
            return
        begun = False
        try:
            async for relative, entry in walk(store, folder, accept, recursive=deep):
                begun = True
                yield relative, entry
        except NotFound as error:
            if begun or (deep and await _is_folder(store, folder)):
                raise Unavailable(
                    f"{store.where}{folder} changed while it was listed", remedy="nothing to do: it is listed again"
                ) from error
            if store.capabilities.folders:
                raise

    @staticmethod
    async def _single(store: Store, path: str) -> list[Entry] | None:
        """Return the file ``path`` as a list, empty if it does not exist; None if ``path`` is a folder."""
        try:
            entry = await store.stat(path)
        except NotFound:
            if store.capabilities.folders:
                folder = path.rpartition("/")[0] or ("/" if path[:1] == "/" else ".")
                await store.stat(folder)  # raises if the folder is missing
            return []
        if entry.is_dir:
            return None
        return [] if entry.is_link else [entry]

    async def _has_marker(self, store: Store, location: Location) -> bool:
        folder, _, _ = selection(location.path, self.pattern, recursive=self.recursive)
        try:
            return not (await store.stat(store.join(folder, str(self.marker_file)))).is_dir
        except NotFound:
            return False

    def _events(self, reported: list[_Candidate], location: Location) -> list[dict[str, Json]]:
        files: list[tuple[str, dict[str, Any]]] = [
            (
                f"{file.path:012x}-{file.version:08x}",
                {**asdict(listed(location, file.entry)), "change": file.change},
            )
            for file in reported
        ]
        if self.batch == "file":
            return [{"id": key, "files": [file]} for key, file in files]
        return [{"id": fingerprint([key for key, _ in files])[:21], "files": [f for _, f in files]}] if files else []


def _fitting(candidates: list[_Candidate], location: Location) -> list[_Candidate]:
    """Return the candidates that fit into one state record."""
    used = 0
    first: list[_Candidate] = []
    for candidate in candidates[:MAX_EVENTS]:
        used += len(json.dumps(asdict(listed(location, candidate.entry)))) + 60
        if first and used > _MAX_CHARACTERS:
            break
        first.append(candidate)
    return first


async def _is_folder(store: Store, folder: str) -> bool:
    try:
        return (await store.stat(folder)).is_dir
    except NotFound:
        return False


def _too_many(location: Location) -> ConfigError:
    return ConfigError(
        f"more than {MAX_FILES} files match {location.path}",
        field="pattern",
        remedy="narrow the pattern, watch one folder per day, or let the DAG move processed files elsewhere",
    )
