"""Dealing files to shards: the largest first, each to the shard that has least; over all waves none is far ahead."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.shards.book import Part, line_of

__all__ = ["FILE_COST", "Deal", "Planned", "largest_first"]

FILE_COST = 256 * 1024
"""What a file costs besides its bytes, in bytes: a thousand small files take about as long as 256 MiB."""

Planned = tuple[Item, bool]
"""A file to copy, and whether its bytes are to be compared before."""


class Deal:
    """What each of the shards was dealt so far.

    :param shards: how many there are.
    """

    def __init__(self, shards: int) -> None:
        self._least = [(0, number) for number in range(shards)]
        self.files, self._sizes = 0, [0] * shards

    @property
    def size(self) -> int:
        """The size of all files together."""
        return sum(self._sizes)

    @property
    def largest(self) -> int:
        """The size of the files of the shard that has most."""
        return max(self._sizes)

    def count(self, parts: Sequence[Part]) -> None:
        """A wave is published, by this attempt or by an earlier one."""
        costs = {number: cost for cost, number in self._least}
        for number, part in enumerate(parts):
            self.files += part.files
            self._sizes[number] += part.bytes
            costs[number] += part.files * FILE_COST + part.bytes
        self._least = [(cost, number) for number, cost in costs.items()]
        heapq.heapify(self._least)

    def out(self, files: Iterable[Planned]) -> tuple[list[Part], list[bytes]]:
        """Deal a wave: each shard's part, and its lines. It counts when it is published."""
        least = list(self._least)
        lines: list[list[bytes]] = [[] for _ in least]
        sizes = [0] * len(least)
        for item, doubtful in largest_first(files):
            cost, number = least[0]
            heapq.heapreplace(least, (cost + FILE_COST + (item.size or 0), number))
            lines[number].append(line_of(item, doubtful))
            sizes[number] += item.size or 0
        texts = [b"".join(rows) for rows in lines]
        return [_part(len(rows), size, text) for rows, size, text in zip(lines, sizes, texts, strict=True)], texts


def largest_first(files: Iterable[Planned]) -> list[Planned]:
    """By size, then by name; those of unknown size at the end."""
    return sorted(files, key=lambda file: (1 if file[0].size is None else -file[0].size, file[0].relative))


def _part(files: int, size: int, text: bytes) -> Part:
    digest = Digest()
    digest.update(text)
    return Part(files=files, bytes=size, size=len(text), sha256=digest.hexdigest())
