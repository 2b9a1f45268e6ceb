"""Making one folder like another, in any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.results import SyncResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileSyncOperator"]


class FileSyncOperator(FlowRunnerOperator):
    """The folder ``dest`` holds every chosen file of the folder ``source``, and with ``delete_extra`` no others.

    Killed or retried, it lists again and goes on, also within a file; readers of ``dest`` find the old file or the
    new one, never a part. Nothing is deleted before both listings are complete, nor if one fails or more than
    ``max_deletes`` files would be deleted; deletions come last, when every copy is done. Up to 10,000 files in
    ``source`` that holds for copies, too; a longer source is copied while it is still being listed. Listings of more
    than some 40,000 files are on the worker's disk (200 bytes per file), so memory does not grow with them. Within one
    store that copies by itself no byte passes through the worker. Links are not followed, files that are not chosen
    are left alone on both sides, as is a folder ``.flowrunner`` at their top, and folders are never removed.

    :param source: a folder, e.g. ``sftp://partner@/out/``.
    :param dest: a folder in any store; it is made when it is missing.
    :param compare: a file is the same if size and time are (to the coarser of the two stores' precision), if its
        bytes are (both sides are read), or if the name is there.
    :param delete_extra: delete the files that only ``dest`` has.
    :param max_deletes: more deletions, over all attempts, are an error before the first.
    :param backup_dir: a folder of the same store as ``dest`` and outside of it: what would be replaced is copied
        there first, what would be deleted is moved there; the latest one of a name stays.
    :param include: only files that match one of these globs; one without ``/`` is for the name in any folder.
    :param exclude: and none of these.
    :param concurrency: files at a time, at most 64; of files below 1 MiB sixteen times as many, at most
        64, too, and of those below 64 KiB 256; 1 is one in any case.
    :param dry_run: only plan, and tell the counts and the first names.
    """

    action: ClassVar[str] = "files.sync"
    template_fields: Sequence[str] = ("source", "dest", "backup_dir", "include", "exclude")

    def __init__(
        self,
        *,
        source: str,
        dest: str,
        compare: Literal["size_mtime", "checksum", "name"] = "size_mtime",
        delete_extra: bool = False,
        max_deletes: int = 1000,
        backup_dir: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        concurrency: int = 4,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.compare = compare
        self.delete_extra = delete_extra
        self.max_deletes = max_deletes
        self.backup_dir = backup_dir
        self.include = include
        self.exclude = exclude
        self.concurrency = concurrency
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> SyncResult:
        """Open the stores and sync."""
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.options import SyncOptions
        from flowrunner_provider.files.sync.engine import sync
        from flowrunner_provider.files.uri import apart, no_pattern

        source, dest = no_pattern(self.source, "source"), no_pattern(self.dest, "dest")
        apart(source, dest, "dest")
        backup = no_pattern(self.backup_dir, "backup_dir") if self.backup_dir else None
        if backup is not None:
            apart(source, backup, "backup_dir")
            apart(dest, backup, "backup_dir")
            if backup.root != dest.root:
                raise ConfigError(
                    "backup_dir is in another store than dest",
                    field="backup_dir",
                    remedy="name a folder beside dest",
                )
        options = SyncOptions(
            compare=self.compare,
            delete_extra=self.delete_extra,
            max_deletes=self.max_deletes,
            backup_dir="" if backup is None else backup.path.rstrip("/") or "/",
            include=list(self.include or []),
            exclude=list(self.exclude or []),
            concurrency=self.concurrency,
            dry_run=self.only_plan,
        )
        async with AsyncExitStack() as stack:
            stores = await opened(run, stack, source=[source], dest=[dest])
            return await sync(
                (stores[source.root], source.path),
                (stores[dest.root], dest.path),
                run,
                options,
                identity_of_work=[
                    "files.sync",
                    self.source,
                    self.dest,
                    self.backup_dir,
                    options.compare,
                    options.delete_extra,
                    [*options.include],
                    [*options.exclude],
                    options.dry_run,
                ],
            )
