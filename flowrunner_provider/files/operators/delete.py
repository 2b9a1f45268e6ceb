"""Deleting files and making folders in any store."""

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
    """Every file that ``path`` named and that neither ``older_than`` nor ``keep_last`` protects is gone.

    Killed or retried, it deletes what is left and counts what an earlier attempt has deleted once. Nothing is
    deleted before the listing is complete, and nothing at all if it fails in the middle or names more than
    ``max_deletes`` files. A file that changes after it was listed is kept. Folders themselves stay, links are left
    alone. Memory grows with ``max_deletes`` and ``keep_last``, not with what is listed (but for a list of paths).

    :param path: a file, a glob such as ``sftp://partner@/out/*.csv``, or with ``recursive`` a folder; or a list.
    :param recursive: also what is below the folders; needed to empty a folder that is named without a glob.
    :param older_than: only what was last modified at least so long ago, e.g. ``"30d"``.
    :param keep_last: the newest so many of all matches are kept, however old.
    :param missing_ok: nothing to delete is fine; otherwise it is an error.
    :param max_deletes: more files to delete, over all attempts, are an error before the first is deleted.
    :param dry_run: only count and name what would be deleted.
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
        """List everything, then delete."""
        from flowrunner_provider.files.delete import DeleteOptions, Place, delete
        from flowrunner_provider.files.hook import opened
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
            raise ConfigError("there is no path", field="path", remedy="name at least one file or pattern")
        locations = [parse(uri, field="path") for uri in uris]
        async with AsyncExitStack() as stack:
            stores = await opened(run, stack, path=locations)
            places = [Place(store=stores[found.root], path=found.path, root=found.root) for found in locations]
            return await delete(places, run, options, identity_of_work=["files.delete", *uris])


class MakeDirectoryOperator(FlowRunnerOperator):
    """The folder ``path`` is there.

    Killed or retried, it looks again and goes on: a folder that a killed attempt has made counts as made by this
    task, also with ``exist_ok=False``. A few requests; a store without folders has nothing to make.

    :param path: the folder, e.g. ``sftp://partner@/in/2026/``.
    :param parents: make the folders above it, too.
    :param exist_ok: a folder that is there already is fine; otherwise it is an error.
    """

    action: ClassVar[str] = "files.mkdir"
    template_fields: Sequence[str] = ("path",)

    def __init__(self, *, path: str, parents: bool = True, exist_ok: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.parents = parents
        self.exist_ok = exist_ok

    async def perform(self, run: Run) -> FolderResult:
        """Look, announce, make."""
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.uri import no_pattern

        location = no_pattern(self.path, "path")
        path = location.path.rstrip("/") or "/"
        async with AsyncExitStack() as stack:
            store = (await opened(run, stack, path=[location]))[location.root]
            return await self._make(store, path, run)

    async def _make(self, store: Store, path: str, run: Run) -> FolderResult:
        checkpoint = run.checkpoint("mkdir", self.path)
        begun = checkpoint.state is not None
        if await _is_there(store, path):
            if not (begun or self.exist_ok):
                raise AlreadyExists(f"{self.path} is there already", remedy="set exist_ok=True if that is fine")
            return FolderResult(path=self.path, created=begun)
        checkpoint.save(True, force=True)
        failpoint("files.mkdir.before_mkdir")
        await store.mkdir(path, parents=self.parents)
        failpoint("files.mkdir.after_mkdir")
        return FolderResult(path=self.path, created=True)


async def _is_there(store: Store, path: str) -> bool:
    """Whether there is a folder; something else under that name is an error."""
    try:
        entry = await store.stat(path)
    except NotFound:
        return False
    if entry.is_link:
        await store.mkdir(path)  # which makes nothing, and is refused unless the link leads to a folder
    elif not entry.is_dir:
        raise AlreadyExists(f"{path} is there and not a folder", remedy="choose another name")
    return True
