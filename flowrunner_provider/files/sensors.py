"""Sensor that waits for files in any store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import WaitResult
from flowrunner_provider.runtime.boundary import boundary
from flowrunner_provider.runtime.sensor import FlowRunnerSensor

if TYPE_CHECKING:
    from flowrunner_provider.files.triggers import FileTrigger
    from flowrunner_provider.files.wait import Memory

__all__ = ["StoreFileSensor"]


class StoreFileSensor(FlowRunnerSensor):
    """On success, at least ``min_files`` files match all conditions, and the result names them.

    A killed or retried task lists again, which changes nothing; ``stable_for`` starts over. Each check is one listing.
    A file, folder or marker that does not exist yet is waited for; access denied, a broken connection or an incomplete
    listing is an error and never taken for "does not exist". A path on the worker is always watched by the worker,
    because the triggerer may have other disks. Symbolic links are not followed.

    :param path: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: a glob below the folder ``path``, if ``path`` is not a glob.
    :param recursive: include all files below the folders.
    :param min_files: the number of files to wait for.
    :param min_size: ignore files of fewer bytes.
    :param stable_for: ignore files whose size or time has changed within this time, e.g. ``"2m"``, as seen by the
        checks.
    :param newer_than: ignore files modified before this time: a datetime or ISO 8601, with a time zone.
    :param marker_file: also wait for a file of this name in the folder; it is not part of the result.
    :param poke_interval: the time between two checks, at least one second.
    :param timeout: the maximum time to wait in total.
    :param deferrable: wait in the triggerer instead of occupying a worker slot.
    """

    action: ClassVar[str] = "files.wait"
    returns: ClassVar[Any] = WaitResult
    template_fields: Sequence[str] = ("path", "pattern", "newer_than", "marker_file")

    def __init__(
        self,
        *,
        path: str,
        pattern: str | None = None,
        recursive: bool = False,
        min_files: int = 1,
        min_size: int = 0,
        stable_for: str | float | timedelta = 0,
        newer_than: datetime | str | None = None,
        marker_file: str | None = None,
        poke_interval: str | float | timedelta = "60s",
        timeout: str | float | timedelta = "12h",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        interval = parse_duration(poke_interval, "poke_interval").total_seconds()
        if interval < 1:
            raise ConfigError("poke_interval is below one second", field="poke_interval", remedy="write e.g. '30s'")
        seconds = parse_duration(timeout, "timeout").total_seconds()
        super().__init__(poke_interval=interval, timeout=seconds, deferrable=deferrable, **kwargs)
        self.path, self.pattern, self.recursive = path, pattern, recursive
        self.min_files, self.min_size, self.stable_for = min_files, min_size, stable_for
        self.newer_than, self.marker_file = newer_than, marker_file
        self._memory: Memory = {}

    def execute(self, context: Any) -> Any:
        """Wait as every sensor does, but for a path on this machine never in the triggerer."""
        from flowrunner_provider.files.uri import parse

        with boundary():
            if self.deferrable and parse(self.path, field="path").scheme == "file":
                self.log.info("%s is on the worker, so the worker waits for it.", self.path)
                self.deferrable = False
        return super().execute(context)

    def trigger(self) -> FileTrigger:
        from flowrunner_provider.files.triggers import FileTrigger
        from flowrunner_provider.files.wait import FileWatch

        newer = self.newer_than
        watch = FileWatch(
            path=self.path,
            pattern=self.pattern,
            recursive=self.recursive,
            min_files=self.min_files,
            min_size=self.min_size,
            stable_for=parse_duration(self.stable_for, "stable_for").total_seconds(),
            newer_than=newer.isoformat() if isinstance(newer, datetime) else newer or None,
            marker_file=self.marker_file,
        )
        watch.check()
        if watch.stable_for and not self.deferrable and self.reschedule:
            raise ConfigError(
                "stable_for compares checks, and mode='reschedule' does not keep them",
                field="stable_for",
                remedy="use deferrable=True, or mode='poke'",
            )
        trigger = FileTrigger(watch=watch.to_json(), poll_interval=self.poke_interval, patience=self.patience)
        trigger.memory = self._memory
        return trigger
