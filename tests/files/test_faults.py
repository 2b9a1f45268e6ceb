"""files.copy is killed at every failpoint and run again: nothing lost, doubled, partial or left over."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.files.far import FAR_SIDES, LONG_AGO, REMOTE, Disk, Side
from tests.support.context import execute, make_context
from tests.support.kill import Attempt, attempt, double_kill, kill_at, random_kills, sweep, trace

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(600)]

CHUNK = 4 * 255 * 1024
FILES = {"a.csv": b"alpha" * 40, "sub/c.csv": os.urandom(CHUNK + 7)}
KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))
WAYS = [("local", "local", {"move": True, "if_exists": "rename"})]
for _store in REMOTE:  # every store: there and back
    WAYS += [("local", _store, {"move": True}), (_store, "local", {"verify": "checksum"})]
if KILLS > 3:  # nightly: the other combinations, too
    WAYS += [("local", "local", {})]
    for _store in REMOTE:
        WAYS += [
            ("local", _store, {"if_exists": "fail"}),
            (_store, "local", {"move": True, "if_exists": "skip"}),
            (_store, "local", {"move": True, "if_exists": "fail", "verify": "checksum"}),
        ]


@dataclass(frozen=True)
class Scene:
    directory: Path
    source: Side
    dest: Side
    options: dict[str, Any] = field(default_factory=dict)


def scenes(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, dest: str, *, taken: bool = False, **options: Any
) -> Callable[[], Scene]:
    """Makes scenes: files in one store, and where they are to go in the other."""
    numbers = iter(range(10_000))

    def make() -> Scene:
        directory = tmp_path / str(next(numbers))
        scene = Scene(
            directory,
            FAR_SIDES[source](request, directory / "source"),
            FAR_SIDES[dest](request, directory / "dest"),
            options,
        )
        for name, data in FILES.items():
            scene.source.put(name, data)
        scene.dest.put("a.csv" if taken else "bystander", b"was here before")
        return scene

    return make


def run_copy(scene: Scene) -> Any:
    from flowrunner_provider.files import session
    from flowrunner_provider.files.operators import FileCopyOperator

    os.environ.update({**scene.source.environment, **scene.dest.environment})
    session.SAVE_EVERY = 0.0  # remember after every chunk, so that the sweep meets every resumed state
    operator = FileCopyOperator(
        task_id="copy", source=scene.source.uri("**/*.csv"), dest=scene.dest.uri(), concurrency=1, **scene.options
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
    assert scene.dest.all() == expected
    left = set(FILES) if not moved else {"a.csv"} if policy == "skip" else set()
    assert set(scene.source.far.names()) == left
    result = json.loads((scene.directory / "result").read_text())
    skipped = 1 if policy == "skip" else 0
    assert (result["files"], result["skipped"]) == (len(FILES) - skipped, skipped)
    assert result["bytes"] == sum(map(len, FILES.values())) - (len(FILES["a.csv"]) if skipped else 0)
    if isinstance(scene.source.far, Disk) and isinstance(scene.dest.far, Disk) and scene.dest.keeps_times:
        assert int((scene.dest.far.path / "sub/c.csv").stat().st_mtime) == LONG_AGO


def ranges_after_a_kill(scene: Any, folder: Path, hit: int) -> int:
    """How many ranges are fetched by the attempt after one that was killed before its ``hit``-th."""
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.before_range", hit)]).killed
    fetched = folder / "points"
    fetched.touch()
    rules = [{"point": "files.copy.before_range", "action": "trace", "to": str(fetched)}]
    assert attempt(run_copy, scene, rules=rules, try_number=2).ok
    everything_arrived(scene)
    return len(fetched.read_text().split())


@pytest.mark.parametrize(("source", "dest", "options"), WAYS, ids=str)
def test_killed_anywhere_and_run_again(request, tmp_path, source, dest, options):
    taken = options.get("if_exists") in ("skip", "rename")
    report = sweep(scenes(request, tmp_path, source, dest, taken=taken, **options), run_copy, everything_arrived)
    assert report.kills >= 20


@pytest.mark.parametrize("store", REMOTE)
def test_killed_twice(request, tmp_path, store):
    double_kill(scenes(request, tmp_path, "local", store, move=True), run_copy, everything_arrived, limit=KILLS)


@pytest.mark.parametrize("store", REMOTE)
@pytest.mark.parametrize("up", [True, False])
def test_killed_at_random(request, tmp_path, store, up):
    source, dest = ("local", store) if up else (store, "local")
    random_kills(scenes(request, tmp_path, source, dest, move=True), run_copy, everything_arrived, count=KILLS)


def test_the_sweep_passes_the_interesting_places(request, tmp_path):
    points = set(trace(run_copy, scenes(request, tmp_path, "sftp", "local", move=True)()))
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


def part_of(scene: Scene) -> Path:
    """The one part on a disk."""
    assert isinstance(scene.dest.far, Disk)
    (part,) = [name for name in scene.dest.far.names() if name.endswith(".part")]
    return scene.dest.far.path / part


def test_a_resumed_file_is_not_sent_again(request, tmp_path):
    """Killed after the last chunk was remembered, the retry sends nothing but the rename."""
    make = scenes(request, tmp_path, "local", "sftp")
    scene = make()
    big = os.urandom(3 * CHUNK)
    scene.source.put("sub/c.csv", big)
    last = trace(run_copy, make()).count("files.copy.after_write") + 1
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.after_write", last)]).killed
    part = part_of(scene)
    inode = part.stat().st_ino
    points = scene.directory / "points"
    points.touch()
    rules = [{"point": "files.copy.*", "action": "trace", "to": str(points)}]
    assert attempt(run_copy, scene, rules=rules, try_number=2).ok
    assert "files.copy.before_write" not in points.read_text().split()
    assert (part.parent / "c.csv").stat().st_ino == inode
    assert scene.dest.far.get("sub/c.csv") == big


@pytest.mark.parametrize(("source", "dest"), [("local", "sftp"), ("sftp", "local")])
def test_a_part_that_was_tampered_with_is_not_gone_on_with(request, tmp_path, source, dest):
    scene = scenes(request, tmp_path, source, dest)()
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.before_commit", 2)]).killed
    part = part_of(scene)
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(bytes(data))
    assert attempt(run_copy, scene, try_number=2).ok
    everything_arrived(scene)


@pytest.mark.parametrize("store", REMOTE)
def test_a_source_that_changed_between_the_attempts_is_copied_afresh(request, tmp_path, store):
    scene = scenes(request, tmp_path, store, "local")()
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.before_commit", 2)]).killed
    new = os.urandom(len(FILES["sub/c.csv"]))
    scene.source.put("sub/c.csv", new, LONG_AGO + 60)
    assert attempt(run_copy, scene, try_number=2).ok
    assert scene.dest.far.get("sub/c.csv") == new


@pytest.mark.parametrize("store", REMOTE)
def test_a_zombie_is_fenced(request, tmp_path, store):
    """The first attempt stops before its commit; the second finishes; the first continues and changes nothing."""
    scene = scenes(request, tmp_path, "local", store, move=True)()
    frozen = Attempt(run_copy, scene, rules=[kill_at("files.copy.before_commit") | {"action": "stop"}])
    assert frozen.stopped()
    assert attempt(run_copy, scene, try_number=2).ok
    everything_arrived(scene)
    frozen.thaw()
    frozen.wait()
    everything_arrived(scene)
