"""Waiting for files in any store."""

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
    """At least ``min_files`` files that match are there, as they should be, and the result names them.

    Killed or retried, it simply looks again: looking changes nothing; ``stable_for`` begins anew. One listing per
    ``poke_interval``. A file, folder or marker that the store knows not to be there is waited for; no permission, a
    broken connection or a listing that fails in the middle is never taken for that. Paths on the worker are always
    waited for by the worker, as the triggerer may have other disks. Links are not followed.

    :param path: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``.
    :param pattern: a glob below the folder ``path``, if that is no glob itself.
    :param recursive: also what is below the folders.
    :param min_files: so many files must be there.
    :param min_size: files of fewer bytes do not count.
    :param stable_for: only files count whose size and time have not changed over the looks of so long, e.g. ``"2m"``.
    :param newer_than: only files modified later count; a datetime, or ISO 8601, with a time zone.
    :param marker_file: a file of this name must be in the folder, too; it is not among the result.
    :param poke_interval: the time between two looks, at least a second.
    :param timeout: how long to wait in all.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
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
            raise ConfigError("poke_interval is below a second", field="poke_interval", remedy="write '30s', say")
        seconds = parse_duration(timeout, "timeout").total_seconds()
        super().__init__(poke_interval=interval, timeout=seconds, deferrable=deferrable, **kwargs)
        self.path, self.pattern, self.recursive = path, pattern, recursive
        self.min_files, self.min_size, self.stable_for = min_files, min_size, stable_for
        self.newer_than, self.marker_file = newer_than, marker_file
        self._memory: Memory = {}

    def execute(self, context: Any) -> Any:
        """As every sensor; a path on this machine is watched from this machine."""
        from flowrunner_provider.files.uri import parse

        with boundary():
            if self.deferrable and parse(self.path, field="path").scheme == "file":
                self.log.info("%s is on the worker, which therefore waits itself.", self.path)
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
                "stable_for compares looks, and mode='reschedule' forgets them",
                field="stable_for",
                remedy="use deferrable=True, or mode='poke'",
            )
        trigger = FileTrigger(watch=watch.to_json(), poll_interval=self.poke_interval, patience=self.patience)
        trigger.memory = self._memory
        return trigger
