"""Planning a sync of very many objects: seconds, memory, and how early the first copy may begin.

Neither side has a byte: the listings are made up, in an order that is no order. ``FLOWRUNNER_PLAN_FILES`` says how
many files each side has (a million by default).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.copy_plan import CopyPlan
from flowrunner_provider.files.items import Destination, Source
from flowrunner_provider.files.options import CopyOptions, SyncOptions
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.sync.plan import Plan
from flowrunner_provider.files.tree import Tree, path_filter
from tests.benchmarks.harness import Workload

FILES = int(os.environ.get("FLOWRUNNER_PLAN_FILES", "1000000"))
_STEP = 7_368_787  # a prime: the listing jumps about in the names
_THEN = datetime(2026, 1, 1, tzinfo=UTC)


class MadeUp(LocalStore):
    """A store that only lists: one folder per 1,000 files, ``changed`` of 1,000 other than on the other side."""

    def __init__(self, changed: int = 0) -> None:
        super().__init__()
        self.changed, self.listed = changed, 0

    def join(self, folder: str, relative: str) -> str:
        return f"{folder}/{relative}"  # what a real store asks its disk for is not what is measured here

    async def stat(self, path: str) -> Entry:
        return Entry(path=path, name=path, size=0, modified=_THEN, is_dir=True)

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        for number in range(FILES):
            if number % 1_000 == 0:
                await asyncio.sleep(0)  # a page
            n = number * _STEP % FILES
            name = f"part-{n:09}.parquet"
            size = n + (n % 1_000 < self.changed)
            self.listed += 1
            yield Entry(
                path=f"{path}/{n // 1_000:05}/{name}", name=name, size=size, modified=_THEN + timedelta(seconds=n)
            )


def _sync(scene: dict[str, Any]) -> Iterator[None]:
    run = Run.alone()
    source, everything = MadeUp(changed=10), path_filter([], [])
    yield
    began = time.perf_counter()

    async def plan() -> tuple[int, float, int]:
        trees = Tree(source, "/one", everything, field="source"), Tree(MadeUp(), "/two", everything, field="dest")
        plan = Plan(*trees, run, SyncOptions(delete_extra=True), deleted_before=0)
        plan.start()
        count = after = early = 0
        first = 0.0
        while rows := await plan.to_copy(after):
            early = early or source.listed
            first = first or time.perf_counter() - began
            count, after = count + len(rows), rows[-1][0]
        await plan.close()
        return count, first, early

    count, first, early = asyncio.run(plan())
    if count != FILES // 100:
        raise AssertionError(f"{count} copies planned")
    sys.stderr.write(json.dumps({"first_copy_after_s": round(first, 1), "listed_by_then": early}) + "\n")


def _copy(scene: dict[str, Any]) -> Iterator[None]:
    run = Run.alone()
    yield

    async def plan() -> int:
        source = Source(MadeUp(), "/one")
        made = CopyPlan([source], run, CopyOptions(max_files=10_000_000, recursive=True), resumed=False)
        await made.make(lambda: Destination(MadeUp(), "/two", [source]))
        count = sum(1 for _ in made.ahead(None, set()))
        made.close()
        return count

    if asyncio.run(plan()) != FILES:
        raise AssertionError("files are missing")


WORKLOAD = Workload(
    title=f"plan {FILES:,} objects (both sides made up)",
    contenders={"files.sync plan": _sync, "files.copy plan": _copy},
    reference="files.sync plan",
)
