"""A short list of files in memory; :class:`~flowrunner_provider.files.spool.Rows` documents the methods."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from flowrunner_provider.files.items import Item, Key

__all__ = ["MemoryRows"]

_BYTES_PER_FILE = 400
"""The memory that a file takes besides its name, including its entries in the sorted list and the index."""


class MemoryRows:
    """The files in the order in which they were added."""

    def __init__(self) -> None:
        self.bytes = 0
        self._items: list[Item] = []
        self._marks: list[int | None] = []
        self._marked: set[str] = set()
        self._named: dict[str, Item] = {}
        self._sorted: list[Item] = []
        self._indexed_count = self._sorted_count = 0

    @property
    def count(self) -> int:
        return len(self._items)

    def add(self, item: Item, mark: int | None) -> None:
        self._items.append(item)
        self._marks.append(mark)
        self.bytes += _BYTES_PER_FILE + len(item.relative)

    def marked(self) -> Iterator[tuple[Item, int | None]]:
        """Yield all files, each with its mark."""
        for item, mark in zip(self._items, self._marks, strict=True):
            yield item, self._mark(item, mark)

    def _mark(self, item: Item, mark: int | None) -> int | None:
        return 1 if item.relative in self._marked else mark

    def sorted(self, after: Key) -> Iterator[Item]:
        if self._sorted_count < len(self._items):
            latest = {item.key: item for item in self._items}
            self._sorted = [latest[key] for key in sorted(latest)]
            self._sorted_count = len(self._items)
        yield from self._sorted[bisect_right(self._sorted, after, key=attrgetter("key")) :]

    def added(self, after: int, most: int) -> list[tuple[int, Item, int | None]]:
        part = slice(after, after + most)
        rows = zip(self._items[part], self._marks[part], strict=True)
        return [(number, item, self._mark(item, mark)) for number, (item, mark) in enumerate(rows, after + 1)]

    def named(self, names: list[str]) -> dict[str, Item]:
        if self._indexed_count < len(self._items):
            self._named.update((item.relative, item) for item in self._items[self._indexed_count :])
            self._indexed_count = len(self._items)
        known = self._named
        return {name: known[name] for name in names if name in known}

    def mark(self, names: list[str]) -> None:
        self._marked.update(names)

    def count_unmarked(self) -> int:
        return sum(mark is None for _, mark in self.marked())

    def unmarked(self) -> Iterator[Item]:
        yield from sorted((item for item, mark in self.marked() if mark is None), key=attrgetter("relative"))

    def sizes(self, after: Key) -> int | None:
        sizes = [item.size for item in self._items if item.key > after]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def twice(self) -> str | None:
        sources: dict[str, int] = {}
        double = (
            item.relative for item in self._items if sources.setdefault(item.relative, item.source) != item.source
        )
        return min(double, default=None)
