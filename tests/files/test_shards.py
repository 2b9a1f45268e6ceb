"""A sync in shards: planned evenly, killed anywhere, and against what files.sync would have made."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk import DAG

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, IntegrityError, NotFound
from flowrunner_provider.files import session
from flowrunner_provider.files.operators import FileSyncFinishOperator, FileSyncPlanOperator, FileSyncShardOperator
from flowrunner_provider.files.shards import balance
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.task_groups import sync_task_group
from tests.files.stage import KILLS, LONG_AGO, stage
from tests.files.test_sync import OLD, Pair, hashes
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, random_kills, sweep

SHARDS = 2


class Sharded(Pair):
    """Two folders, and the tasks that make one like the other."""

    run_id = "run"

    def task(self, kind: type[Any], **options: Any) -> Any:
        more = {**self.options, **options}
        for name in ("backup_dir", "plan_path"):
            if more.get(name):
                more[name] = self.two.uri(more[name])
        return kind(task_id=kind.__name__, source=self.one.uri("one"), dest=self.two.uri("two"), **more)

    def act(self, kind: type[Any], *, map_index: int = -1, **options: Any) -> dict[str, Any]:
        task = self.task(kind, **options)
        state = self.one.state / f"{self.run_id}-{kind.__name__}{map_index}"
        context = make_context(task, state=state, run_id=self.run_id, map_index=map_index)
        result: dict[str, Any] = execute(task, context)
        return result

    def plan(self, shards: int = SHARDS, **options: Any) -> dict[str, Any]:
        return self.act(FileSyncPlanOperator, shards=shards, **options)

    def shard(self, number: int, **options: Any) -> dict[str, Any]:
        result = self.act(FileSyncShardOperator, map_index=number, shard=number, **options)
        assert result["files"] == result["copied"] + result["unchanged"]
        return result

    def finish(self, **options: Any) -> dict[str, Any]:
        return self.act(FileSyncFinishOperator, **options)

    def all(self, shards: int = SHARDS, **options: Any) -> dict[str, Any]:
        """Every task in turn."""
        self.plan(shards, **options)
        for number in range(shards):
            self.shard(number, **options)
        return self.finish(**options)

    def again(self) -> None:
        """The next run of the DAG."""
        self.run_id += "'"


def sharded(way: str, tmp_path: Path, server: Any, **options: Any) -> Sharded:
    kinds = {"local": ("local", "local"), "up": ("local", "sftp"), "down": ("sftp", "local")}[way]
    one, two = (stage(kind, tmp_path / str(number), server) for number, kind in enumerate(kinds))
    return Sharded(one, two, options)


@pytest.fixture(params=["up", "down"])
def both(request, tmp_path, sshd) -> Sharded:
    return sharded(request.param, tmp_path, sshd)


@pytest.fixture
def local(tmp_path) -> Sharded:
    return sharded("local", tmp_path, None)


def test_made_like_the_source_and_then_left_alone(both):
    for name in ("a", "b c", "d/e", "d/f/g", "ü", ".h"):
        both.put("one", name, name * 3)
    both.put("two", "extra", "x")
    both.put("two", "d/e", "old")
    result = both.all(delete_extra=True)
    assert (result["listed"], result["planned"], result["late"], result["deleted"]) == (6, 6, 0, 1)
    one, two = both.trees()
    assert one == two
    both.again()
    both.put("one", "a", "A", LONG_AGO + 60)
    assert both.plan()["copies"] == ["a"]
    assert [both.shard(number)["copied"] for number in range(SHARDS)] == [1, 0]
    assert both.finish()["planned_bytes"] == 1
    assert both.trees()[0] == both.trees()[1]
    assert not (both.two.disk.path / "two/.flowrunner").exists()


def test_the_shards_are_even_and_hold_each_file_once(local, monkeypatch):
    monkeypatch.setattr(balance, "FILE_COST", 10)
    sizes = [1000, 700, 300, 300, *[1] * 200]
    for number, size in enumerate(sizes):
        local.put("one", f"{number:03}", "x" * size)
    result = local.plan(3)
    (wave,) = Path(result["plan"]).glob("*-000001.jsonl")
    head, *lines = map(json.loads, wave.read_text().splitlines())
    counts = [part[0] for part in head["parts"]]
    rows = [lines[sum(counts[:n]) : sum(counts[: n + 1])] for n in range(3)]
    costs = [sum(row[2] + 10 for row in shard) for shard in rows]
    assert max(costs) - min(costs) <= 11
    assert sorted(row[1] for shard in rows for row in shard) == sorted(f"{n:03}" for n in range(len(sizes)))
    assert sum(counts) == len(lines)
    assert (result["waves"], result["files"], result["bytes"]) == (1, len(sizes), sum(sizes))
    assert result["largest"] == max(part[1] for part in head["parts"])


def test_more_shards_than_files(local):
    local.put("one", "a", "a")
    assert local.all(5)["planned"] == 1
    assert local.trees()[0] == local.trees()[1]


@pytest.mark.parametrize("compare", ["checksum", "name"])
def test_what_counts_as_changed(both, compare):
    for name, text in (("bytes", "z"), ("same", "s"), ("new", "n")):
        both.put("one", name, text)
    for name, text in (("bytes", "Z"), ("same", "s")):
        both.put("two", name, text, OLD)
    both.plan(compare=compare)
    copied = sum(both.shard(number, compare=compare)["copied"] for number in range(SHARDS))
    assert copied == {"checksum": 2, "name": 1}[compare]
    assert both.finish(compare=compare)["late"] == 0
    assert (both.two.disk.path / "two/bytes").read_text() == {"checksum": "z", "name": "Z"}[compare]


def test_what_changes_after_the_plan_is_copied_as_it_is(both):
    for name in ("a", "b", "c", "d"):
        both.put("one", name, name)
    both.plan()
    both.put("one", "a", "another a", LONG_AGO + 5)
    both.put("one", "e", "late")
    (both.one.disk.path / "one/b").unlink()
    results = [both.shard(number) for number in range(SHARDS)]
    assert sum(result["copied"] for result in results) == 3
    both.put("one", "c", "C", LONG_AGO + 5)
    assert both.finish()["late"] == 2
    assert both.trees()[0] == both.trees()[1]


def test_a_plan_in_another_place_and_a_backup(both):
    both.put("one", "a", "new")
    both.put("two", "a", "old", OLD)
    both.put("two", "extra", "x")
    how = {"plan_path": "plans", "backup_dir": "backup"}
    assert both.plan(**how)["plan"].startswith(both.two.uri("plans/"))
    assert not (both.two.disk.path / "two/.flowrunner").exists()
    for number in range(SHARDS):
        both.shard(number, **how)
    both.finish(delete_extra=True, **how)
    assert both.trees()[0] == both.trees()[1]
    assert sorted(hashes(both.two.disk.path / "backup")) == ["a", "extra"]
    assert not (both.two.disk.path / "plans").exists()


def test_a_dry_run_writes_nothing(local):
    local.put("one", "a", "a")
    local.put("two", "b", "b")
    result = local.plan(dry_run=True, delete_extra=True)
    assert (result["files"], result["bytes"], result["deletes"], result["copies"]) == (1, 1, 1, ["a"])
    assert (result["dry_run"], result["plan"]) == (True, "")
    assert sorted(local.trees()[1]) == ["b"]


def test_the_group(local):
    with DAG("d", schedule=None) as dag:
        sync_task_group(source="/a/b", dest="/a/c", shards=3, delete_extra=True, pool="slow")
        sync_task_group(group_id="look", source="/a/b", dest="/a/c", dry_run=True)
    assert sorted(dag.task_ids) == ["look.plan", "sync.finish", "sync.plan", "sync.shard"]
    assert dag.get_task("sync.shard").upstream_task_ids == set()
    assert dag.get_task("sync.shard").partial_kwargs["plan_task"] == "sync.plan"
    assert dag.get_task("sync.finish").upstream_task_ids == {"sync.plan", "sync.shard"}
    assert dag.get_task("sync.plan").priority_weight > dag.get_task("sync.shard").priority_weight
    assert {dag.get_task(task).pool for task in ("sync.plan", "sync.finish")} == {"slow"}
    assert dag.get_task("sync.shard").expand_input.value == {"shard": [0, 1, 2]}


class TestNothingIsDeletedOnError:
    def test_too_many_deletions_are_refused_by_the_plan_and_by_the_end(self, local):
        for name in ("x", "y", "z"):
            local.put("two", name, name)
        with pytest.raises(ConfigError, match="max_deletes is 2"):
            local.plan(delete_extra=True, max_deletes=2)
        local.plan(delete_extra=True)
        for number in range(SHARDS):
            local.shard(number)
        with pytest.raises(ConfigError, match="max_deletes is 2"):
            local.finish(delete_extra=True, max_deletes=2)
        assert sorted(name for name in local.trees()[1] if name[0] != ".") == ["x", "y", "z"]

    def test_a_listing_that_fails_at_the_end(self, local, monkeypatch):
        local.put("one", "a", "a")
        local.put("two", "x", "x")
        local.plan(delete_extra=True)
        for number in range(SHARDS):
            local.shard(number)
        shutil.rmtree(local.one.disk.path / "one")
        with pytest.raises(NotFound):
            local.finish(delete_extra=True)
        assert sorted(name for name in local.trees()[1] if name[0] != ".") == ["a", "x"]


class TestRefused:
    def test_no_plan(self, both):
        for act in (lambda: both.shard(0), both.finish):
            with pytest.raises(NotFound, match=r"no (complete )?plan") as caught:
                act()
            assert "files.sync_plan" in caught.value.remedy

    def test_a_plan_of_other_work(self, local):
        local.put("one", "a", "a")
        local.plan()
        with pytest.raises(ConfigError, match="another source"):
            local.shard(0, include=["*.csv"])

    @pytest.mark.parametrize(
        ("field", "value"),
        [("shards", 0), ("shards", 257), ("shards", True), ("shards", "4"), ("wave_size", 0), ("wave_size", 100_001)],
    )
    def test_shards_that_are_none(self, local, field, value):
        with pytest.raises(ConfigError) as caught:
            local.act(FileSyncPlanOperator, **{"shards": 2, field: value})
        assert caught.value.field == field

    @pytest.mark.parametrize(
        ("field", "value"), [("poll_interval", "1s"), ("poll_interval", "soon"), ("plan_timeout", "never")]
    )
    def test_waits_that_are_none(self, local, field, value):
        with pytest.raises(ConfigError) as caught:
            local.act(FileSyncShardOperator, shard=0, **{field: value})
        assert caught.value.field == field

    def test_an_end_before_every_shard_is_done(self, local):
        local.put("one", "a", "a")
        local.put("two", "extra", "x")
        local.plan()
        local.shard(1)
        with pytest.raises(IntegrityError, match="1 of 2 shards have not finished this plan: 0"):
            local.finish(delete_extra=True)
        local.shard(0)
        assert local.finish(delete_extra=True)["deleted"] == 1
        assert local.trees()[0] == local.trees()[1]

    @pytest.mark.parametrize("number", [2, -1])
    def test_a_shard_that_is_none(self, local, number):
        local.plan()
        with pytest.raises(ConfigError) as caught:
            local.act(FileSyncShardOperator, shard=number)
        assert caught.value.field == "shard"

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"plan_path": "two/plans"}, "plan_path"),
            ({"plan_path": "*"}, "plan_path"),
            ({"backup_dir": "two/old"}, "backup_dir"),
            ({"concurrency": 0}, "concurrency"),
            ({"compare": "magic"}, "compare"),
            ({"max_deletes": -1}, "max_deletes"),
        ],
    )
    def test_bad_input(self, local, options, field):
        with pytest.raises(ConfigError) as caught:
            local.plan(**options)
        assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
        assert local.trees()[1] == {}

    def test_a_plan_that_was_tampered_with(self, local):
        local.put("one", "a", "a")
        folder = Path(local.plan(1)["plan"])
        (wave,) = folder.glob("*-000001.jsonl")
        good = wave.read_text()
        head, line = good.splitlines(keepends=True)
        for bad, error in (
            (good + line, None),
            (head, IntegrityError),
            (head + "{]\n", IntegrityError),
            (line, IntegrityError),
            ("{}\n", IntegrityError),
            (good.replace('"wave":1', '"wave":2'), IntegrityError),
            (good.replace('"a"', '"../a"'), IntegrityError),
        ):
            wave.write_text(bad)
            if error:
                with pytest.raises(error):
                    local.shard(0)
        wave.unlink()
        with pytest.raises(NotFound, match="wave 1 of the plan is missing"):
            local.shard(0)
        (folder / "plan.json").write_text("[]")
        with pytest.raises(IntegrityError, match="not a valid plan"):
            local.shard(0)
        assert [name for name in local.trees()[1] if name[0] != "."] == []


def test_an_ordinary_sync_leaves_the_plan_of_another_one_alone(local):
    local.put("one", "a", "a")
    local.plan()
    plan = {name for name in local.trees()[1] if name[0] == "."}
    assert len(plan) == 3
    local.sync(delete_extra=True)
    assert set(local.trees()[1]) == plan | {"a"}


def test_a_retry_of_one_shard_does_only_that_shard(local, monkeypatch):
    """... and of that only what is missing."""
    monkeypatch.setattr(session, "BATCH_SIZE", 2)
    for number in range(12):
        local.put("one", f"{number:02}", "x")
    local.plan()
    local.shard(1)
    begun: list[str] = []
    real = LocalStore.begin

    async def begin(self, path, token, **how):
        begun.append(path)
        if len(begun) == 4:
            raise IntegrityError("the disk is bad")
        return await real(self, path, token, **how)

    monkeypatch.setattr(LocalStore, "begin", begin)
    with pytest.raises(IntegrityError):
        local.shard(0, concurrency=1)
    assert local.shard(0)["copied"] == 6
    begun = [path for path in begun if ".flowrunner" not in path]
    assert len(begun) <= 6 + 2  # what failed, and what was copied beside it
    assert len(set(begun)) == 6
    assert local.finish()["late"] == 0


# -- killed anywhere

CHUNK = 4 * 255 * 1024
FILES = {"s/big": os.urandom(CHUNK + 7), "a": b"alpha"}


def act(scene: Sharded, number: int) -> Any:
    """One of the tasks: -1 is the plan, SHARDS the end."""
    how = {"delete_extra": True, "concurrency": 1}
    with patch.multiple(session, SAVE_EVERY=0.0, BATCH_SIZE=2):
        if number < 0:
            return scene.plan(**how)
        return scene.finish(**how) if number == SHARDS else scene.shard(number, **how)


def do_plan(scene: Sharded) -> Any:
    return act(scene, -1)


def do_shard(scene: Sharded) -> Any:
    return act(scene, 0)


def do_finish(scene: Sharded) -> Any:
    return act(scene, SHARDS)


def carried_on(step: int) -> Any:
    """The check after a task: the rest is done, both trees are the same, nothing is left over."""

    def check(scene: Sharded) -> None:
        for number in range(step + 1, SHARDS + 1):
            act(scene, number)
        one, two = scene.trees()
        assert one == two
        assert set(one) == set(FILES)
        assert list((scene.two.disk.path / "two").glob("**/.*")) == []
        assert {path.name for path in scene.two.disk.path.iterdir()} <= {"one", "two"}

    return check


def scenes(way: str, tmp_path: Path, server: Any, step: int) -> Any:
    numbers = iter(range(10_000))

    def make() -> Sharded:
        scene = sharded(way, tmp_path / way / str(next(numbers)), server)
        for name, data in FILES.items():
            scene.one.disk.put(f"one/{name}", data)
            os.utime(scene.one.disk.path / "one" / name, (LONG_AGO, LONG_AGO))
        scene.put("two", "extra", "x")
        scene.put("two", "a", "old")
        for number in range(-1, step):
            act(scene, number)
        return scene

    return make


STEPS = [(do_plan, -1), (do_shard, 0), (do_finish, SHARDS)]


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("task", "step"), STEPS)
def test_killed_anywhere_and_run_again(tmp_path, sshd, task, step):
    way = "up" if KILLS > 3 else "local"
    assert sweep(scenes(way, tmp_path, sshd, step), task, carried_on(step)).kills >= 10


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("task", "step"), STEPS)
def test_killed_over_sftp_and_twice(tmp_path, sshd, task, step):
    count = max(1, KILLS // 3)
    random_kills(scenes("up", tmp_path, sshd, step), task, carried_on(step), count=count)
    double_kill(scenes("down", tmp_path, sshd, step), task, carried_on(step), limit=count)


@pytest.mark.faults
def test_killed_between_the_two_folders_of_the_plan(tmp_path, sshd):
    for way in ("local", "up"):
        scene = scenes(way, tmp_path, sshd, SHARDS)()
        assert attempt(do_finish, scene, rules=[kill_at("files.sync_finish.between_rmdirs", 1)]).killed
        assert list((scene.two.disk.path / "two/.flowrunner").iterdir()) == []
        do_finish(scene)
        carried_on(SHARDS)(scene)


def test_a_plan_that_a_killed_attempt_is_still_removing(local, monkeypatch):
    """What is gone, or comes, between a look and the next step is no reason to leave the folder."""
    local.put("one", "a", "a")
    local.plan()
    for number in range(SHARDS):
        local.shard(number)
    real, late = LocalStore.rmdir, ["late"]

    async def rmdir(self, path):
        if late and Path(path).name != ".flowrunner":
            (Path(path) / late.pop()).touch()
        return await real(self, path)

    monkeypatch.setattr(LocalStore, "rmdir", rmdir)
    local.finish()
    assert not (local.two.disk.path / "two/.flowrunner").exists()


@pytest.mark.faults
def test_a_plan_that_was_killed_is_none(tmp_path):
    scene = scenes("local", tmp_path, None, -1)()
    assert attempt(do_plan, scene, rules=[kill_at("files.sync_plan.before_tell")]).killed
    with pytest.raises(FlowRunnerError, match=r"no (complete )?plan"):
        scene.shard(0)
