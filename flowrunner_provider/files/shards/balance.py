"""Assign files to shards: the largest first, each to the shard with the least work; balanced over all waves."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.shards.plan_folder import Share, line_of

__all__ = ["FILE_COST", "Balancer", "PlannedFile", "largest_first"]

FILE_COST = 256 * 1024
"""The fixed cost of a file, in bytes: a thousand small files take about as long as 256 MiB."""

PlannedFile = tuple[Item, bool]
"""A file to copy, and whether its content must be compared first."""


class Balancer:
    """The work that each shard was given in the published waves.

    :param shards: the number of shards.
    """

    def __init__(self, shards: int) -> None:
        self._costs = [(0, shard) for shard in range(shards)]  # a heap: the shard with the least work comes first
        self.files, self._sizes = 0, [0] * shards

    @property
    def size(self) -> int:
        """The size of all files together."""
        return sum(self._sizes)

    @property
    def largest(self) -> int:
        """The size of the files of the shard with the most bytes."""
        return max(self._sizes)

    def record(self, shares: Sequence[Share]) -> None:
        """Count a published wave, of this attempt or of an earlier one."""
        costs = {shard: cost for cost, shard in self._costs}
        for shard, share in enumerate(shares):
            self.files += share.files
            self._sizes[shard] += share.bytes
            costs[shard] += share.files * FILE_COST + share.bytes
        self._costs = [(cost, shard) for shard, cost in costs.items()]
        heapq.heapify(self._costs)

    def assign(self, files: Iterable[PlannedFile]) -> tuple[list[Share], list[bytes]]:
        """Return the share and the lines of each shard for a new wave; call :meth:`record` once it is published."""
        costs = list(self._costs)
        lines: list[list[bytes]] = [[] for _ in costs]
        sizes = [0] * len(costs)
        for item, doubtful in largest_first(files):
            cost, shard = costs[0]
            heapq.heapreplace(costs, (cost + FILE_COST + (item.size or 0), shard))
            lines[shard].append(line_of(item, doubtful))
            sizes[shard] += item.size or 0
        texts = [b"".join(rows) for rows in lines]
        return [_share(len(rows), size, text) for rows, size, text in zip(lines, sizes, texts, strict=True)], texts


def largest_first(files: Iterable[PlannedFile]) -> list[PlannedFile]:
    """Sort by size, then by name; files of unknown size come last."""
    return sorted(files, key=lambda file: (1 if file[0].size is None else -file[0].size, file[0].relative))


def _share(files: int, size: int, text: bytes) -> Share:
    digest = Digest()
    digest.update(text)
    return Share(files=files, bytes=size, size=len(text), sha256=digest.hexdigest())
