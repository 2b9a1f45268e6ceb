"""Shards beside a plan as Airflow runs them: who waits for whom and where, and what is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferralTimeout, TaskDeferred

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.files import session
from flowrunner_provider.files.operators import FileSyncShardOperator
from flowrunner_provider.files.shards import waiting as wave_waiting
from flowrunner_provider.files.shards.triggers import WaveTrigger
from tests.files.far import Disk
from tests.files.stage import KILLS, LONG_AGO
from tests.files.test_shards import CHUNK, SHARDS, Sharded, sharded
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import attempt, kill_at, sweep

STATE = "flowrunner_provider.runtime.task_state.task_state"


def at_once() -> Any:
    """Without waiting on the worker."""
    return patch.multiple(wave_waiting, IN_PLACE=0.0, STARTING=0.0)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Sharded]:
    scene = sharded("local", tmp_path, None)
    for number in range(6):
        scene.put("one", f"{number}", "x")
    with at_once():
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
        assert len(local.trees()[1]) == 3 + 5  # its files; the plan, its end and three waves
        assert begin(local, 0, ["success"])["copied"] == 3
        assert begin(local, 1, ["success"] * 4)["copied"] == 3
        assert local.finish()["late"] == 0

    def test_a_moment_is_waited_for_on_the_worker(self, local: Sharded) -> None:
        local.plan()
        with patch.multiple(wave_waiting, IN_PLACE=60.0, STARTING=30.0, _POLL_SECONDS=0.01):
            assert begin(local, 0, ["queued", "", "running", "running", "success"])["copied"] == 3
        with patch.multiple(wave_waiting, IN_PLACE=60.0, _POLL_SECONDS=0.01), pytest.raises(AirflowRescheduleException):
            begin(local, 1, ["running", "up_for_retry"])

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

    def test_who_has_waited_long_looks_less_often(self, local: Sharded) -> None:
        began = SYSTEM_CLOCK.now()
        for waited, pause in ((0, 20), (60, 20), (400, 100), (3600, 300), (12 * 3600 - 10, 10)):
            now = began + timedelta(seconds=waited)
            clock = patch.object(type(SYSTEM_CLOCK), "now", lambda self, now=now: now)
            with clock, pytest.raises(AirflowRescheduleException) as caught:
                begin(local, 0, ["running"])
            assert round((caught.value.reschedule_date - now).total_seconds()) == pause

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
        with at_once(), pytest.raises(TaskDeferred) as caught:
            begin(scene, 0, states, deferrable=True, **more)
        return caught.value

    def test_the_triggerer_looks_while_the_plan_runs(self, tmp_path: Path, sshd: Any) -> None:
        scene = remote(tmp_path, sshd)
        with at_once(), pytest.raises(AirflowRescheduleException):
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
        with patch(STATE, side_effect=["running"] * 2), at_once():
            with pytest.raises(AirflowRescheduleException):
                execute(task, context)
            with (
                patch("airflow.sdk.BaseOperator.resume_execution", side_effect=TaskDeferralTimeout),
                pytest.raises(PermanentError, match="no further files"),
            ):
                task.resume_execution("execute_complete", {}, context)


# -- killed while the others go on


def planning(scene: Sharded) -> Any:
    with patch.multiple(session, SAVE_EVERY=0.0, BATCH_SIZE=2):
        return scene.plan(wave_size=2, delete_extra=True)


def copying(scene: Sharded) -> Any:
    """A shard whose plan is ahead of it by then."""
    with patch.multiple(session, SAVE_EVERY=0.0, BATCH_SIZE=2):
        return begin(scene, 0, ["success"] * 9, concurrency=1, delete_extra=True)


def side_by_side(tmp_path: Path) -> Callable[[], Sharded]:
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
    with at_once():
        for number in range(SHARDS):
            for states in (["running"] * (waves + 1), ["up_for_retry"]):
                with pytest.raises(AirflowRescheduleException):
                    begin(scene, number, states, delete_extra=True)
    planning(scene)
    ended(scene)


def waiting(scene: Sharded) -> Any:
    with at_once():
        return begin(scene, 0, ["running"] * 2, delete_extra=True)


@pytest.mark.faults
def test_a_shard_is_killed_when_it_is_about_to_wait(tmp_path: Path) -> None:
    scene = side_by_side(tmp_path)()
    assert attempt(waiting, scene, rules=[kill_at("files.sync_shard.before_wait")]).killed
    assert attempt(waiting, scene).error_type == "AirflowRescheduleException"
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
