"""Attachments from any store: listed and measured first, then read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowrunner_provider.core.errors import ConfigError, NotFound, Unavailable
from flowrunner_provider.core.names import safe_component
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.attachments import (
    Attachment,
    LocalFile,
    check_lists,
    content_type,
    found_here,
    too_large,
)

if TYPE_CHECKING:
    from flowrunner_provider.files.items import Item
    from flowrunner_provider.files.store import Store

__all__ = ["gather"]

MAX_FILES = 1000
"""More attachments than that are refused."""


async def gather(
    patterns: Sequence[str], inline: Mapping[str, str], limit: int, run: Run
) -> tuple[list[Attachment], dict[str, Attachment]]:
    """Return the attachments that match ``patterns``, and the images of ``inline`` by content id.

    The files of each pattern are in the order of their names.

    :param patterns: local paths, or addresses such as ``s3://lake@reports/2026/*.csv``.
    :param limit: maximum encoded bytes of the mail; nothing is read if the files exceed it.
    :raises NotFound: for a pattern that matches no file.
    :raises ConfigError: when they are too large, for a folder, and for an invalid address.
    :raises PathEscape: for an unsafe file name.
    """
    check_lists(patterns, inline)
    async with AsyncExitStack() as stack:
        stores: Mapping[str, Store] = {}
        if any(map(_is_address, (*patterns, *inline.values()))):
            stores = await _opened(patterns, inline, stack, run)
        several = [await _files(path, "attachments", stores, run) for path in patterns]
        files = list(dict.fromkeys(file for some in several for file in some))
        images = {cid: await _image(path, stores, run) for cid, path in inline.items()}
        size = sum(file.size or 0 for file in (*files, *images.values()))
        if size * 4 // 3 > limit:
            raise too_large(size * 4 // 3, limit)
        return (
            [await _attachment(file, limit, run) for file in files],
            {cid: await _attachment(file, limit, run) for cid, file in images.items()},
        )


async def _opened(
    patterns: Sequence[str], inline: Mapping[str, str], stack: AsyncExitStack, run: Run
) -> Mapping[str, Store]:
    from flowrunner_provider.files.hook import open_stores
    from flowrunner_provider.files.uri import parse

    return await open_stores(
        run,
        stack,
        attachments=[parse(path, field="attachments") for path in patterns if _is_address(path)],
        inline_images=[parse(path, field="inline_images") for path in inline.values() if _is_address(path)],
    )


@dataclass(frozen=True)
class _StoredFile:
    """A file of a store's listing."""

    store: Store
    path: str
    item: Item

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def size(self) -> int | None:
        return self.item.size

    async def read(self, limit: int) -> bytes:
        """Return the content.

        :raises ConfigError: when it is longer than ``limit``.
        :raises Unavailable: when its length differs from that of the listing.
        """
        data = bytearray()
        async for chunk in self.store.read(self.path):
            data += chunk
            if len(data) > limit:
                raise too_large(len(data), limit)
        if self.size is not None and len(data) != self.size:
            raise Unavailable(
                f"attachment {self.store.where}{self.path} changed while it was read",
                remedy="nothing to do: the retry reads it again",
            )
        return bytes(data)


_File = LocalFile | _StoredFile


def _is_address(path: str) -> bool:
    return isinstance(path, str) and "://" in path


async def _files(path: str, field: str, stores: Mapping[str, Store], run: Run) -> list[_File]:
    if not _is_address(path):
        return [*found_here(path, field)]
    from flowrunner_provider.files.items import Source, find
    from flowrunner_provider.files.uri import parse

    location = parse(path, field=field)
    source = Source(stores[location.root], location.path)

    async def list_items() -> list[Item]:
        await source.resolve()
        if not source.pattern and not source.is_file:
            raise ConfigError(f"{field}: {path!r} is a folder", field=field, remedy="add a glob, e.g. /*.csv")
        return await find([source], run, recursive=False, max_files=MAX_FILES, missing_ok=False)

    items = await run.retry.acall(list_items, run.deadline)
    if not items:
        raise NotFound(f"{field}: no file matches {path!r}", remedy="check the path and the task that writes the file")
    return [_StoredFile(source.store, source.path_of(item.relative), item) for item in items]


async def _image(path: str, stores: Mapping[str, Store], run: Run) -> _File:
    found = await _files(path, "inline_images", stores, run)
    if len(found) > 1:
        raise ConfigError(
            f"inline_images: {path!r} matches {len(found)} files",
            field="inline_images",
            remedy="give one file for each content id",
        )
    return found[0]


async def _attachment(file: _File, limit: int, run: Run) -> Attachment:
    name = safe_component(file.name)
    if isinstance(file, LocalFile):
        return await asyncio.to_thread(file.attachment, limit)

    async def read() -> bytes:
        return await file.read(limit)

    data = await run.retry.acall(read, run.deadline)
    return Attachment(name=name, content_type=content_type(name), data=data)
