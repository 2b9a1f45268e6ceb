"""An attempt at a task of a sharded sync is taken for dead and wakes: wherever it stood, one sync has taken place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from tests.files import test_shards as shards
from tests.files.s3 import Bucket, connection_of
from tests.files.stage import KILLS, LONG_AGO, Stage, stage
from tests.files.test_shards import FILES, SHARDS, STEPS, Sharded
from tests.files.test_zombies import GONE, Asking
from tests.support.kill import TRY_NUMBER, zombies
from tests.support.memory_s3 import memory_s3

PLACES = {
    "local": ("write.before_mkdir", "sync_shard.after_wave", "before_remove_plan"),
    "s3": ("write.before_commit",),
}
"""Way -> where attempts stop by default; FLOWRUNNER_KILLS=4: everywhere, and over SFTP, too."""

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(1800)]


def some(way: str) -> Callable[[str], bool]:
    return lambda point: KILLS > 3 or point.endswith(PLACES[way])


class Cloudy(Sharded):
    """From this disk into a bucket."""

    def put(self, side: str, name: str, text: str, when: int = LONG_AGO) -> None:
        if side == "one":
            super().put(side, name, text, when)
        else:
            self.two.disk.put(f"{side}/{name}", text.encode())

    def trees(self) -> tuple[dict[str, str], dict[str, str]]:
        bucket = self.two.disk
        two = {name: hashlib.sha256(bucket.get(name)).hexdigest() for name in bucket.names()}
        return shards.hashes(self.one.disk.path / "one"), {name.removeprefix("two/"): two[name] for name in two}


@pytest.fixture(params=[*PLACES, "up"] if KILLS > 3 else PLACES)
def way(request) -> str:
    return request.param


@pytest.fixture
def make(request, way, tmp_path, monkeypatch) -> Any:
    """Makes scenes up to a step."""
    if way != "s3":
        server = request.getfixturevalue("sshd") if way == "up" else None
        return lambda step: shards.scenes(way, tmp_path, server, step)
    server = request.getfixturevalue("s3_server")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", connection_of(server, parts_at_once=1))
    numbers = count()

    def at(step: int) -> Callable[[], Sharded]:
        def scene() -> Sharded:
            folder = tmp_path / str(next(numbers))
            one = stage("local", folder / "0", None)
            made = Cloudy(one, Stage(Bucket(server), "s3://lake@", folder / "state"), {"compare": "checksum"})
            for name, data in FILES.items():
                one.disk.put(f"one/{name}", data)
                os.utime(one.disk.path / "one" / name, (LONG_AGO, LONG_AGO))
            made.put("two", "extra", "x")
            for number in range(-1, step):
                shards.act(made, number)
            return made

        return scene

    return at


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    with memory_s3(tmp_path_factory.mktemp("memory_s3")) as server:
        yield server


def alike(scene: Sharded) -> None:
    """Nothing else is there, no plan and no part of it either."""
    one, two = scene.trees()
    assert one == two
    assert set(one) == set(FILES)
    if isinstance(scene.two.disk, Bucket):
        return
    assert list((scene.two.disk.path / "two").glob("**/.*")) == []


def carried_on(step: int) -> Callable[[Sharded], None]:
    def check(scene: Sharded) -> None:
        for number in range(step + 1, SHARDS + 1):
            shards.act(scene, number)
        alike(scene)

    return check


@dataclass(frozen=True)
class Waves:
    """A plan of several waves; ``afresh``: the second attempt does not go on with the first one's."""

    afresh: bool = False

    def __call__(self, scene: Sharded) -> Any:
        again = os.environ[TRY_NUMBER] != "1"
        return scene.plan(delete_extra=True, concurrency=1, wave_size=1, resume=not (self.afresh and again))


@dataclass(frozen=True)
class ToTheEnd:
    """The first attempt does one task; the next one, and then the others do the rest."""

    step: int

    def __call__(self, scene: Sharded) -> None:
        last = self.step if os.environ[TRY_NUMBER] == "1" else SHARDS
        for number in range(self.step, last + 1):
            shards.act(scene, number)
        if last == SHARDS:
            (scene.one.state / "over").touch()

    def check(self, scene: Sharded) -> None:
        """Nothing has come after the end."""
        carried_on(SHARDS if (scene.one.state / "over").exists() else self.step)(scene)


@pytest.mark.parametrize(("task", "step"), STEPS)
def test_a_task_that_wakes(make, way, task, step):
    zombies(make(step), Asking(task), carried_on(step), at=some(way), defeats=GONE, patience=3.0)


@pytest.mark.parametrize("afresh", [False, True])
def test_a_plan_in_waves_that_wakes(make, way, afresh):
    zombies(make(-1), Asking(Waves(afresh)), carried_on(-1), at=some(way), defeats=GONE, patience=3.0)


@pytest.mark.parametrize("step", [-1, 0])
def test_a_task_that_wakes_when_all_is_over(make, way, step):
    """Its plan is gone by then."""
    task = ToTheEnd(step)
    zombies(make(step), Asking(task), task.check, at=some(way), defeats=GONE, patience=15.0)
