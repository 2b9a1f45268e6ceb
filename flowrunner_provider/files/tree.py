"""The selected files of a tree, and two sorted trees side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from flowrunner_provider.core.errors import ConfigError, NotFound, PathEscape, Unavailable
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.listing import matcher, walk
from flowrunner_provider.files.store import Entry, Store

__all__ = ["OWN_FOLDER", "Tree", "path_filter", "side_by_side"]

OWN_FOLDER = ".flowrunner"
"""A folder of this name at the top of a tree is reserved for us and not part of the tree."""

_OURS = f"{OWN_FOLDER}/"


def path_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that selects paths: matched by one of ``include`` (if any), and by none of ``exclude``.

    A glob without ``/`` matches the name in any folder, otherwise the complete relative path. Files in
    :data:`OWN_FOLDER` are never selected.
    """

    def one(pattern: str, field: str) -> Callable[[str], bool]:
        accept = matcher(pattern, "glob", field=field)
        return accept if "/" in pattern or pattern == "**" else lambda path: accept(path.rpartition("/")[2])

    wanted = [one(pattern, "include") for pattern in include]
    unwanted = [one(pattern, "exclude") for pattern in exclude]

    def not_ours(path: str) -> bool:
        return not path.startswith(_OURS)

    def choose(path: str) -> bool:
        return not_ours(path) and (not wanted or any(w(path) for w in wanted)) and not any(u(path) for u in unwanted)

    return choose if wanted or unwanted else not_ours


class Tree:
    """The selected files below one folder.

    :param folder: the path in the store, without a final ``/``.
    :param field: the parameter that it was passed as.
    """

    def __init__(self, store: Store, folder: str, choose: Callable[[str], bool], *, field: str) -> None:
        self.store, self.folder, self._choose, self._field = store, folder.rstrip("/") or "/", choose, field
        self.links = 0

    def path_of(self, relative: str) -> str:
        """Return the path of a file below the folder, as a listing spells it."""
        return f"{self.folder.rstrip('/')}/{relative}"

    async def files(self, *, missing_ok: bool) -> AsyncIterator[Item]:
        """Yield all files in the order of the listing; an incomplete listing is an error, never a short list.

        :param missing_ok: treat a folder that certainly does not exist as empty.
        """
        try:
            entry = await self.store.stat(self.folder)
        except NotFound:
            if missing_ok:
                return
            raise
        if not entry.is_dir:
            raise ConfigError(f"{self.folder} is not a folder", field=self._field, remedy="name a folder")
        try:
            async for relative, found in walk(
                self.store, self.folder, lambda path, _: self._choose(path), recursive=True, skipped_link=self._link
            ):
                if {"", ".", ".."} & set(relative.split("/")):
                    raise PathEscape(f"{self.store.where} lists the name {relative!r}", remedy="check that server")
                yield Item.of(0, relative, found)
        except NotFound as error:
            raise Unavailable(
                f"{self.store.where}{self.folder} changed while it was listed: {error.message}",
                remedy="nothing to do: the task is retried",
            ) from error

    def _link(self, entry: Entry) -> None:
        self.links += 1


def side_by_side(one: Iterator[Item], other: Iterator[Item]) -> Iterator[tuple[Item | None, Item | None]]:
    """Merge two sorted listings: yield each name once, with the file of either side."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.relative < right.relative):
            yield left, None
            left = next(one, None)
        elif left is None or right.relative < left.relative:
            yield None, right
            right = next(other, None)
        else:
            yield left, right
            left, right = next(one, None), next(other, None)
