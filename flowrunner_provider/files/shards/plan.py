"""Planning a sync for several tasks: both folders are listed to their end, and the copies dealt into equal shards."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import IO

from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.publish import Publisher, Sink
from flowrunner_provider.files.results import SyncPlanResult
from flowrunner_provider.files.shards.engine import Folder, Shard, Summary, line_of
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.sync.plan import Plan
from flowrunner_provider.files.tree import Tree, chooser

__all__ = ["plan_shards"]

FILE_COST = 256 * 1024
"""What a file costs besides its bytes, in bytes: a thousand small files take about as long as 256 MiB."""

_SHOWN, _CHARACTERS = 20, 6_000
_CHUNK = 1 << 18
_TURN = 1_000


async def plan_shards(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SyncOptions,
    *,
    shards: int,
    work: str,
    folder: Folder,
    label: str,
) -> SyncPlanResult:
    """Write the plan into ``folder``; with ``dry_run`` only tell what it would be.

    :param work: the fingerprint of the sync, which its other tasks must have, too.
    :param label: the address of ``folder``.
    """
    choose = chooser(options.include, options.exclude)
    trees = Tree(*source, choose, field="source"), Tree(*dest, choose, field="dest")
    plan = Plan(*trees, run, options, deleted_before=0)
    try:
        plan.start()
        await plan.complete()
        if options.dry_run:
            return await _previewed(plan)
        with _Deal(shards) as deal:
            first = await deal.out(plan)
            publisher = Publisher(run, folder.store, "files.sync_plan", work, "overwrite", announce=False)
            summary = Summary(work=work, listed=plan.listed, shards=await deal.published(publisher, folder))

            async def told(sink: Sink) -> None:
                await sink.write(summary.to_bytes())

            await publisher.publish(folder.summary_path, told)
        return SyncPlanResult(
            plan=label, shards=shards, listed=plan.listed, files=summary.files, bytes=summary.size,
            largest=max(shard.bytes for shard in summary.shards), deletes=plan.deletes, extra=plan.extra,
            dry_run=False, copies=first,
        )  # fmt: skip
    finally:
        await plan.close()


async def _previewed(plan: Plan) -> SyncPlanResult:
    first, files, size = await plan.preview()
    return SyncPlanResult(
        plan="", shards=0, listed=plan.listed, files=files, bytes=size, largest=0, deletes=plan.deletes,
        extra=plan.extra, dry_run=True, copies=_names(first),
    )  # fmt: skip


def _names(items: Sequence[Item]) -> list[str]:
    names: list[str] = []
    for item in items[:_SHOWN]:
        if sum(map(len, names)) < _CHARACTERS:
            names.append(item.relative)
    return names


class _Deal:
    """Deals files out, the largest first and each to the shard that has least: none is far above the others.

    The shards are files without a name on this disk until they are published.
    """

    def __init__(self, shards: int) -> None:
        self._stack = ExitStack()
        self._shards = [Shard(files=0, bytes=0, size=0, sha256="")] * shards
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> _Deal:
        with disk_errors(tempfile.gettempdir()):
            for _ in self._shards:
                self._files.append(self._stack.enter_context(tempfile.TemporaryFile()))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    async def out(self, plan: Plan) -> list[str]:
        """Deal the whole plan; returns the first names."""
        least = [(0, number) for number in range(len(self._shards))]
        counts = [[0, 0] for _ in self._shards]
        first: list[Item] = []
        for turn, (item, doubtful) in enumerate(plan.largest_first()):
            cost, number = least[0]
            heapq.heapreplace(least, (cost + FILE_COST + (item.size or 0), number))
            with disk_errors(tempfile.gettempdir()):
                self._files[number].write(line_of(item, doubtful))
            counts[number][0] += 1
            counts[number][1] += item.size or 0
            if len(first) < _SHOWN:
                first.append(item)
            if turn % _TURN == 0:
                await apause(0)
        self._shards = [
            replace(shard, files=files, bytes=size) for shard, (files, size) in zip(self._shards, counts, strict=True)
        ]
        return _names(first)

    async def published(self, publisher: Publisher, folder: Folder) -> list[Shard]:
        """Write every shard into the plan's folder."""
        shards = []
        for number, (shard, file) in enumerate(zip(self._shards, self._files, strict=True)):

            async def copied(sink: Sink, file: IO[bytes] = file) -> None:
                file.seek(0)
                while chunk := file.read(_CHUNK):
                    await sink.write(chunk)

            published = await publisher.publish(folder.shard_path(number), copied)
            shards.append(replace(shard, size=published.size, sha256=published.sha256))
        return shards
