"""files.copy is killed at every failpoint and run again: nothing lost, doubled, partial or left over."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.files.far import Disk
from tests.support.context import execute, make_context
from tests.support.kill import Attempt, attempt, double_kill, kill_at, random_kills, sweep, trace

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(600)]

CHUNK = 4 * 255 * 1024
FILES = {"a.csv": b"alpha" * 40, "sub/c.csv": os.urandom(CHUNK + 7)}
KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))
WAYS = [
    ("local", {"move": True, "if_exists": "rename"}),
    ("up", {"move": True}),
    ("down", {"verify": "checksum"}),
]
if KILLS > 3:  # nightly: the other combinations, too
    WAYS += [
        ("local", {}),
        ("up", {"if_exists": "fail"}),
        ("down", {"move": True, "if_exists": "skip"}),
        ("down", {"move": True, "if_exists": "fail", "verify": "checksum"}),
    ]


@dataclass(frozen=True)
class Scene:
    directory: Path
    source: Path
    dest: Path
    source_uri: str
    dest_uri: str
    connection: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def connection_of(server: Any, **more: Any) -> str:
    extra = {"key_file": str(server.key_file), "host_key": server.host_key, **more}
    return json.dumps(
        {"conn_type": "sftp", "host": server.host, "port": server.port, "login": server.user, "extra": extra}
    )


def scenes(tmp_path: Path, server: Any, way: str, *, taken: bool = False, **options: Any):
    numbers = iter(range(10_000))

    def make() -> Scene:
        directory = tmp_path / str(next(numbers))
        here, there = directory / "here", server.root()
        here.mkdir(parents=True)
        source, dest = {"up": (here, there), "down": (there, here), "local": (here, directory / "there")}[way]
        dest.mkdir(exist_ok=True)
        for name, data in FILES.items():
            Disk(source).put(name, data)
            os.utime(source / name, (1_600_000_000, 1_600_000_000))
        Disk(dest).put("a.csv" if taken else "bystander", b"was here before")
        remote = "sftp://partner@"
        prefixes = {"up": ("", remote), "down": (remote, ""), "local": ("", "")}[way]
        uris = (f"{prefixes[0]}{source}/**/*.csv", f"{prefixes[1]}{dest}/")
        return Scene(directory, source, dest, *uris, connection_of(server), options)

    return make


def run_copy(scene: Scene) -> Any:
    from flowrunner_provider.files import copy
    from flowrunner_provider.files.operators import FileCopyOperator

    os.environ["AIRFLOW_CONN_PARTNER"] = scene.connection
    copy.SAVE_EVERY = 0.0  # remember after every chunk, so that the sweep meets every resumed state
    operator = FileCopyOperator(
        task_id="copy", source=scene.source_uri, dest=scene.dest_uri, concurrency=1, **scene.options
    )
    result = execute(operator, make_context(operator, state=scene.directory / "state"))
    (scene.directory / "result").write_text(json.dumps(result))
    return result


def everything_arrived(scene: Scene) -> None:
    moved, policy = scene.options.get("move", False), scene.options.get("if_exists", "overwrite")
    expected = dict(FILES)
    if policy == "overwrite":
        expected["bystander"] = b"was here before"
    elif policy == "skip":
        expected["a.csv"] = b"was here before"
    elif policy == "rename":
        expected |= {"a.csv": b"was here before", "a.1.csv": FILES["a.csv"]}
    else:
        expected["bystander"] = b"was here before"
    far = Disk(scene.dest)
    assert {name: far.get(name) for name in far.names()} == expected
    left = set(FILES) if not moved else {"a.csv"} if policy == "skip" else set()
    assert set(Disk(scene.source).names()) == left
    result = json.loads((scene.directory / "result").read_text())
    skipped = 1 if policy == "skip" else 0
    assert (result["files"], result["skipped"]) == (len(FILES) - skipped, skipped)
    assert result["bytes"] == sum(map(len, FILES.values())) - (len(FILES["a.csv"]) if skipped else 0)
    for name in set(FILES) - {"a.csv"}:
        assert int((scene.dest / name).stat().st_mtime) == 1_600_000_000


@pytest.mark.parametrize(("way", "options"), WAYS, ids=lambda value: str(value))
def test_killed_anywhere_and_run_again(tmp_path, sshd, way, options):
    taken = options.get("if_exists") in ("skip", "rename")
    report = sweep(scenes(tmp_path, sshd, way, taken=taken, **options), run_copy, everything_arrived)
    assert report.kills >= 20


def test_killed_twice(tmp_path, sshd):
    double_kill(scenes(tmp_path, sshd, "up", move=True), run_copy, everything_arrived, limit=KILLS)


@pytest.mark.parametrize("way", ["up", "down"])
def test_killed_at_random(tmp_path, sshd, way):
    random_kills(scenes(tmp_path, sshd, way, move=True), run_copy, everything_arrived, count=KILLS)


def test_the_sweep_passes_the_interesting_places(tmp_path, sshd):
    points = set(trace(run_copy, scenes(tmp_path, sshd, "down", move=True)()))
    assert {
        "files.copy.before_begin",
        "files.copy.after_write",
        "checkpoint.copy.before_save",
        "part_file.before_rename",
        "files.copy.after_commit",
        "sftp.before_delete",
        "files.copy.after_delete_source",
        "run.before_finish",
    } <= points


def test_a_resumed_file_is_not_sent_again(tmp_path, sshd):
    """Killed after the last chunk was remembered, the retry sends nothing but the rename."""
    make = scenes(tmp_path, sshd, "up")
    scene = make()
    big = os.urandom(3 * CHUNK)
    Disk(scene.source).put("sub/c.csv", big)
    last = trace(run_copy, make()).count("files.copy.after_write") + 1
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.after_write", last)]).killed
    (part,) = [name for name in Disk(scene.dest).names() if name.endswith(".part")]
    inode = (scene.dest / part).stat().st_ino
    points = scene.directory / "points"
    points.touch()
    rules = [{"point": "files.copy.*", "action": "trace", "to": str(points)}]
    assert attempt(run_copy, scene, rules=rules, try_number=2).ok
    assert "files.copy.before_write" not in points.read_text().split()
    assert (scene.dest / "sub/c.csv").stat().st_ino == inode
    assert (scene.dest / "sub/c.csv").read_bytes() == big


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_part_that_was_tampered_with_is_not_gone_on_with(tmp_path, sshd, way):
    scene = scenes(tmp_path, sshd, way)()
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.before_commit", 2)]).killed
    (part,) = [name for name in Disk(scene.dest).names() if name.endswith(".part")]
    data = bytearray((scene.dest / part).read_bytes())
    data[-5] ^= 1
    (scene.dest / part).write_bytes(bytes(data))
    assert attempt(run_copy, scene, try_number=2).ok
    everything_arrived(scene)


def test_a_source_that_changed_between_the_attempts_is_copied_afresh(tmp_path, sshd):
    scene = scenes(tmp_path, sshd, "down")()
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.before_commit", 2)]).killed
    new = os.urandom(len(FILES["sub/c.csv"]))
    Disk(scene.source).put("sub/c.csv", new)
    assert attempt(run_copy, scene, try_number=2).ok
    assert Disk(scene.dest).get("sub/c.csv") == new


def test_a_zombie_is_fenced(tmp_path, sshd):
    """The first attempt is frozen before its commit; the second finishes; the first wakes and does nothing."""
    scene = scenes(tmp_path, sshd, "up", move=True)()
    frozen = Attempt(run_copy, scene)
    frozen.started()
    frozen.join(0.3)
    frozen.freeze()
    assert attempt(run_copy, scene, try_number=2).ok
    everything_arrived(scene)
    frozen.thaw()
    frozen.wait()
    everything_arrived(scene)
