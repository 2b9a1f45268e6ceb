"""The names of the copies: which of them exist, and which are chosen instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from flowrunner_provider.core.errors import AlreadyExists, NotFound
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.items import Destination, Item, Source
from flowrunner_provider.files.options import CopyOptions
from flowrunner_provider.files.session import SKIPPED
from flowrunner_provider.files.spool import Rows
from flowrunner_provider.files.store import Entry, identity
from flowrunner_provider.files.transfer import digest_of

__all__ = ["CopyTargets", "target_exists"]

IsOurs = Callable[[int, int], Awaitable[bool]]


class CopyTargets:
    """The existing files under the names of the copies.

    :param planned: all files that are going to be copied.
    """

    def __init__(self, sources: Sequence[Source], dest: Destination, options: CopyOptions, planned: Rows) -> None:
        self._sources, self._dest, self._planned = sources, dest, planned
        self._if_exists, self._concurrency = options.if_exists, options.concurrency * 4

    async def find(self, path: str) -> Entry | None:
        """Return the entry at ``path``; None only if it certainly does not exist."""
        try:
            return await self._dest.store.stat(path)
        except NotFound:
            return None

    async def holds_source_bytes(self, item: Item, choice: int) -> bool:
        """Return whether a target has the same bytes as its unchanged source."""
        store, path = self._sources[item.source].store, self.source_of(item)
        target = self.path_of(item, choice)
        try:
            current = await store.stat(path)
        except NotFound:
            return False
        existing = await self.find(target)
        if existing is None or identity(current) != item.identity or item.size not in (None, existing.size):
            return False
        expected = await digest_of(store.read(path))
        actual = await digest_of(self._dest.store.read(target))
        return expected.hexdigest() == actual.hexdigest()

    async def refuse_existing(self, items: Iterable[Item]) -> None:
        """Raise ``AlreadyExists`` if one of the targets exists."""

        async def check(item: Item) -> None:
            if await self.find(self._dest.target(item)):
                raise target_exists(self._dest.target(item))

        await for_each(self._concurrency, check, items)

    async def choose(self, items: Sequence[Item], is_ours: IsOurs | None = None) -> list[int]:
        """Return for each file 0 for its own name, a number for another one, or ``SKIPPED``.

        :param is_ours: asked about each target that exists, by index and choice; one that is ours is chosen.
        """
        choices = [0] * len(items)

        async def choose(index: int) -> None:
            while await self._is_taken(items[index], choices[index]):
                if is_ours is not None and await is_ours(index, choices[index]):
                    return
                if self._if_exists != "rename":
                    choices[index] = SKIPPED if self._if_exists == "skip" else 0
                    return
                choices[index] += 1

        if self._if_exists in ("skip", "rename") or (is_ours is not None and self._if_exists == "fail"):
            await for_each(self._concurrency, choose, range(len(items)))
        return choices

    async def _is_taken(self, item: Item, number: int) -> bool:
        is_planned = number and self._dest.is_folder and self._planned.named([self._dest.name(item, number)])
        return bool(is_planned) or await self.find(self._dest.target(item, number)) is not None

    def source_of(self, item: Item) -> str:
        """Return the path of the source."""
        return self._sources[item.source].path_of(item.relative)

    def path_of(self, item: Item, choice: int) -> str:
        """Return the path of the target."""
        return self._dest.target(item, choice)


def target_exists(target: str) -> AlreadyExists:
    """Return the error for an existing target."""
    return AlreadyExists(
        f"{target} already exists", remedy="delete it, or set if_exists to 'overwrite', 'skip' or 'rename'"
    )
