"""The waves of a plan: dealt evenly, published while the source is listed, and never changed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flowrunner_provider.core.errors import (
    ConfigError,
    Fenced,
    IntegrityError,
    NotFound,
    PathEscape,
    PermanentError,
    Unavailable,
)
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.shards import plan
from flowrunner_provider.files.shards.balance import FILE_COST, Balancer
from flowrunner_provider.files.shards.engine import finish, plan_is_complete, run_shard
from flowrunner_provider.files.shards.next_wave import Position, find_next
from flowrunner_provider.files.shards.plan import plan_shards
from flowrunner_provider.files.shards.plan_folder import PlanFolder, Summary, Wave
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.sync import plan as sync_plan
from tests.files.stage import LONG_AGO
from tests.files.test_sync import hashes

SHARDS = 2


def item(name: str, size: int | None = 0) -> Item:
    return Item(source=0, relative=name, size=size, modified=None, version="")


class Gated(LocalStore):
    """A store whose listing stops after so many files until the test goes on."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.listed, self.gate = most, 0, asyncio.Event()

    async def list(self, path: str, recursive: bool = False) -> AsyncIterator[Entry]:
        async for entry in super().list(path, recursive):
            if self.listed == self.most:
                await self.gate.wait()
            self.listed += 1
            yield entry


def listed_slowly(monkeypatch: Any) -> None:
    """In small steps, and copied early."""
    for name, value in (("EARLY", 10), ("_CHUNK", 5), ("BATCH_SIZE", 4)):
        monkeypatch.setattr(sync_plan, name, value)


class Bench:
    """Two folders of this machine, a plan, and the attempts at its tasks."""

    def __init__(self, root: Path, files: int) -> None:
        self.one, self.two, self.plans = root / "one", root / "two", root / "plans"
        for folder in (self.one, self.two, self.plans):
            folder.mkdir()
        self.more(0, files)
        self.states: dict[str, MemoryStore] = {}
        self.plan_folder = PlanFolder(LocalStore(), str(self.plans / "plan"))
        self.source: LocalStore = LocalStore()
        self.options = SyncOptions(delete_extra=True, concurrency=2)

    def more(self, start: int, end: int) -> None:
        for number in range(start, end):
            path = self.one / f"{number:04}"
            path.write_text(str(number))
            os.utime(path, (LONG_AGO, LONG_AGO))

    def run(self, task: str, **more: Any) -> Run:
        return Run.open(self.states.setdefault(task, MemoryStore()), ("dag", "run", task, "-1"), **more)

    @property
    def trees(self) -> Any:
        return (self.source, str(self.one)), (LocalStore(), str(self.two))

    async def plan(self, run: Run | None = None, *, wave_size: int = 10, plan_folder: PlanFolder | None = None) -> Any:
        return await plan_shards(
            *self.trees, run or self.run("plan"), self.options, shards=SHARDS, wave_size=wave_size, work="work",
            plan_folder=plan_folder or self.plan_folder, label="plan",
        )  # fmt: skip

    async def shard(self, number: int, state_of: Any = plan_is_complete, wait: Any = None, **more: Any) -> Any:
        run = self.run(f"shard-{number}", **more)
        how = {"shard": number, "work": "work", "plan_folder": self.plan_folder, "state_of": state_of, "wait": wait}
        return await run_shard(*self.trees, run, self.options, **how)

    async def finish(self) -> Any:
        parent = str(self.plans)
        return await finish(
            *self.trees, self.run("finish"), self.options, work="work", plan_folder=self.plan_folder, parent=parent
        )

    async def rest(self) -> list[Any]:
        """The shards, and the end, which finds nothing left to copy."""
        done = [await self.shard(number) for number in range(SHARDS)]
        assert (await self.finish()).late == 0
        assert hashes(self.one) == hashes(self.two)
        assert not self.plans.exists()
        return done

    def waves(self) -> list[list[str]]:
        """The names in each wave that is published."""
        found = sorted((self.plans / "plan").glob("*-*.jsonl"))
        return [[json.loads(line)[1] for line in path.read_text().splitlines()[1:]] for path in found]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, 35)


class TestDeal:
    def test_the_shares_are_equal_over_all_waves(self) -> None:
        balancer = Balancer(3)
        for wave in range(5):
            files = [(item(f"{wave}-{number}", number * 100_000), False) for number in range(7 + wave)]
            parts, lines = balancer.assign(files)
            assert [len(text) for text in lines] == [part.size for part in parts]
            assert sum(part.files for part in parts) == len(files)
            balancer.record(parts)
        costs = [cost for cost, _ in balancer._costs]
        assert max(costs) - min(costs) <= FILE_COST + 1_000_000
        assert balancer.files == sum(range(7, 12))
        assert balancer.size == sum(sum(range(7 + wave)) for wave in range(5)) * 100_000

    def test_what_is_dealt_counts_when_it_is_published(self) -> None:
        balancer = Balancer(2)
        assert balancer.assign([(item("a", 5), True)]) == balancer.assign([(item("a", 5), True)])
        assert (balancer.files, balancer.largest) == (0, 0)

    def test_files_of_unknown_size_come_last(self) -> None:
        _, (lines,) = Balancer(1).assign([(item("u", None), False), (item("s", 1), False), (item("b", 2), False)])
        assert [json.loads(line)[1] for line in lines.splitlines()] == ["b", "s", "u"]


class TestWaves:
    def test_the_first_is_copied_while_the_source_is_listed(self, bench: Bench, monkeypatch: Any) -> None:
        listed_slowly(monkeypatch)

        async def together() -> Any:
            gated = bench.source = Gated(25)
            planning = asyncio.create_task(bench.plan(wave_size=8))
            seen: list[tuple[int, bool]] = []

            async def state_of() -> str:
                return "success" if planning.done() else "running"

            async def wait(position: Position, state: str) -> None:
                seen.append((len(hashes(bench.two)), gated.listed < 35))
                if position.wave >= 2:
                    gated.gate.set()
                await asyncio.sleep(0.005)

            first = await bench.shard(0, state_of, wait)
            bench.source = LocalStore()
            return await planning, first, seen

        planned, first, seen = asyncio.run(together())
        assert any(copied >= 8 and listing for copied, listing in seen), seen
        assert planned.waves == first.waves == 5
        assert (planned.files, planned.listed) == (35, 35)
        assert asyncio.run(bench.rest())[0] == first

    def test_a_small_sync_is_one_wave(self, bench: Bench) -> None:
        assert asyncio.run(bench.plan(wave_size=35)).waves == 1
        assert len(list((bench.plans / "plan").iterdir())) == 3
        asyncio.run(bench.rest())

    def test_nothing_to_do_is_no_wave(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0)
        result = asyncio.run(bench.plan())
        assert (result.waves, result.files, result.copies) == (0, 0, [])
        assert [done.files for done in asyncio.run(bench.rest())] == [0, 0]

    @pytest.mark.parametrize(("limit", "value"), [("WAVE_SECONDS", 0.0), ("WAVE_BYTES", 5)])
    def test_a_wave_is_not_waited_for(self, bench: Bench, monkeypatch: Any, limit: str, value: float) -> None:
        """What is known when it is old, or large, is published while the listing goes on; not in small pieces then."""
        listed_slowly(monkeypatch)
        monkeypatch.setattr(plan, limit, value)
        real = PlanFolder.publish

        async def held() -> Any:
            gated = bench.source = Gated(15)

            async def publish(self: PlanFolder, *what: Any) -> bool:
                gated.gate.set()
                monkeypatch.setattr(plan, limit, 1e9)
                return await real(self, *what)

            monkeypatch.setattr(PlanFolder, "publish", publish)
            return await bench.plan(wave_size=1000)

        result = asyncio.run(held())
        assert (result.waves, result.files) == (2, 35)
        assert len(bench.waves()[0]) < 15
        bench.source = LocalStore()
        asyncio.run(bench.rest())

    def test_too_many_deletions_end_a_plan_that_has_begun(self, bench: Bench) -> None:
        for name in ("x", "y"):
            (bench.two / name).touch()
        bench.options = replace(bench.options, max_deletes=1)
        with pytest.raises(ConfigError, match="max_deletes is 1"):
            asyncio.run(bench.plan())
        assert list(bench.plans.iterdir()) == []
        with pytest.raises(PermanentError, match="the task of the plan is 'failed'"):
            asyncio.run(bench.shard(0, lambda: asyncio.sleep(0, "failed")))

    def test_a_wave_that_leads_elsewhere(self, bench: Bench) -> None:
        parts, lines = Balancer(SHARDS).assign([(item("../a", 5), False)])
        wave = Wave.of("g", 1, parts)

        async def forged() -> None:
            run = bench.run("plan")
            assert await bench.plan_folder.publish(wave, lines, run)
            how = {"generation": "g", "shards": SHARDS, "waves": 1, "chain": wave.chained("")}
            await bench.plan_folder.publish_summary(Summary(work="work", **how), run)
            await bench.shard(0)

        with pytest.raises(PathEscape):
            asyncio.run(forged())
        assert list(bench.two.iterdir()) == []

    def test_other_waves_than_were_planned(self, bench: Bench) -> None:
        asyncio.run(bench.plan())
        (told,) = (bench.plans / "plan").glob("*-end.json")
        told.write_text(told.read_text().replace('"chain": "', '"chain": "0'))
        with pytest.raises(IntegrityError, match="not those that were planned"):
            asyncio.run(bench.shard(0))


class TestGoingOn:
    """A plan whose attempt has ended in the middle."""

    def broken(self, bench: Bench, waves: int) -> None:
        """An attempt that ends after so many waves."""
        published: list[Wave] = []
        real = PlanFolder.publish

        async def publish(self: PlanFolder, wave: Wave, *more: Any) -> bool:
            if len(published) == waves:
                raise Unavailable("the store is away")
            published.append(wave)
            return await real(self, wave, *more)

        with patch.object(PlanFolder, "publish", publish), pytest.raises(Unavailable):
            asyncio.run(bench.plan())

    def test_what_is_published_stays_and_nothing_is_dealt_twice(self, bench: Bench) -> None:
        self.broken(bench, 2)
        before = bench.waves()
        assert [len(names) for names in before] == [10, 10]
        bench.more(35, 40)
        (bench.one / before[0][0]).unlink()
        result = asyncio.run(bench.plan())
        after = bench.waves()
        assert after[:2] == before
        names = [name for wave in after for name in wave]
        assert len(names) == len(set(names)) == 40
        assert (result.waves, result.files, result.listed) == (4, 40, 39)
        assert len(result.copies) == 10
        assert sum(done.copied for done in asyncio.run(bench.rest())) == 39

    def test_a_complete_plan_is_not_made_again(self, bench: Bench) -> None:
        first = asyncio.run(bench.plan())
        bench.more(35, 40)
        assert asyncio.run(bench.plan()) == first

    def test_a_plan_made_afresh_has_another_generation(self, bench: Bench) -> None:
        async def waited(*_: Any) -> None:
            raise Unavailable("enough")

        self.broken(bench, 2)
        with pytest.raises(Unavailable, match="enough"):
            asyncio.run(bench.shard(0, lambda: asyncio.sleep(0, "running"), waited))
        copied = set(hashes(bench.two))
        assert len(copied) == 10
        result = asyncio.run(bench.plan(bench.run("plan", resume=False)))
        assert (result.files, result.waves) == (25, 3)
        assert len(list((bench.plans / "plan").glob("*.jsonl"))) == 2 + 3
        assert sum(done.files for done in asyncio.run(bench.rest())) == 25

    def test_a_shard_that_has_begun_a_wave_ends_it_before_another_generation(self, bench: Bench) -> None:
        """So that nothing of it is left half done."""
        self.broken(bench, 1)
        away = patch("flowrunner_provider.files.shards.engine.sync", side_effect=Unavailable("away"))
        with away, pytest.raises(Unavailable):
            asyncio.run(bench.shard(0, lambda: asyncio.sleep(0, "running")))
        asyncio.run(bench.plan(bench.run("plan", resume=False)))
        assert len(list((bench.plans / "plan").glob("*.jsonl"))) == 1 + 4
        done = asyncio.run(bench.rest())
        assert (done[0].waves, sum(shard.files for shard in done)) == (4, 35)

    def test_of_two_attempts_the_first_to_publish_a_number_has_it(self, bench: Bench) -> None:
        """The older one is fenced where it looks; where it was faster its wave is a fact."""
        self.broken(bench, 1)
        names = sorted(set(hashes(bench.one)) - set(bench.waves()[0]))[-2:]
        real, stolen = PlanFolder.publish, []

        async def publish(self: PlanFolder, wave: Wave, lines: Any, run: Run) -> bool:
            if wave.number == 2 and not stolen:
                files = [(Item.of(0, name, await LocalStore().stat(f"{bench.one}/{name}")), False) for name in names]
                parts, theirs = Balancer(SHARDS).assign(files)
                stolen.append(await real(self, Wave.of(wave.generation, 2, parts), theirs, run))
            return await real(self, wave, lines, run)

        with patch.object(PlanFolder, "publish", publish):
            result = asyncio.run(bench.plan())
        assert (stolen, sorted(bench.waves()[1])) == ([True], names)
        assert sorted(name for wave in bench.waves() for name in wave) == sorted(hashes(bench.one))
        assert (result.files, result.waves) == (35, 5)
        asyncio.run(bench.rest())

    def test_an_attempt_that_was_taken_for_dead_publishes_nothing(self, bench: Bench) -> None:
        zombie = bench.run("plan")
        bench.run("plan")
        with pytest.raises(Fenced):
            asyncio.run(bench.plan(zombie))
        assert bench.waves() == []


class TestLook:
    def test_the_end_is_believed_of_a_plan_that_has_succeeded(self, bench: Bench) -> None:
        asyncio.run(bench.plan())
        told = asyncio.run(bench.plan_folder.summary())
        assert told is not None
        end = Position(generation=told.generation, wave=4, chain=told.chain)

        def seen(position: Position, state: str) -> Any:
            return asyncio.run(find_next(bench.plan_folder, "work", position, state))

        assert seen(end, "running").must_wait
        assert seen(end, "success").end == told
        assert seen(Position(), "running").wave.number == 1
        for state in ("", "queued", "up_for_retry"):
            assert seen(Position(), state).must_wait
        with pytest.raises(ConfigError, match="another source"):
            asyncio.run(find_next(bench.plan_folder, "other work", Position(), "success"))
        assert asyncio.run(find_next(bench.plan_folder, "other work", Position(), "running")).must_wait

    def test_no_plan(self, bench: Bench) -> None:
        assert asyncio.run(find_next(bench.plan_folder, "work", Position(), "running")).must_wait
        with pytest.raises(NotFound, match=r"no (complete )?plan"):
            asyncio.run(find_next(bench.plan_folder, "work", Position(), "success"))

    def test_a_store_that_shows_what_is_being_written_is_looked_at_afterwards(self, bench: Bench) -> None:
        asyncio.run(bench.plan())
        bench.plan_folder.store.capabilities = replace(bench.plan_folder.store.capabilities, visible_partials=True)
        assert asyncio.run(find_next(bench.plan_folder, "work", Position(), "running")).must_wait
        assert asyncio.run(find_next(bench.plan_folder, "work", Position(), "success")).wave is not None
