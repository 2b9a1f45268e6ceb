"""rclone, which shares no line with this package, finds both ends alike after copies and syncs to and from S3."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from tests.files.far import Disk, Side
from tests.files.s3 import PART, side
from tests.support.context import execute, make_context
from tests.support.rgw import ACCESS_KEY, SECRET_KEY
from tests.support.servers import require

pytestmark = pytest.mark.backend

SIZES = {
    "a.csv": 4_000, "b c.txt": 1, "d/e/f.bin": 2 * PART + 7, "d/.hidden": 9, "d/caf\u00e9": PART, "x'y\"z": 7,
    "[1]*?": 70_000, "-rf": 8, "d/100%+": 5, "empty": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def far(request, tmp_path, monkeypatch):
    """A prefix in S3, which the connection ``lake`` leads to."""
    found = side(request, tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def near(tmp_path):
    (tmp_path / "near").mkdir()
    return Side(Disk(tmp_path.resolve() / "near"))


@pytest.fixture
def judge(tmp_path):
    """``judge(one, two)`` fails unless below both ends lie the same files with the same bytes."""
    program = require(str(Path(sys.executable).with_name("rclone")), "rclone", apt="rclone")

    def where(place: Side) -> str:
        return place.far.root if isinstance(place.far, Disk) else f"s3:tests{place.far.root}"

    def check(one: Side, two: Side) -> None:
        remote = next(place.far for place in (one, two) if not isinstance(place.far, Disk))
        settings = {
            "TYPE": "s3", "PROVIDER": "Ceph", "ENDPOINT": remote.endpoint, "REGION": "us-east-1",
            "ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET_KEY,
        }  # fmt: skip
        result = subprocess.run(
            [program, "--config", str(tmp_path / "none.conf"), "check", where(one), where(two), "--download"],
            env={**os.environ, **{f"RCLONE_CONFIG_S3_{name}": value for name, value in settings.items()}},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr

    return check


def fill(place: Side) -> None:
    draw = random.Random("judge")
    for name, size in SIZES.items():
        place.put(name, draw.randbytes(size))


def run(tmp_path, operator):
    return execute(operator, make_context(operator, state=tmp_path / operator.task_id))


@pytest.mark.parametrize("up", [True, False])
def test_after_a_copy(tmp_path, near, far, judge, up):
    source, dest = (near, far) if up else (far, near)
    fill(source)
    copy = FileCopyOperator(task_id="copy", source=source.uri(), dest=dest.uri(), recursive=True)
    assert run(tmp_path, copy)["files"] == len(SIZES)
    judge(source, dest)


@pytest.mark.parametrize("up", [True, False])
def test_after_syncs(tmp_path, near, far, judge, up):
    source, dest = (near, far) if up else (far, near)
    fill(source)
    how = {"compare": "checksum" if up else "size_mtime", "delete_extra": True}
    sync = FileSyncOperator(task_id="sync", source=source.uri(), dest=dest.uri(), **how)
    assert run(tmp_path, sync)["copied"] == len(SIZES)
    judge(source, dest)
    source.far.put("a.csv", b"another")
    source.far.put("new/g", b"new")
    dest.far.put("extra", b"extra")
    again = FileSyncOperator(task_id="again", source=source.uri(), dest=dest.uri(), **how)
    result = run(tmp_path, again)
    assert (result["copied"], result["deleted"]) == (2, 1)
    judge(source, dest)


def test_the_judge_sees_a_difference(tmp_path, near, far, judge):
    fill(near)
    run(tmp_path, FileCopyOperator(task_id="copy", source=near.uri(), dest=far.uri(), recursive=True))
    data = bytearray(far.far.get("d/e/f.bin"))
    data[PART] ^= 1
    far.far.put("d/e/f.bin", bytes(data))
    with pytest.raises(AssertionError, match="differ"):
        judge(near, far)
