"""Shards that copy while the plan is still being made: its waves, who waits for whom, and what is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferralTimeout, TaskDeferred

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
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
from flowrunner_provider.files import books
from flowrunner_provider.files.operators import FileSyncShardOperator
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.shards import patience, plan
from flowrunner_provider.files.shards.book import Book, Summary, Wave
from flowrunner_provider.files.shards.deal import FILE_COST, Deal
from flowrunner_provider.files.shards.look import Place, look
from flowrunner_provider.files.shards.plan import plan_shards
from flowrunner_provider.files.shards.run import finish, planned_before, run_shard
from flowrunner_provider.files.shards.triggers import WaveTrigger
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.sync import plan as sync_plan
from tests.files.far import Disk
from tests.files.stage import KILLS, LONG_AGO
from tests.files.test_shards import CHUNK, Sharded, sharded
from tests.files.test_sync import hashes
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import attempt, kill_at, sweep

SHARDS = 2
STATE = "flowrunner_provider.runtime.task_state.task_state"
Files = list[tuple[Item, bool]]


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


class Bench:
    """Two folders of this machine, a plan, and the attempts at its tasks."""

    def __init__(self, root: Path, files: int) -> None:
        self.one, self.two, self.plans = root / "one", root / "two", root / "plans"
        for folder in (self.one, self.two, self.plans):
            folder.mkdir()
        self.more(0, files)
        self.states: dict[str, MemoryStore] = {}
        self.book = Book(LocalStore(), str(self.plans / "plan"))
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

    async def plan(self, run: Run | None = None, *, wave_size: int = 10, book: Book | None = None) -> Any:
        return await plan_shards(
            *self.trees, run or self.run("plan"), self.options, shards=SHARDS, wave_size=wave_size, work="work",
            book=book or self.book, label="plan",
        )  # fmt: skip

    async def shard(self, number: int, state_of: Any = planned_before, wait: Any = None, **more: Any) -> Any:
        run = self.run(f"shard-{number}", **more)
        how = {"shard": number, "work": "work", "book": self.book, "state_of": state_of, "wait": wait}
        return await run_shard(*self.trees, run, self.options, **how)

    async def finish(self) -> Any:
        parent = str(self.plans)
        return await finish(*self.trees, self.run("finish"), self.options, work="work", book=self.book, parent=parent)

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
        deal = Deal(3)
        for wave in range(5):
            files = [(item(f"{wave}-{number}", number * 100_000), False) for number in range(7 + wave)]
            parts, lines = deal.out(files)
            assert [len(text) for text in lines] == [part.size for part in parts]
            assert sum(part.files for part in parts) == len(files)
            deal.count(parts)
        costs = [cost for cost, _ in deal._least]
        assert max(costs) - min(costs) <= FILE_COST + 1_000_000
        assert deal.files == sum(range(7, 12))
        assert deal.size == sum(sum(range(7 + wave)) for wave in range(5)) * 100_000

    def test_what_is_dealt_counts_when_it_is_published(self) -> None:
        deal = Deal(2)
        assert deal.out([(item("a", 5), True)]) == deal.out([(item("a", 5), True)])
        assert (deal.files, deal.largest) == (0, 0)

    def test_files_of_unknown_size_come_last(self) -> None:
        _, (lines,) = Deal(1).out([(item("u", None), False), (item("s", 1), False), (item("b", 2), False)])
        assert [json.loads(line)[1] for line in lines.splitlines()] == ["b", "s", "u"]


class TestWaves:
    def test_the_first_is_copied_while_the_source_is_listed(self, bench: Bench, monkeypatch: Any) -> None:
        monkeypatch.setattr(sync_plan, "EARLY", 10)
        monkeypatch.setattr(sync_plan, "_CHUNK", 5)
        monkeypatch.setattr(sync_plan, "BATCH", 4)

        async def together() -> Any:
            gated = bench.source = Gated(25)
            planning = asyncio.create_task(bench.plan(wave_size=8))
            seen: list[tuple[int, bool]] = []

            async def state_of() -> str:
                return "success" if planning.done() else "running"

            async def wait(place: Place, state: str) -> None:
                seen.append((len(hashes(bench.two)), gated.listed < 35))
                if place.wave >= 2:
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
        assert len(list((bench.plans / "plan").iterdir())) == 2
        asyncio.run(bench.rest())

    def test_nothing_to_do_is_no_wave(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0)
        result = asyncio.run(bench.plan())
        assert (result.waves, result.files, result.copies) == (0, 0, [])
        assert [done.files for done in asyncio.run(bench.rest())] == [0, 0]

    def test_a_wave_that_waits_too_long_is_published_as_it_is(self, bench: Bench, monkeypatch: Any) -> None:
        monkeypatch.setattr(plan, "WAVE_SECONDS", 0.0)
        monkeypatch.setattr(sync_plan, "BATCH", 10)
        assert asyncio.run(bench.plan(wave_size=1000)).waves == 4
        asyncio.run(bench.rest())

    def test_a_wave_of_many_bytes_is_published_as_it_is(self, bench: Bench, monkeypatch: Any) -> None:
        monkeypatch.setattr(plan, "WAVE_BYTES", 20)
        monkeypatch.setattr(sync_plan, "BATCH", 10)
        assert asyncio.run(bench.plan(wave_size=1000)).waves == 2
        asyncio.run(bench.rest())

    def test_too_many_deletions_end_a_plan_that_has_begun(self, bench: Bench) -> None:
        for name in ("x", "y"):
            (bench.two / name).touch()
        bench.options = replace(bench.options, max_deletes=1)
        with pytest.raises(ConfigError, match="max_deletes is 1"):
            asyncio.run(bench.plan())
        assert bench.waves() == []
        with pytest.raises(PermanentError, match="the task of the plan is 'failed'"):
            asyncio.run(bench.shard(0, lambda: asyncio.sleep(0, "failed")))

    def test_a_wave_that_leads_elsewhere(self, bench: Bench) -> None:
        parts, lines = Deal(SHARDS).out([(item("../a", 5), False)])
        wave = Wave.of("g", 1, parts)

        async def forged() -> None:
            run = bench.run("plan")
            assert await bench.book.publish(wave, lines, run)
            how = {"generation": "g", "shards": SHARDS, "waves": 1, "chain": wave.chained("")}
            await bench.book.tell(Summary(work="work", **how), run)
            await bench.shard(0)

        with pytest.raises(PathEscape):
            asyncio.run(forged())
        assert list(bench.two.iterdir()) == []

    def test_other_waves_than_were_planned(self, bench: Bench) -> None:
        asyncio.run(bench.plan())
        told = bench.plans / "plan/plan.json"
        told.write_text(told.read_text().replace('"chain": "', '"chain": "0'))
        with pytest.raises(IntegrityError, match="not those that were planned"):
            asyncio.run(bench.shard(0))


class TestGoingOn:
    """A plan whose attempt has ended in the middle."""

    def broken(self, bench: Bench, waves: int) -> None:
        """An attempt that ends after so many waves."""
        published: list[Wave] = []
        real = Book.publish

        async def publish(self: Book, wave: Wave, *more: Any) -> bool:
            if len(published) == waves:
                raise Unavailable("the store is away")
            published.append(wave)
            return await real(self, wave, *more)

        with patch.object(Book, "publish", publish), pytest.raises(Unavailable):
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
        away = patch("flowrunner_provider.files.shards.run.sync", side_effect=Unavailable("away"))
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
        real, stolen = Book.publish, []

        async def publish(self: Book, wave: Wave, lines: Any, run: Run) -> bool:
            if wave.number == 2 and not stolen:
                files = [(Item.of(0, name, await LocalStore().stat(f"{bench.one}/{name}")), False) for name in names]
                parts, theirs = Deal(SHARDS).out(files)
                stolen.append(await real(self, Wave.of(wave.generation, 2, parts), theirs, run))
            return await real(self, wave, lines, run)

        with patch.object(Book, "publish", publish):
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
        told = asyncio.run(bench.book.summary())
        assert told is not None
        end = Place(generation=told.generation, wave=4, chain=told.chain)

        def seen(place: Place, state: str) -> Any:
            return asyncio.run(look(bench.book, "work", place, state))

        assert seen(end, "running").nothing
        assert seen(end, "success").end == told
        assert seen(Place(), "running").wave.number == 1
        for state in ("", "queued", "up_for_retry"):
            assert seen(Place(), state).nothing
        with pytest.raises(ConfigError, match="another source"):
            asyncio.run(look(bench.book, "other work", Place(), "success"))
        assert asyncio.run(look(bench.book, "other work", Place(), "running")).nothing

    def test_no_plan(self, bench: Bench) -> None:
        assert asyncio.run(look(bench.book, "work", Place(), "running")).nothing
        with pytest.raises(NotFound, match="no plan"):
            asyncio.run(look(bench.book, "work", Place(), "success"))

    def test_a_store_that_shows_what_is_being_written_is_looked_at_afterwards(self, bench: Bench) -> None:
        asyncio.run(bench.plan())
        bench.book.store.capabilities = replace(bench.book.store.capabilities, visible_partials=True)
        assert asyncio.run(look(bench.book, "work", Place(), "running")).nothing
        assert asyncio.run(look(bench.book, "work", Place(), "success")).wave is not None


# -- the tasks as Airflow runs them


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Sharded]:
    scene = sharded("local", tmp_path, None)
    for number in range(6):
        scene.put("one", f"{number}", "x")
    with patch.object(patience, "IN_PLACE", 0.0):
        yield scene


def begin(scene: Any, number: int, states: list[str], **more: Any) -> Any:
    """Shard ``number`` beside a plan that is in these states, one look after the other."""
    answers = iter(states)

    async def task_state(dag_id: str, run_id: str, task_id: str) -> str:
        assert (run_id, task_id) == (scene.run_id, "plan")
        return next(answers)

    with patch(STATE, task_state):
        return scene.shard(number, plan_task="plan", **more)


class TestWaiting:
    def test_before_the_plan_and_beside_it_the_slot_is_given_up(self, local: Sharded) -> None:
        for state in ("", "queued", "up_for_retry", "running"):
            with pytest.raises(AirflowRescheduleException) as caught:
                begin(local, 0, [state], poll_interval="40s")
            wait = caught.value.reschedule_date - SYSTEM_CLOCK.now()
            assert timedelta(seconds=30) < wait <= timedelta(seconds=40)
        local.plan(wave_size=2)
        with pytest.raises(AirflowRescheduleException):
            begin(local, 0, ["running"] * 4)
        assert len(local.trees()[1]) == 3 + 4  # its files; the plan and three waves
        assert begin(local, 0, ["success"])["copied"] == 3
        assert begin(local, 1, ["success"] * 4)["copied"] == 3
        assert local.finish()["late"] == 0

    def test_a_moment_is_waited_for_on_the_worker(self, local: Sharded) -> None:
        local.plan()
        with patch.object(patience, "IN_PLACE", 60.0), patch.object(patience, "_POKE", 0.01):
            assert begin(local, 0, ["running"] * 5 + ["success"])["copied"] == 3
            with pytest.raises(AirflowRescheduleException):
                begin(local, 1, ["queued"])

    @pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped", "removed"])
    def test_a_plan_that_failed(self, local: Sharded, state: str) -> None:
        with pytest.raises(PermanentError, match=f"the plan is '{state}'") as caught:
            begin(local, 0, [state])
        assert "clear" in caught.value.remedy

    def test_not_for_ever(self, local: Sharded) -> None:
        with pytest.raises(AirflowRescheduleException):
            begin(local, 0, ["running"], plan_timeout="10m")
        later = SYSTEM_CLOCK.now() + timedelta(minutes=11)
        after = patch.object(type(SYSTEM_CLOCK), "now", lambda self: later)
        with after, pytest.raises(PermanentError, match="no further files for 0:10:00"):
            begin(local, 0, ["running"], plan_timeout="10m")

    def test_without_resuming_a_wait_is_no_new_beginning(self, local: Sharded) -> None:
        local.plan(wave_size=2)
        task = local.task(FileSyncShardOperator, shard=0, plan_task="plan", resume=False)
        assert task.resume is False
        context = make_context(task, state=local.one.state / "waited", run_id=local.run_id, task_reschedule_count=1)
        with patch(STATE, side_effect=["running"] * 4), pytest.raises(AirflowRescheduleException):
            execute(task, context)
        assert task.resume is True


def remote(tmp_path: Path, sshd: Any) -> Sharded:
    scene = sharded("up", tmp_path, sshd)
    for number in range(6):
        scene.put("one", f"{number}", "x")
    return scene


class TestDeferral:
    def deferred(self, scene: Sharded, states: list[str], **more: Any) -> TaskDeferred:
        with patch.object(patience, "IN_PLACE", 0.0), pytest.raises(TaskDeferred) as caught:
            begin(scene, 0, states, deferrable=True, **more)
        return caught.value

    def test_the_triggerer_looks_while_the_plan_runs(self, tmp_path: Path, sshd: Any) -> None:
        scene = remote(tmp_path, sshd)
        with patch.object(patience, "IN_PLACE", 0.0), pytest.raises(AirflowRescheduleException):
            begin(scene, 0, ["queued"], deferrable=True)  # a deferred task may hold the slot that the plan needs
        trigger = self.deferred(scene, ["running"]).trigger
        kind, arguments = trigger.serialize()
        assert kind == "flowrunner_provider.files.shards.triggers.WaveTrigger"
        trigger = WaveTrigger(**json.loads(json.dumps(arguments)))

        def observed(state: str) -> Any:
            async def task_state(*_: str) -> str:
                return state

            with patch("flowrunner_provider.files.shards.triggers.task_state", task_state):
                return asyncio.run(trigger.observe())

        assert observed("running") is None
        scene.plan(wave_size=2)
        assert observed("running") == {"plan": "running", "wave": 1}
        for state in ("success", "failed", "up_for_retry"):
            assert observed(state) == {"plan": state}
        assert self.deferred(scene, ["running"] * 4).method_name == "execute_complete"
        trigger.generation, trigger.wave = self.deferred(scene, ["running"]).trigger.generation, 3
        assert observed("running") is None

    def test_it_goes_on_where_it_was(self, tmp_path: Path, sshd: Any) -> None:
        scene = remote(tmp_path, sshd)
        scene.plan(wave_size=2)
        self.deferred(scene, ["running"] * 4)
        task = scene.task(FileSyncShardOperator, shard=0, plan_task="plan", deferrable=True)
        state = scene.one.state / f"{scene.run_id}-FileSyncShardOperator0"
        context = make_context(task, state=state, run_id=scene.run_id, map_index=0)
        with patch(STATE, side_effect=["success"]):
            done = execute(task, context, "execute_complete", event={"status": "done", "result": {}})
        assert (done["copied"], done["waves"]) == (3, 3)

    def test_a_wait_that_took_too_long(self, tmp_path: Path, sshd: Any) -> None:
        scene = remote(tmp_path, sshd)
        task = scene.task(FileSyncShardOperator, shard=0, plan_task="plan", plan_timeout="0.001s")
        context = make_context(task, state=FileStateStore(tmp_path / "s"), run_id=scene.run_id)
        with patch(STATE, side_effect=["running"] * 2), patch.object(patience, "IN_PLACE", 0.0):
            with pytest.raises(AirflowRescheduleException):
                execute(task, context)
            with (
                patch("airflow.sdk.BaseOperator.resume_execution", side_effect=TaskDeferralTimeout),
                pytest.raises(PermanentError, match="no further files"),
            ):
                task.resume_execution("execute_complete", {}, context)


# -- killed while the others go on


def planning(scene: Sharded) -> Any:
    with patch.multiple(books, SAVE_EVERY=0.0, BATCH=2):
        return scene.plan(wave_size=2, delete_extra=True)


def copying(scene: Sharded) -> Any:
    """A shard whose plan is ahead of it by then."""
    with patch.multiple(books, SAVE_EVERY=0.0, BATCH=2):
        return begin(scene, 0, ["success"] * 9, concurrency=1, delete_extra=True)


def side_by_side(tmp_path: Path) -> Any:
    numbers = iter(range(10_000))

    def make() -> Sharded:
        scene = sharded("local", tmp_path / str(next(numbers)), None)
        disk: Disk = scene.one.disk
        for number in range(6):
            disk.put(f"one/{number}", os.urandom(CHUNK // 8 if number else CHUNK + 7))
            os.utime(disk.path / f"one/{number}", (LONG_AGO, LONG_AGO))
        scene.put("two", "extra", "x")
        return scene

    return make


def ended(scene: Sharded) -> None:
    done = [scene.shard(number, delete_extra=True) for number in range(SHARDS)]
    assert sum(shard["copied"] for shard in done) == 6
    assert scene.finish(delete_extra=True)["late"] == 0
    assert scene.trees()[0] == scene.trees()[1]
    assert list((scene.two.disk.path / "two").glob("**/.*")) == []


PLACES = [
    ("files.sync_plan.after_wave", 1),
    ("files.write.after_commit", 2),
    *((f"files.{place}", waves) for place in ("sync_plan.after_wave", "write.after_commit") for waves in (3, 1, 2)),
]


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("point", "waves"), PLACES if KILLS > 3 else PLACES[:2])
def test_a_plan_is_killed_while_the_shards_are_as_far_as_it(tmp_path: Path, point: str, waves: int) -> None:
    """Nothing is lost, nothing copied twice: not by the shards, nor by the end."""
    scene = side_by_side(tmp_path)()
    hit = waves + (point != "files.sync_plan.after_wave")  # what is written first says that there is a plan
    assert attempt(planning, scene, rules=[kill_at(point, hit)]).killed
    with patch.object(patience, "IN_PLACE", 0.0):
        for number in range(SHARDS):
            for states in (["running"] * (waves + 1), ["up_for_retry"]):
                with pytest.raises(AirflowRescheduleException):
                    begin(scene, number, states, delete_extra=True)
    planning(scene)
    ended(scene)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_shard_is_killed_anywhere_between_its_waves(tmp_path: Path) -> None:
    make = side_by_side(tmp_path)

    def planned() -> Sharded:
        scene = make()
        planning(scene)
        return scene

    own = None if KILLS > 3 else (lambda point: "sync_shard" in point or "checkpoint.shard" in point)
    more = {} if own is None else {"at": own}
    assert sweep(planned, copying, ended, **more).kills >= 10
