"""What the triggerer looks at, for the file sensors and for assets. Triggers only observe, and carry no secret."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import Json, TimedOut
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import Arrival
from flowrunner_provider.files.uri import parse
from flowrunner_provider.files.wait import FileWatch, Memory
from flowrunner_provider.runtime.checkpoint_store import FileStore
from flowrunner_provider.runtime.settings import state_path
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger
from flowrunner_provider.runtime.watcher import FlowRunnerWatcher, Seen

__all__ = ["FileArrivedTrigger", "FileTrigger"]

LOOK_SECONDS = 600.0
"""For one look at a watched folder."""


class FileTrigger(FlowRunnerTrigger):
    """Looks at a folder until the files that are waited for are there.

    :param watch: a :class:`FileWatch` in its JSON form.
    """

    def __init__(self, *, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watch = dict(watch)
        self.memory: Memory = {}
        """What earlier looks saw; a triggerer that starts anew begins to watch anew."""

    def arguments(self) -> dict[str, Any]:
        return {"watch": self.watch}

    async def observe(self) -> Json:
        from flowrunner_provider.files.hook import aopen_store

        watch = FileWatch.from_json(self.watch)
        watch.check()
        location = parse(watch.path, field="path")
        async with await aopen_store(location, field="path") as store:
            found = await watch.look(store, location, self.memory, SYSTEM_CLOCK)
        return None if found is None else asdict(found)


class FileArrivedTrigger(FlowRunnerWatcher):
    """The asset has an event for each version of each file that came to a place and matches.

    A triggerer that is killed or started again goes on where it was: no file is left out, and one that was just being
    told may be told again, with the same ``id``. Each look is one listing over a connection of its own; failures are
    logged and waited out, and nothing is taken for gone because of them. A version is the size and the time of the
    file, and the ETag or generation where the store has one. A file that is gone for two looks in a row is forgotten,
    and new when it comes back. What is known takes 14 bytes per file in the asset's state store; above 2,500 files
    it is in ``[flowrunner] state_path``, which all triggerers must share then; more than 100,000 files are refused.
    At most 40 files are told in one look, the oldest first; the others come with the next looks, 10 seconds later.
    Links are not followed. Any store, and the triggerer's own disk.

    :param path: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: a glob below the folder ``path``, if that is no glob itself.
    :param recursive: also what is below the folders.
    :param on: tell of files that are new, of those that have changed, or of both.
    :param stable_for: a file is told when its size and time have not changed over the looks of so long, e.g. ``"2m"``.
        A triggerer that is started again begins to watch anew.
    :param min_size: files of fewer bytes do not count.
    :param marker_file: nothing is told while there is no file of this name in the folder; it is never told itself.
    :param batch: one event for each file, or one for all that a look has found.
    :param start: whether only files are told that come, or change, from now on, or also those that are there.
    :param poll_interval: the time between two looks, at least a second.
    :param name: tells apart two watchers of the same place.
    """

    action: ClassVar[str] = "files.arrived"
    returns: ClassVar[Any] = Arrival

    def __init__(
        self,
        *,
        path: str,
        pattern: str | None = None,
        recursive: bool = False,
        on: Literal["create", "update", "both"] = "create",
        stable_for: str | float | timedelta = 0,
        min_size: int = 0,
        marker_file: str | None = None,
        batch: Literal["file", "look"] = "file",
        start: Literal["now", "beginning"] = "now",
        poll_interval: str | float | timedelta = "60s",
        name: str = "",
    ) -> None:
        seconds = parse_duration(poll_interval, "poll_interval").total_seconds()
        super().__init__(name=name, poll_interval=max(1.0, seconds))
        self.path, self.pattern, self.recursive = path, pattern, recursive
        self.on, self.min_size, self.marker_file = on, min_size, marker_file
        self.stable_for = parse_duration(stable_for, "stable_for").total_seconds()
        self.batch, self.start = batch, start
        self._pending: dict[int, tuple[int, float]] = {}

    def arguments(self) -> dict[str, Any]:
        return {
            "path": self.path, "pattern": self.pattern, "recursive": self.recursive, "on": self.on,
            "stable_for": self.stable_for, "min_size": self.min_size, "marker_file": self.marker_file,
            "batch": self.batch, "start": self.start,
        }  # fmt: skip

    async def look(self, cursor: Json) -> Seen:
        from flowrunner_provider.files.arrived.engine import Arrivals
        from flowrunner_provider.files.arrived.seen import Known
        from flowrunner_provider.files.hook import aopen_store

        watch = Arrivals(**self.arguments())
        watch.check()
        shelf = FileStore(state_path() / "watchers", (fingerprint("files.arrived", self.name, self.arguments()),))
        location = parse(self.path, field="path")
        known = None if cursor is None else await Known.from_json(shelf, cursor, state_path)
        try:
            async with asyncio.timeout(LOOK_SECONDS), await aopen_store(location, field="path") as store:
                events, known, more = await watch.look(store, location, known, self._pending, SYSTEM_CLOCK.monotonic())
        except TimeoutError as error:
            raise TimedOut(
                f"a look at {location.path} took longer than {LOOK_SECONDS:g} s", remedy="watch a smaller folder"
            ) from error
        return Seen(events=tuple(events), cursor=await known.to_json(shelf, cursor, self), more=more)
