"""What came into a folder, or changed there, since the last look."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, Json, NotFound, Unavailable
from flowrunner_provider.core.retry import apause
from flowrunner_provider.files.arrived.seen import MOST_FILES, Known, digests
from flowrunner_provider.files.listing import listed, matcher, selection, walk
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import Location

__all__ = ["Arrivals", "Batch", "On", "Pending", "Start"]

On = Literal["create", "update", "both"]
Batch = Literal["file", "look"]
Start = Literal["now", "beginning"]

MOST_TOLD = 40
"""Files in one look: what fits into a watcher's record."""

_CHARACTERS = 12_000
_TURN = 500

Pending = dict[int, tuple[int, float]]
"""For each file that is not known: its version, and since when (monotonic seconds) it was seen to be that."""


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
    """What is watched; the parameters of ``files.arrived`` say what each means. Durations are in seconds."""

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
        """Refuse what cannot be watched."""
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
                f"marker_file {self.marker_file!r} is no plain name", field="marker_file", remedy="write e.g. _SUCCESS"
            )
        if self.pattern:
            matcher(self.pattern, "glob")

    async def look(
        self, store: Store, location: Location, known: Known | None, pending: Pending, now: float
    ) -> tuple[list[dict[str, Json]], Known, bool]:
        """The events, what is known when they are told, and whether there is more to tell at once.

        :param known: is changed; None at the first look.
        :param pending: is kept up to date.
        :param now: monotonic seconds.
        """
        baseline = known is None and self.start == "now"
        known = known or Known()
        here: set[int] = set()
        candidates: list[_Candidate] = []
        marked = self.marker_file is None or await self._marker(store, location)
        more = False
        async for relative, entry in self._files(store, location):
            path, version = digests(relative, entry)
            here.add(path)
            if len(here) > MOST_FILES:
                raise _too_many(location)
            if len(here) % _TURN == 0:
                await apause(0)
            if baseline:
                known.there[path] = version
            elif change := self._judge(path, version, known, pending, now):
                if change not in self._told:
                    known.there[path] = version
                elif marked:
                    candidates.append(_Candidate(path=path, version=version, change=change, entry=entry))
            if len(candidates) > 8 * MOST_TOLD:
                more = True
                candidates = sorted(candidates, key=lambda one: one.order)[:MOST_TOLD]
        known.forget_but(here)
        for path in pending.keys() - here:
            del pending[path]
        told = _first(sorted(candidates, key=lambda one: one.order), location)
        for one in told:
            known.there[one.path] = one.version
            pending.pop(one.path, None)
        return self._events(told, location), known, more or len(told) < len(candidates)

    @property
    def _told(self) -> tuple[str, ...]:
        return {"create": ("created",), "update": ("updated",), "both": ("created", "updated")}[self.on]

    def _judge(self, path: int, version: int, known: Known, pending: Pending, now: float) -> str:
        """What has become of a file since it was told of; empty for nothing, or nothing that is certain yet."""
        if known.there.get(path) == version:
            pending.pop(path, None)
            return ""
        if path not in known.there and known.gone.get(path) == version:  # a listing had missed it
            known.there[path] = version
            return ""
        if self.stable_for:
            before = pending.get(path)
            if before is None or before[0] != version:
                pending[path] = before = (version, now)
            if now - before[1] < self.stable_for:
                return ""
        return "updated" if path in known.there else "created"

    async def _files(self, store: Store, location: Location) -> AsyncIterator[tuple[str, Entry]]:
        """What matches; a listing that fails raises, and is never a short one.

        A folder that is not there is an error where folders are things of their own: a disk may not be mounted.
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
            if begun or (deep and await _is_there(store, folder)):
                raise Unavailable(
                    f"{store.where}{folder} changed while it was listed", remedy="nothing to do: it is listed again"
                ) from error
            if store.capabilities.folders:
                raise

    @staticmethod
    async def _single(store: Store, path: str) -> list[Entry] | None:
        """The file ``path``, or nothing where its folder has no such file; None if it is a folder."""
        try:
            entry = await store.stat(path)
        except NotFound:
            if store.capabilities.folders:
                folder = path.rpartition("/")[0] or ("/" if path[:1] == "/" else ".")
                await store.stat(folder)  # which raises if that is what is missing
            return []
        if entry.is_dir:
            return None
        return [] if entry.is_link else [entry]

    async def _marker(self, store: Store, location: Location) -> bool:
        folder, _, _ = selection(location.path, self.pattern, recursive=self.recursive)
        try:
            return not (await store.stat(store.join(folder, str(self.marker_file)))).is_dir
        except NotFound:
            return False

    def _events(self, told: list[_Candidate], location: Location) -> list[dict[str, Json]]:
        files: list[tuple[str, dict[str, Any]]] = [
            (f"{one.path:012x}-{one.version:08x}", {**asdict(listed(location, one.entry)), "change": one.change})
            for one in told
        ]
        if self.batch == "file":
            return [{"id": key, "files": [file]} for key, file in files]
        return [{"id": fingerprint([key for key, _ in files])[:21], "files": [f for _, f in files]}] if files else []


def _first(candidates: list[_Candidate], location: Location) -> list[_Candidate]:
    """As many as fit into a record."""
    used = 0
    first: list[_Candidate] = []
    for one in candidates[:MOST_TOLD]:
        used += len(json.dumps(asdict(listed(location, one.entry)))) + 60
        if first and used > _CHARACTERS:
            break
        first.append(one)
    return first


async def _is_there(store: Store, folder: str) -> bool:
    try:
        return (await store.stat(folder)).is_dir
    except NotFound:
        return False


def _too_many(location: Location) -> ConfigError:
    return ConfigError(
        f"more than {MOST_FILES} files match {location.path}",
        field="pattern",
        remedy="narrow the pattern, watch a folder per day, or let the DAG move what it has worked on elsewhere",
    )
