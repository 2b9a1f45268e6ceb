"""Delete files and create folders in any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import AlreadyExists, ConfigError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import DeleteResult, FolderResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.store import Store

__all__ = ["FileDeleteOperator", "MakeDirectoryOperator"]


class FileDeleteOperator(FlowRunnerOperator):
    """On success, every file that ``path`` matched and that ``older_than`` or ``keep_last`` did not protect is deleted.

    A killed or retried task deletes the rest; files that an earlier attempt deleted are counted once. Nothing is
    deleted until the listing is complete, and nothing at all if it fails or more than ``max_deletes`` files would be
    deleted.

    A file that changes after it was listed is kept. Folders and symbolic links are never deleted. Memory grows with
    ``max_deletes`` and ``keep_last``, not with the number of listed files (except if ``path`` is a list).

    :param path: a file, a glob such as ``sftp://partner@/out/*.csv``, or with ``recursive`` a folder; or a list of
        these.
    :param recursive: include all files below the folders; required for a folder without a glob.
    :param older_than: only files that have not been modified for this long, e.g. ``"30d"``.
    :param keep_last: keep the newest files, this many over all matches, whatever their age.
    :param missing_ok: succeed if nothing matches; by default that is an error.
    :param max_deletes: fail before the first deletion if more files would be deleted, over all attempts.
    :param dry_run: only return the count and the first names of the files that would be deleted.
    """

    action: ClassVar[str] = "files.delete"
    template_fields: Sequence[str] = ("path",)

    def __init__(
        self,
        *,
        path: str | list[str],
        recursive: bool = False,
        older_than: str | float | timedelta = 0,
        keep_last: int = 0,
        missing_ok: bool = False,
        max_deletes: int = 1000,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.recursive = recursive
        self.older_than = older_than
        self.keep_last = keep_last
        self.missing_ok = missing_ok
        self.max_deletes = max_deletes
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> DeleteResult:
        from flowrunner_provider.files.delete import DeleteOptions, DeleteTarget, delete
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.uri import parse

        options = DeleteOptions(
            recursive=self.recursive,
            older_than=parse_duration(self.older_than, "older_than"),
            keep_last=self.keep_last,
            missing_ok=self.missing_ok,
            max_deletes=self.max_deletes,
            dry_run=self.only_plan,
        )
        uris = [self.path] if isinstance(self.path, str) else list(self.path)
        if not uris:
            raise ConfigError("path is empty", field="path", remedy="name at least one file or glob")
        locations = [parse(uri, field="path") for uri in uris]
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, path=locations)
            targets = [DeleteTarget(store=stores[found.root], path=found.path, root=found.root) for found in locations]
            return await delete(targets, run, options, identity_of_work=["files.delete", *uris])


class MakeDirectoryOperator(FlowRunnerOperator):
    """On success, the folder ``path`` exists.

    A killed or retried task checks again; a folder that an earlier attempt created counts as created by this task,
    also with ``exist_ok=False``. It takes a few requests. On stores without folders there is nothing to create.

    :param path: the folder, e.g. ``sftp://partner@/in/2026/``.
    :param parents: also create missing parent folders.
    :param exist_ok: succeed if the folder already exists; otherwise that is an error.
    """

    action: ClassVar[str] = "files.mkdir"
    template_fields: Sequence[str] = ("path",)

    def __init__(self, *, path: str, parents: bool = True, exist_ok: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.parents = parents
        self.exist_ok = exist_ok

    async def perform(self, run: Run) -> FolderResult:
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.uri import no_pattern

        location = no_pattern(self.path, "path")
        path = location.path.rstrip("/") or "/"
        async with AsyncExitStack() as stack:
            store = (await open_stores(run, stack, path=[location]))[location.root]
            return await self._make(store, path, run)

    async def _make(self, store: Store, path: str, run: Run) -> FolderResult:
        checkpoint = run.checkpoint("mkdir", self.path)
        resumed = checkpoint.state is not None
        if await _folder_exists(store, path):
            if not (resumed or self.exist_ok):
                raise AlreadyExists(f"{self.path} already exists", remedy="set exist_ok=True to allow that")
            return FolderResult(path=self.path, created=resumed)
        checkpoint.save(True, force=True)
        failpoint("files.mkdir.before_mkdir")
        await store.mkdir(path, parents=self.parents)
        failpoint("files.mkdir.after_mkdir")
        return FolderResult(path=self.path, created=True)


async def _folder_exists(store: Store, path: str) -> bool:
    """Return whether the folder exists; raise ``AlreadyExists`` if the path is something else."""
    try:
        entry = await store.stat(path)
    except NotFound:
        return False
    if entry.is_link:
        await store.mkdir(path)  # creates nothing, and fails unless the link points to a folder
    elif not entry.is_dir:
        raise AlreadyExists(f"{path} exists and is not a folder", remedy="choose another path")
    return True
