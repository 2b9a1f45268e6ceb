"""Make one folder a copy of another, in any store."""

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
    """On success, ``dest`` holds every selected file of the folder ``source``, and with ``delete_extra`` no others.

    A killed or retried task lists both folders again and resumes, also inside a file. Readers of ``dest`` see the old
    file or the new one, never a partial file.

    Nothing is deleted until both listings are complete and all copies are done, and nothing at all if a listing fails
    or more than ``max_deletes`` files would be deleted. Copies start once ``dest`` and all, or 10,000, files of
    ``source`` are listed. Listings of more than about 40,000 files are kept on the worker's disk (200 bytes per file),
    so memory stays constant. A sync within one store that supports server-side copies moves no bytes through the
    worker. Symbolic links are not followed. Files that are not selected are left alone on both sides, as is a folder
    ``.flowrunner`` at the top. Folders are never removed.

    :param source: a folder, e.g. ``sftp://partner@/out/``.
    :param dest: a folder in any store; it is created if it does not exist.
    :param compare: when two files count as equal: ``size_mtime`` if size and modification time agree (to the coarser
        precision of the two stores), ``checksum`` if their bytes agree (both sides are read), ``name`` if the name
        exists.
    :param delete_extra: delete files in ``dest`` that ``source`` does not have.
    :param max_deletes: fail before the first deletion if more files would be deleted, over all attempts.
    :param backup_dir: a folder in the store of ``dest``, outside of it. A file is copied there before it is replaced,
        and moved there instead of being deleted; a file of the same name there is replaced.
    :param include: select only files that match one of these globs; a glob without ``/`` matches the name in any
        folder.
    :param exclude: do not select files that match one of these globs.
    :param concurrency: files in flight, at most 64. Smaller files are cheaper: 16 times as many (at most 64) if below
        1 MiB, and up to 256 if below 64 KiB. 1 always means one file.
    :param dry_run: only compare, and return the counts and the first names.
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
        from flowrunner_provider.files.hook import open_stores
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
            include=self.include or [],
            exclude=self.exclude or [],
            concurrency=self.concurrency,
            dry_run=self.only_plan,
        )
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, source=[source], dest=[dest])
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
