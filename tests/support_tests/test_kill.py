"""The harness kills exactly where it says, and finds targets that break their promise."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import Fenced
from flowrunner_provider.core.failpoints import failpoint
from tests.support.context import FileStateStore, make_context
from tests.support.kill import (
    Attempt,
    Broken,
    attempt,
    double_kill,
    kill_at,
    overlaps,
    random_kills,
    sweep,
    trace,
    zombies,
)

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Scene:
    """A far side that is a file of lines: each line is an effect."""

    directory: Path

    @property
    def effects(self) -> Path:
        return self.directory / "effects"

    @property
    def state(self) -> FileStateStore:
        return FileStateStore(self.directory / "state")


def scenes(root: Path):
    """A factory of fresh scenes below ``root``."""

    def make() -> Scene:
        directory = root / f"scene-{len(list(root.iterdir()))}"
        directory.mkdir()
        return Scene(directory)

    return make


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def careful(scene: Scene) -> str:
    """Three effects, each looked up on the far side before it is done again."""
    scene.effects.touch()
    for item in ("a", "b", "c"):
        failpoint("item.before")
        if item not in scene.effects.read_text().split():
            append(scene.effects, item)
        failpoint("item.after")
    scene.state.set("done", True)
    failpoint("end")
    return "done"


def careless(scene: Scene) -> None:
    """The same, trusting that a run is never interrupted between the effect and its record."""
    done = scene.state.get("done", [])
    for item in ("a", "b", "c"):
        if item not in done:
            append(scene.effects, item)
            failpoint("between.effect.and.record")
            scene.state.set("done", [*scene.state.get("done", []), item])
            failpoint("after.record")


def slow_and_careful(scene: Scene) -> None:
    for _ in range(5):
        time.sleep(0.01)
        careful(scene)


def each_effect_once(scene: Scene) -> None:
    assert sorted(scene.effects.read_text().split()) == ["a", "b", "c"]


def fails(scene: Scene) -> None:
    print("about to fail")
    raise LookupError("on purpose")


def sleeps() -> None:
    time.sleep(60)


def leaves_a_child(pid_file: Path) -> None:
    pid_file.write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid))


def environment(name: str) -> str | None:
    return os.environ.get(name)


def threads_of_the_fork_server() -> int:
    return len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))


def number_of_the_try() -> int:
    return make_context()["ti"].try_number


def ends_the_process() -> None:
    os._exit(3)


def reports_what_cannot_be_pickled() -> object:
    return lambda: None


def test_the_trace_is_the_ordered_list_of_passages(tmp_path: Path) -> None:
    assert trace(careful, Scene(tmp_path)) == ["item.before", "item.after"] * 3 + ["end"]


def test_the_kill_comes_at_exactly_the_passage(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    outcome = attempt(careful, scene, rules=[kill_at("item.before", 3)])
    assert (outcome.killed, outcome.ok, scene.effects.read_text().split()) == (True, False, ["a", "b"])
    assert scene.state.get("done") is None


def test_result_error_and_output_come_back(tmp_path: Path) -> None:
    good, bad = attempt(careful, Scene(tmp_path)), attempt(fails, Scene(tmp_path))
    assert (good.ok, good.result, good.exitcode) == (True, "done", 0)
    assert (bad.ok, bad.error_type, bad.output) == (False, "LookupError", "about to fail\n")
    assert "on purpose" in (bad.error or "")


def test_an_end_without_a_result_is_an_error() -> None:
    assert attempt(ends_the_process).error == "ended with code 3, no result"
    assert "pickle" in (attempt(reports_what_cannot_be_pickled).error or "")


def test_a_target_that_hangs_is_killed_and_its_stack_shown() -> None:
    outcome = attempt(sleeps, timeout=1.0)
    assert (outcome.error, outcome.killed) == ("timed out after 1 s", False)
    assert "in sleeps" in outcome.output


def test_what_the_target_started_goes_with_it(tmp_path: Path) -> None:
    assert attempt(leaves_a_child, tmp_path / "pid").ok
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    end = time.monotonic() + 5
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "the grandchild is still alive"
        time.sleep(0.01)


def test_the_child_has_the_environment_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", '{"conn_type": "sftp"}')
    assert attempt(environment, "AIRFLOW_CONN_PARTNER").result == '{"conn_type": "sftp"}'
    assert attempt(environment, "AIRFLOW_HOME").result == os.environ["AIRFLOW_HOME"]
    assert attempt(number_of_the_try, try_number=4).result == 4


def test_children_are_forked_from_a_process_without_threads() -> None:
    assert attempt(threads_of_the_fork_server).result == 1


def test_a_careful_target_passes_every_sweep(tmp_path: Path) -> None:
    report = sweep(scenes(tmp_path), careful, each_effect_once)
    assert (report.scenarios, report.kills, report.attempts) == (7, 7, 15)


def test_a_careful_target_passes_double_kills(tmp_path: Path) -> None:
    report = double_kill(scenes(tmp_path), careful, each_effect_once, limit=8, seed=1)
    assert (report.scenarios, report.kills) == (8, 16)


def test_a_careful_target_passes_random_kills(tmp_path: Path) -> None:
    report = random_kills(scenes(tmp_path), slow_and_careful, each_effect_once, count=8, seed=1)
    assert report.scenarios == 8
    assert report.kills > 0


def test_the_sweep_finds_a_target_that_duplicates_on_retry(tmp_path: Path) -> None:
    with pytest.raises(Broken) as broken:
        sweep(scenes(tmp_path), careless, each_effect_once)
    report = broken.value.report
    assert (report.scenarios, len(report.failures)) == (6, 3)
    for number in (1, 2, 3):
        assert f"killed at between.effect.and.record #{number}" in str(broken.value)
    assert "after.record" not in str(broken.value)


def test_double_kills_find_it_too(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="the retry at its failpoint"):
        double_kill(scenes(tmp_path), careless, each_effect_once, limit=6)


def test_a_retry_that_never_succeeds_is_a_failure_unless_it_may_stop(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="no success after 2 retries"):
        sweep(scenes(tmp_path), stops_on_retry, lambda scene: None, retries=2)
    sweep(
        scenes(tmp_path),
        stops_on_retry,
        lambda scene: None,
        done=lambda o: o.ok or o.error_type == "LookupError",
    )


def stops_on_retry(scene: Scene) -> None:
    marker = scene.directory / "marker"
    if marker.exists():
        raise LookupError("may or may not have happened")
    marker.touch()
    failpoint("marked")


def test_a_clean_run_that_fails_is_reported_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="on purpose"):
        sweep(scenes(tmp_path), fails, each_effect_once)


def test_a_zombie_can_be_frozen_while_another_attempt_runs(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    zombie = Attempt(slow_and_careful, scene)
    zombie.started()
    zombie.freeze()
    assert attempt(careful, scene, try_number=2).ok
    assert not zombie.join(0.05)
    zombie.thaw()
    assert zombie.wait().ok


def fenced(scene: Scene) -> None:
    """Takes over, and acts only as long as nobody else has."""
    holder, mine = scene.directory / "holder", str(os.getpid())
    holder.write_text(mine)
    failpoint("taken")
    if holder.read_text() != mine:
        raise Fenced("another one has taken over", remedy="nothing")
    if not scene.effects.exists():
        append(scene.effects, "a b c")
    failpoint("done")


def unfenced(scene: Scene) -> None:
    seen = scene.effects.exists()
    failpoint("looked")
    if not seen:
        append(scene.effects, "a b c")


def test_a_zombie_at_every_failpoint(tmp_path: Path) -> None:
    report = zombies(scenes(tmp_path), fenced, each_effect_once)
    assert (report.scenarios, report.attempts) == (2, 5)
    with pytest.raises(Broken, match="stopped at looked #1"):
        zombies(scenes(tmp_path), unfenced, each_effect_once)
    with pytest.raises(Broken, match="otherwise than fenced"):
        zombies(scenes(tmp_path), fenced, each_effect_once, defeats=())


def half(scene: Scene) -> None:
    """Writes where another one may be writing."""
    for word in ("a", "b", "c"):
        with scene.effects.open("a") as file:
            file.write(word)
        failpoint(word)


def never_half(scene: Scene) -> None:
    assert not scene.effects.exists() or len(scene.effects.read_text()) % 3 == 0


def test_two_attempts_that_both_stop(tmp_path: Path) -> None:
    def anything(scene: Scene) -> None:
        """It has its own time."""

    assert overlaps(scenes(tmp_path), half, anything, midway=anything).scenarios == 9
    with pytest.raises(Broken, match="stopped at c #1, the next one at its failpoint 2") as caught:
        overlaps(scenes(tmp_path), half, anything, midway=never_half, at="c".__eq__)
    assert len(caught.value.report.failures) == 2, "at its third failpoint it has written all"
    assert overlaps(scenes(tmp_path), half, anything, midway=anything, limit=2).scenarios == 2


def fails_when_disturbed(scene: Scene) -> None:
    failpoint("before")
    if scene.effects.exists():
        raise Fenced("somebody was here", remedy="nothing")
    append(scene.effects, "a b c")


def test_the_attempt_that_takes_over_must_not_suffer(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="failed for good"):
        overlaps(scenes(tmp_path), fails_when_disturbed, each_effect_once, midway=each_effect_once)
