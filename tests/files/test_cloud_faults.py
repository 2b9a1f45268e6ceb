"""files.copy to Azure Blob, Google Cloud Storage and fsspec is killed everywhere: nothing lost, doubled or left."""

from __future__ import annotations

import os

import pytest

from tests.files import test_faults as faults
from tests.files.clouds import CLOUDS, MIB
from tests.files.far import FAR_SIDES
from tests.support.kill import attempt, double_kill, kill_at, random_kills, sweep, trace

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(600)]

BIG = os.urandom(2 * MIB + 100_000)
OURS = ("objects.", "azure.", "gcs.", "fsspec.", "files.copy.after_commit", "files.copy.after_delete_source")


@pytest.fixture(autouse=True)
def clouds_are_far_sides(monkeypatch):
    for name, side in CLOUDS.items():
        monkeypatch.setitem(FAR_SIDES, name, side)


@pytest.fixture
def big(monkeypatch):
    """The larger file of the scenes has three parts."""
    monkeypatch.setitem(faults.FILES, "sub/c.csv", BIG)


def ours(point: str) -> bool:
    return point.startswith(OURS)


@pytest.mark.parametrize("store", CLOUDS)
def test_uploads_killed_anywhere(request, tmp_path, big, store):
    make = faults.scenes(request, tmp_path, "local", store, move=True)
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=ours).kills >= 10


@pytest.mark.parametrize("store", CLOUDS)
def test_deletions_killed_anywhere(request, tmp_path, store):
    make = faults.scenes(request, tmp_path, store, "local", move=True, verify="checksum")
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=ours).kills >= 4


@pytest.mark.parametrize(("store", "point"), [("azure", "azure.before_commit_blocks"), ("gcs", "gcs.before_compose")])
def test_parts_that_arrived_are_not_sent_again(request, tmp_path, big, store, point):
    scene = faults.scenes(request, tmp_path, "local", store)()
    assert attempt(faults.run_copy, scene, rules=[kill_at(point)]).killed
    sent = tmp_path / "points"
    sent.touch()
    rules = [{"point": f"{store}.before_send", "action": "trace", "to": str(sent)}]
    assert attempt(faults.run_copy, scene, rules=rules, try_number=2).ok
    assert sent.read_text() == ""
    faults.everything_arrived(scene)


@pytest.mark.parametrize("store", ["azure", "gcs"])
def test_a_source_that_changed_gets_none_of_the_old_parts(request, tmp_path, big, store):
    scene = faults.scenes(request, tmp_path, "local", store)()
    assert attempt(faults.run_copy, scene, rules=[kill_at("objects.before_complete")]).killed
    new = BIG[:MIB] + os.urandom(MIB + 100_000)
    scene.source.put("sub/c.csv", new, when=1_600_000_009)
    assert attempt(faults.run_copy, scene, try_number=2).ok
    assert scene.dest.all() == {"a.csv": faults.FILES["a.csv"], "sub/c.csv": new, "bystander": b"was here before"}


def test_nothing_is_staged_behind_a_finished_blob(request, tmp_path, big):
    scene = faults.scenes(request, tmp_path, "local", "azure")()
    assert attempt(faults.run_copy, scene, rules=[kill_at("objects.before_complete")]).killed
    assert scene.dest.far.uncommitted("sub/c.csv")
    assert attempt(faults.run_copy, scene, try_number=2).ok
    assert scene.dest.far.uncommitted("sub/c.csv") == []


@pytest.mark.parametrize("store", CLOUDS)
def test_killed_twice(request, tmp_path, big, store):
    make = faults.scenes(request, tmp_path, "local", store, move=True)
    double_kill(make, faults.run_copy, faults.everything_arrived, limit=1 if faults.KILLS == 3 else faults.KILLS)


@pytest.mark.parametrize("store", CLOUDS)
def test_killed_at_random(request, tmp_path, big, store):
    make = faults.scenes(request, tmp_path, "local", store, move=True)
    random_kills(make, faults.run_copy, faults.everything_arrived, count=1 if faults.KILLS == 3 else faults.KILLS)


def test_the_sweep_passes_the_interesting_places(request, tmp_path, big):
    expected = {
        "azure": {"objects.after_part", "azure.before_commit_blocks", "objects.after_complete", "objects.before_put"},
        "gcs": {"gcs.before_compose", "gcs.after_compose", "gcs.after_remove_part"},
        "fsspec": {"fsspec.before_open", "fsspec.before_move", "fsspec.after_move"},
    }
    for store, points in expected.items():
        assert points <= set(trace(faults.run_copy, faults.scenes(request, tmp_path / store, "local", store)()))
