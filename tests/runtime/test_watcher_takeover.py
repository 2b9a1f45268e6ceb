"""A triggerer that was frozen while another one took its watcher over: nothing is lost, nothing has two ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from flowrunner_provider.core.errors import Json
from flowrunner_provider.runtime import watcher as module
from flowrunner_provider.runtime.watcher import FlowRunnerWatcher, Seen


class Frozen:
    """Freezes one of two watchers at its n-th step."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0
        self.reached, self.thawed = asyncio.Event(), asyncio.Event()

    async def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.reached.set()
            await self.thawed.wait()


class Far:
    """A number that grows by two with each look, up to a limit."""

    number, limit = 0, 12


class Growing(FlowRunnerWatcher):
    """Tells ranges; where one ends depends on when it was looked."""

    settle = 0.0
    frozen: Frozen | None = None

    async def step(self) -> None:
        if self.frozen:
            await self.frozen.step()
        await asyncio.sleep(0)

    async def poll(self, cursor: Json) -> Seen:
        await self.step()
        Far.number = min(Far.number + 2, Far.limit)
        done, until = int(str(cursor or 0)), Far.number
        await self.step()
        places = [*range(done, until, 3), until] if done < until else []
        return Seen(events=tuple({"id": f"{a}-{b}", "range": [a, b]} for a, b in pairwise(places)), cursor=until)


class Accessor:
    """What one watcher sees of the asset's state store."""

    def __init__(self, kept: dict[str, Any], step: Callable[[], Any]) -> None:
        self.kept, self.step = kept, step

    async def aget(self, key: str) -> Any:
        await self.step()
        value = self.kept.get(key)
        await self.step()
        return value

    async def aset(self, key: str, value: Any) -> None:
        await self.step()
        self.kept[key] = value
        await self.step()


class Triggerer:
    """Runs a watcher and hands its events over."""

    def __init__(self, kept: dict[str, Any], told: list[list[int]], frozen: Frozen | None = None) -> None:
        self.watcher, self.told = Growing(poll_interval=0.0), told
        self.watcher.frozen = frozen
        self.watcher.asset_state_store = Accessor(kept, self.watcher.step)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for event in self.watcher.run():
            self.told.append(event.payload["range"])
            await self.watcher.step()

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await asyncio.sleep(0)


def settled(kept: dict[str, Any], number: int) -> bool:
    records = [record for record in kept.values() if "owner" not in record]
    return any(record["cursor"] == number for record in records)


def each_thing_is_in_one_range(told: list[list[int]], number: int) -> None:
    once = sorted({tuple(one) for one in told})
    assert [start for start, _ in once] == [0, *(end for _, end in once[:-1])]
    assert once[-1][1] == number


async def frozen_and_woken(at: int, takeovers: int, *, alone: bool) -> bool:
    """
    :param alone: whether the one that took over has died when the frozen one wakes.
    :return: whether the watcher came to step ``at`` at all.
    """
    Far.number, Far.limit = 0, 12
    kept: dict[str, Any] = {}
    told: list[list[int]] = []
    frozen = Frozen(at)
    zombie = Triggerer(kept, told, frozen)
    await until(lambda: frozen.reached.is_set() or settled(kept, 12))
    if not frozen.reached.is_set():
        await zombie.kill()
        return False
    for limit in range(20, 20 + takeovers):
        other = Triggerer(kept, told)
        Far.limit = limit
        await until(lambda limit=limit: settled(kept, limit))
        if alone or limit < 19 + takeovers:
            await other.kill()
    Far.limit = 30
    frozen.thawed.set()
    if alone:
        await until(lambda: settled(kept, 30) or zombie.task.done())
    else:
        await until(lambda: settled(kept, 30) and (zombie.task.done() or other.task.done()))
        assert zombie.task.done() != other.task.done()
        each_thing_is_in_one_range(told, 30)
        await other.kill()
    await zombie.kill()
    Far.limit = 32
    last = Triggerer(kept, told)
    await until(lambda: settled(kept, 32))
    each_thing_is_in_one_range(told, 32)
    await last.kill()
    return True


@pytest.mark.parametrize(("takeovers", "alone"), [(1, False), (2, False), (1, True)])
def test_frozen_at_any_step_it_ends_when_it_wakes(takeovers: int, alone: bool) -> None:
    steps = 0
    while asyncio.run(asyncio.wait_for(frozen_and_woken(steps + 1, takeovers, alone=alone), 20)):
        steps += 1
    assert steps > 60


def test_the_one_that_ends_leaves_the_other_one_the_time_for_a_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Airflow starts it again at once if it is wanted here: two that both are wanted must not stop each other."""
    pauses: list[float] = []

    async def apause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    async def two() -> None:
        Far.number, Far.limit = 0, 4
        kept: dict[str, Any] = {}
        told: list[list[int]] = []
        first = Triggerer(kept, told)
        first.watcher.poll_interval = 77.0
        await until(lambda: settled(kept, 4))
        second = Triggerer(kept, told)
        await until(lambda: any(record.get("epoch") == 2 for record in kept.values()))
        Far.limit = 8
        await until(lambda: first.task.done() and settled(kept, 8))
        each_thing_is_in_one_range(told, 8)
        await second.kill()

    monkeypatch.setattr(module, "apause", apause)
    asyncio.run(asyncio.wait_for(two(), 20))
    assert 77.0 in pauses
    assert "Another triggerer has taken over" in capsys.readouterr().out


@pytest.mark.parametrize(
    "record", [{"cursor": 4}, {"cursor": None, "open": {"events": [{"id": "2-4", "range": [2, 4]}], "cursor": 4}}]
)
def test_what_earlier_versions_kept_is_read(record: dict[str, Any]) -> None:
    async def watch() -> list[list[int]]:
        Far.number, Far.limit = 0, 8
        kept: dict[str, Any] = {}
        first = Triggerer(kept, [])
        await until(lambda: bool(kept))
        await first.kill()
        key = min(kept).removesuffix(".owner")
        kept.clear()
        kept[key] = record
        told: list[list[int]] = []
        Far.number = 4
        triggerer = Triggerer(kept, told)
        await until(lambda: settled(kept, 8))
        await triggerer.kill()
        return told

    told = asyncio.run(asyncio.wait_for(watch(), 20))
    assert told[0] == ([2, 4] if "open" in record else [4, 6])
    assert sorted({tuple(one) for one in told})[-1][1] == 8


def test_a_deleted_owner_does_not_bring_an_old_record_back() -> None:
    async def watch() -> list[list[int]]:
        Far.number, Far.limit = 0, 6
        kept: dict[str, Any] = {}
        told: list[list[int]] = []
        for limit in (6, 8, 10, 12):
            Far.limit = limit
            triggerer = Triggerer(kept, told)
            await until(lambda limit=limit: settled(kept, limit))
            await triggerer.kill()
            del kept[next(key for key in kept if key.endswith(".owner"))]
        return told

    told = asyncio.run(asyncio.wait_for(watch(), 20))
    each_thing_is_in_one_range(told, 12)
    assert len({tuple(one) for one in told}) == len(told)
