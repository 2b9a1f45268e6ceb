"""rclone, which shares no line with this package, finds source and destination alike after copies and syncs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from tests.files.stage import Stage, stage
from tests.support.servers import require

pytestmark = pytest.mark.backend

NAMES = ["a.csv", "b c.txt", "d/e/f.bin", "d/.hidden", "d/caf\u00e9", "x'y\"z", "[1]*?", "-rf", "empty"]


@pytest.fixture
def judge(sshd, tmp_path):
    """``judge(one, two)`` fails unless both folders hold the same files with the same bytes."""
    program = require(str(Path(sys.executable).with_name("rclone")), "rclone", apt="rclone")
    remote = f":sftp,host={sshd.host},port={sshd.port},user={sshd.user},key_file={sshd.key_file},shell_type=none:"

    def where(place: Stage, folder: str) -> str:
        return f"{remote if place.prefix else ''}{place.disk.root}/{folder}"

    def check(one: Stage, source: str, two: Stage, dest: str) -> None:
        command = [program, "--config", str(tmp_path / "none.conf"), "check", where(one, source), where(two, dest)]
        result = subprocess.run(
            [*command, "--download", "--links"], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr

    return check


def places(way: str, tmp_path: Path, server: Any) -> tuple[Stage, Stage]:
    kinds = {"up": ("local", "sftp"), "down": ("sftp", "local"), "here": ("local", "local")}[way]
    one, two = (stage(kind, tmp_path / f"{number}{kind}", server) for number, kind in enumerate(kinds))
    draw = random.Random(way)
    for name in NAMES:
        one.disk.put(f"in/{name}", b"" if name == "empty" else draw.randbytes(draw.choice([1, 4_000, 1_100_000])))
        os.utime(one.disk.path / "in" / name, (1_600_000_000, 1_600_000_000))
    return one, two


@pytest.mark.parametrize("way", ["up", "down", "here"])
def test_after_a_copy(tmp_path, sshd, judge, way):
    one, two = places(way, tmp_path, sshd)
    copy = FileCopyOperator(task_id="copy", source=one.uri("in"), dest=two.uri("out/"), recursive=True)
    assert two.run(copy)["files"] == len(NAMES)
    judge(one, "in", two, "out")


@pytest.mark.parametrize("way", ["up", "down", "here"])
def test_after_syncs(tmp_path, sshd, judge, way):
    one, two = places(way, tmp_path, sshd)
    sync = FileSyncOperator(task_id="sync", source=one.uri("in"), dest=two.uri("out"), delete_extra=True)
    assert two.run(sync)["copied"] == len(NAMES)
    judge(one, "in", two, "out")
    one.disk.put("in/a.csv", b"another")
    one.disk.put("in/new/g", b"new")
    (one.disk.path / "in/d/e/f.bin").unlink()
    two.disk.put("out/extra", b"extra")
    result = two.run(sync)
    assert (result["copied"], result["deleted"]) == (2, 2)
    judge(one, "in", two, "out")


def test_the_judge_sees_a_difference(tmp_path, sshd, judge):
    one, two = places("here", tmp_path, sshd)
    two.run(FileCopyOperator(task_id="copy", source=one.uri("in"), dest=two.uri("out/"), recursive=True))
    data = bytearray(two.disk.get("out/d/e/f.bin"))
    data[0] ^= 1
    two.disk.put("out/d/e/f.bin", bytes(data))
    with pytest.raises(AssertionError, match="differ"):
        judge(one, "in", two, "out")
