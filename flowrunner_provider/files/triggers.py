"""Triggers for the file sensors, and watchers for assets. Triggers only observe and carry no secrets."""

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
"""The timeout of one listing of a watched folder."""


class FileTrigger(FlowRunnerTrigger):
    """Lists a folder until the expected files exist.

    :param watch: a :class:`FileWatch` as JSON.
    """

    def __init__(self, *, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watch = dict(watch)
        self.memory: Memory = {}
        """The state of earlier checks; empty again after a restart of the triggerer."""

    def arguments(self) -> dict[str, Any]:
        return {"watch": self.watch}

    async def observe(self) -> Json:
        from flowrunner_provider.files.hook import aopen_store

        watch = FileWatch.from_json(self.watch)
        watch.check()
        location = parse(watch.path, field="path")
        async with await aopen_store(location, field="path") as store:
            found = await watch.find_files(store, location, self.memory, SYSTEM_CLOCK)
        return None if found is None else asdict(found)


class FileArrivedTrigger(FlowRunnerWatcher):
    """The asset receives an event for each version of each matching file.

    A triggerer that is killed or restarted resumes: no file is missed, and one that was just being reported may be
    reported again with the same ``id``. Each check is one listing over a new connection. Failures are logged and
    retried later; a file is never considered deleted because of them.

    The version of a file is its size and modification time, plus the ETag or generation if the store has one. A file
    that is missing from two listings in a row is forgotten, and new if it comes back. The state takes 14 bytes per
    file in the asset's state store. Above 2,500 files it is kept in ``[flowrunner] state_path``, which all triggerers
    must then share; more than 100,000 files are refused. One check reports at most 40 files, the oldest first; the
    others follow 10 seconds later. Symbolic links are not followed. Works with any store and with the triggerer's own
    disk.

    :param path: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: a glob below the folder ``path``, if ``path`` is not a glob.
    :param recursive: include all files below the folders.
    :param on: report new files, changed files, or both.
    :param stable_for: report a file once its size and time have not changed for this long, e.g. ``"2m"``. It starts
        over when the triggerer restarts.
    :param min_size: ignore files of fewer bytes.
    :param marker_file: report nothing until a file of this name exists in the folder; the marker itself is never
        reported.
    :param batch: one event per ``file``, or one per ``look``, with all files that a listing found.
    :param start: ``now`` reports only files that arrive or change from now on, ``beginning`` also the existing ones.
    :param poll_interval: the time between two checks, at least one second.
    :param name: distinguishes two watchers of the same path.
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

    async def poll(self, cursor: Json) -> Seen:
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
                events, known, more = await watch.poll(store, location, known, self._pending, SYSTEM_CLOCK.monotonic())
        except TimeoutError as error:
            raise TimedOut(
                f"listing {location.path} took longer than {LOOK_SECONDS:g} s", remedy="watch a smaller folder"
            ) from error
        return Seen(events=tuple(events), cursor=await known.to_json(shelf, cursor, self), more=more)
