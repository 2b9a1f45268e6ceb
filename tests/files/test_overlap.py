"""The next batch is begun while the last files of one are under way: in order, within limits, and killed anywhere."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flowrunner_provider.files import session
from flowrunner_provider.files.concurrency import SMALL, TINY, process_batches
from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import KILLS, LONG_AGO, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, kill_at, random_kills, sweep

Batch = list[int | None]


class Play:
    """Batches of sizes, what of them is under way, and what happened."""

    def __init__(self, batches: list[Batch], *, slow: tuple[int, int] | None = None) -> None:
        self.batches, self.slow, self.go = batches, slow, asyncio.Event()
        self.open, self.ended, self.now, self.most = 0, list[int](), Counter[str](), Counter[str]()
        self.done: list[tuple[int, int]] = []

    async def begun(self) -> Any:
        for number in range(len(self.batches)):
            self.open += 1
            assert self.open <= 2
            yield number

    async def act(self, batch: int, index: int) -> None:
        size = self.batches[batch][index]
        kind = "large" if size is None or size >= SMALL else "tiny" if 0 < size < TINY else "small"
        self.now[kind] += 1
        self.most[kind] = max(self.most[kind], self.now[kind])
        if (batch, index) == self.slow:
            await self.go.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        if self.slow and (batch, index) == (self.slow[0] + 1, 0):
            self.go.set()
        self.now[kind] -= 1
        self.done.append((batch, index))

    async def end(self, batch: int) -> None:
        assert sum(1 for of, _ in self.done if of == batch) == len(self.batches[batch])
        await asyncio.sleep(0)
        self.open -= 1
        self.ended.append(batch)

    async def run(self, concurrency: int, **limits: int) -> None:
        async with asyncio.timeout(20):
            await process_batches(
                concurrency, self.begun(), lambda batch: dict(enumerate(self.batches[batch])), self.act, self.end,
                **limits,
            )  # fmt: skip


def play(batches: list[Batch], concurrency: int, **how: Any) -> Play:
    async def run() -> Play:
        made = Play(batches, **how)
        await made.run(concurrency)
        return made

    return asyncio.run(run())


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 5, 40, 64])
def test_so_many_at_a_time_and_each_once(concurrency):
    rest = [SMALL] * 300 + [None] * 3 + [0] * 70 + [TINY] * 70
    batches: list[Batch] = [[1] * 150, [TINY - 1] * 150, [], rest, [None], [], [5] * 3]
    made = play(batches, concurrency)
    assert sorted(made.done) == [(number, index) for number, sizes in enumerate(batches) for index in range(len(sizes))]
    assert made.ended == list(range(len(batches)))
    small = 1 if concurrency == 1 else min(64, concurrency * 16)
    assert made.most == {"large": concurrency, "small": small, "tiny": 1 if concurrency == 1 else small * 4}


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (2, 40), (4, 64)])
def test_fewer_tiny_ones_where_more_would_only_wait(concurrency, most):
    made = Play([[1] * 150, [1] * 70])
    asyncio.run(made.run(concurrency, tiny=40))
    assert (made.most, len(made.done)) == ({"tiny": most}, 220)


def test_a_slow_file_holds_up_its_own_batch_and_not_the_next():
    made = play([[1, 1], [1, 1], [1, 1]], 2, slow=(0, 0))
    assert made.done.index((0, 0)) > made.done.index((1, 0))
    assert made.ended == [0, 1, 2]


def test_the_first_failure_ends_it():
    class Broken(Play):
        async def act(self, batch: int, index: int) -> None:
            if (batch, index) == (1, 1):
                raise ZeroDivisionError
            await super().act(batch, index)

    async def run() -> None:
        await Broken([[1], [1, 1, 1], [1]]).run(1)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


# -- the engines

COUNT = 9


def slow_begin(real: Any) -> Any:
    """Files take different times to be begun, so that they overlap."""

    async def begin(self: LocalStore, path: str, token: str, **how: Any) -> Any:
        await asyncio.sleep(0.004 * (sum(path.encode()) % 3))
        return await real(self, path, token, **how)

    return begin


def run(there: Stage) -> None:
    options = json.loads((there.state / "options").read_text())
    kind = FileSyncOperator if options.pop("sync", False) else FileCopyOperator
    end = "" if kind is FileSyncOperator else "/"
    operator = kind(task_id="t", source=there.uri("in"), dest=there.uri("out") + end, concurrency=2, **options)
    with (
        patch.multiple(session, BATCH_SIZE=2, SAVE_EVERY=0.0),
        patch.object(LocalStore, "begin", slow_begin(LocalStore.begin)),
    ):
        result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def scenes(tmp_path: Path, options: dict[str, Any]) -> Any:
    numbers = iter(range(10_000))

    def make() -> Stage:
        there = stage("local", tmp_path / str(next(numbers)), None)
        for number in range(COUNT):
            there.disk.put(f"in/{number}", b"x" * number)
            os.utime(there.disk.path / f"in/{number}", (LONG_AGO, LONG_AGO))
        if options.get("sync"):
            for name in ("y", "z"):
                there.disk.put(f"out/{name}", b"extra")
        (there.state / "options").write_text(json.dumps(options))
        return there

    return make


def everything_in_its_place(there: Stage) -> None:
    options = json.loads((there.state / "options").read_text())
    names = [name for name in there.disk.names() if not name.startswith("out/.flowrunner-copied")]
    assert [name for name in names if name.startswith("out/")] == [f"out/{number}" for number in range(COUNT)]
    assert all(there.disk.get(f"out/{number}") == b"x" * number for number in range(COUNT))
    kept = [] if options.get("move") else [f"in/{number}" for number in range(COUNT)]
    assert [name for name in names if name.startswith("in/")] == kept
    result = json.loads((there.state / "result").read_text())
    assert result["copied" if options.get("sync") else "files"] == COUNT
    assert result["bytes"] == sum(range(COUNT))


WAYS = [
    {"move": True, "if_exists": "fail"},
    {"only_new": True, "if_exists": "fail"},
    {"sync": True, "delete_extra": True},
]


def here_and_there(point: str) -> bool:
    """Nightly everywhere."""
    return KILLS > 3 or point.endswith(("after_save", "before_ledger", "before_commit", "after_delete"))


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_killed_while_two_batches_are_open(tmp_path, options):
    make = scenes(tmp_path, options)
    random_kills(make, run, everything_in_its_place, count=KILLS)
    for hit in range(2, COUNT, 2 if KILLS <= 3 else 1):
        there = make()
        assert attempt(run, there, rules=[kill_at("files.copy.before_commit", hit)]).killed
        assert attempt(run, there, try_number=2).ok
        everything_in_its_place(there)
    if KILLS > 3:
        sweep(make, run, everything_in_its_place, at=here_and_there)


@pytest.mark.faults
def test_two_batches_are_in_the_record(tmp_path):
    opened = set()
    for hit in (2, 3, 4):
        there = scenes(tmp_path / str(hit), {})()
        assert attempt(run, there, rules=[kill_at("files.copy.before_commit", hit)]).killed
        records = [json.loads(path.read_text()) for path in (there.state / "same").glob("*.json")]
        (state,) = [record["value"]["state"] for record in records if record["key"].endswith("checkpoint.copy")]
        opened.add(len(state["batches"]))
    assert opened == {2}
