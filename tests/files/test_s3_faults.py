"""files.copy to S3 is killed everywhere, with and without parts; nothing is lost, left over or sent twice."""

from __future__ import annotations

import os

import pytest

from tests.files import test_faults as faults
from tests.files.far import FAR_SIDES, Side
from tests.files.s3 import PART, Bucket, connection_of, side
from tests.support.kill import attempt, double_kill, kill_at, random_kills, sweep, trace
from tests.support.memory_s3 import memory_s3

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(600)]

BIG = os.urandom(2 * PART + 1_000_000)


def around_the_store(point: str) -> bool:
    """What the sweeps of the other stores do not pass; nightly everything."""
    return faults.KILLS > 3 or point.startswith(("objects.", "s3.", "files.copy.after_commit", "files.copy.before_del"))


@pytest.fixture(autouse=True)
def s3_is_a_far_side(monkeypatch):
    monkeypatch.setitem(FAR_SIDES, "s3", side)


@pytest.fixture
def big(monkeypatch):
    """The larger file of the scenes has three parts."""
    monkeypatch.setitem(faults.FILES, "sub/c.csv", BIG)


def test_single_puts_killed_anywhere(request, tmp_path):
    make = faults.scenes(request, tmp_path, "local", "s3", move=True)
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=around_the_store).kills >= 8


def test_parts_killed_anywhere(request, tmp_path, big):
    make = faults.scenes(request, tmp_path, "local", "s3")
    passed = set(trace(faults.run_copy, make()))
    assert {"objects.after_start", "s3.after_create", "s3.after_upload_part", "s3.before_complete"} <= passed
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=around_the_store).kills >= 15


def test_parts_with_crcs_killed_anywhere(request, tmp_path, big, monkeypatch):
    (tmp_path / "server").mkdir()
    with memory_s3(tmp_path / "server") as server:
        connection = connection_of(server, parts_at_once=1, request_checksum_calculation="when_supported")
        monkeypatch.setitem(
            FAR_SIDES,
            "s3",
            lambda request, folder: Side(Bucket(server), "s3://lake@", {"AIRFLOW_CONN_LAKE": connection}, False),
        )
        make = faults.scenes(request, tmp_path, "local", "s3")
        assert (
            sweep(make, faults.run_copy, faults.everything_arrived, at=lambda point: point.startswith("s3.")).kills >= 5
        )


def test_parts_that_arrived_are_not_sent_again(request, tmp_path, big):
    make = faults.scenes(request, tmp_path, "local", "s3")
    scene = make()
    assert attempt(faults.run_copy, scene, rules=[kill_at("s3.before_complete")]).killed
    bucket = scene.dest.far
    assert bucket.parts() == [(1, PART), (2, PART), (3, 1_000_000)]
    sent = tmp_path / "points"
    sent.touch()
    rules = [{"point": "s3.before_upload_part", "action": "trace", "to": str(sent)}]
    assert attempt(faults.run_copy, scene, rules=rules, try_number=2).ok
    assert sent.read_text() == ""
    assert bucket.unfinished() == []
    faults.everything_arrived(scene)


@pytest.mark.parametrize("new", [BIG[:PART] + os.urandom(PART + 1_000_000), b"small"], ids=["in parts", "small"])
def test_a_source_that_changed_gets_none_of_the_old_parts(request, tmp_path, big, new):
    scene = faults.scenes(request, tmp_path, "local", "s3")()
    assert attempt(faults.run_copy, scene, rules=[kill_at("s3.before_complete")]).killed
    scene.source.put("sub/c.csv", new, when=1_600_000_009)
    assert attempt(faults.run_copy, scene, try_number=2).ok
    assert scene.dest.all()["sub/c.csv"] == new
    assert scene.dest.far.unfinished() == []


def test_killed_twice(request, tmp_path, big):
    make = faults.scenes(request, tmp_path, "local", "s3", move=True)
    double_kill(make, faults.run_copy, faults.everything_arrived, limit=faults.KILLS)


@pytest.mark.parametrize("up", [True, False])
def test_killed_at_random(request, tmp_path, big, up):
    source, dest = ("local", "s3") if up else ("s3", "local")
    make = faults.scenes(request, tmp_path, source, dest, move=True)
    random_kills(make, faults.run_copy, faults.everything_arrived, count=faults.KILLS)
