"""What happens to a source after its copy is verified: it is kept, deleted, or moved to an archive folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.items import Item, Source
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.session import TransferSession
from flowrunner_provider.files.store import FolderStore, Store, identity

__all__ = ["SourceDisposition"]


class SourceDisposition:
    """Applies the parameter ``after`` to one source at a time."""

    def __init__(self, sources: Sequence[Source], options: CopyOptions, session: TransferSession) -> None:
        self._sources, self._options, self._session = sources, options, session

    def validate(self) -> None:
        """Raise ``ConfigError`` for what a store cannot do."""
        for source in self._sources:
            capabilities = source.store.capabilities
            if self._options.remove_empty_folders and capabilities.folders and not capabilities.removes_folders:
                raise ConfigError(
                    f"{source.store.where} cannot remove folders",
                    field="remove_empty_folders",
                    remedy="set it to False",
                )

    async def apply(self, item: Item) -> None:
        """Delete or move a source, unless it has changed since it was listed."""
        source = self._sources[item.source]
        path = source.path_of(item.relative)
        try:
            entry = await source.store.stat(path)
        except NotFound:
            return
        if identity(entry) != item.identity:
            raise IntegrityError(
                f"{path} changed after it was copied and was not {'moved' if self._options.archive else 'deleted'}",
                remedy="run the task again to move the new version",
            )
        self._session.guard.check()
        failpoint("files.copy.before_delete_source")
        if self._options.verify_sidecar:
            suffix = f".{self._options.algorithm}"
            await self._remove(source, path + suffix, item.relative + suffix)
        await self._remove(source, path, item.relative)
        failpoint("files.copy.after_delete_source")

    async def _remove(self, source: Source, path: str, relative: str) -> None:
        with suppress(NotFound):
            if not self._options.archive:
                await source.store.delete(path)
                return
            target = source.archive_path(self._options.archive, relative)
            await self._session.make_parent_of(source.store, target)
            await source.store.rename(path, target, replace=True)

    async def remove_empty_folders(self) -> None:
        """Remove all empty folders below the source folders, the deepest first."""
        for source in self._sources:
            store, folder = source.store, source.folder
            if source.is_file or not store.capabilities.removes_folders:
                continue
            for path in sorted(await _folders_below(store, folder), key=lambda path: -path.count("/")):
                self._session.guard.check()
                failpoint("files.copy.before_rmdir")
                await cast("FolderStore", store).rmdir(path)
                failpoint("files.copy.after_rmdir")


async def _folders_below(store: Store, folder: str) -> list[str]:
    try:
        return [entry.path async for entry in store.list(folder, recursive=True) if entry.is_dir and not entry.is_link]
    except NotFound:
        return []
