"""What files.copy does besides copying: each option, looked at on the far side, and killed anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound, PartialFailure
from flowrunner_provider.files import ledger
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.far import Disk
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, kill_at, sweep


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


def copy(place: Stage, source: str = "in/*", dest: str = "out/", *, fresh: bool = True, **options: Any) -> Any:
    operator = FileCopyOperator(task_id="copy", source=place.uri(source), dest=place.uri(dest), **options)
    return place.run(operator, fresh=fresh)


def out(place: Stage) -> list[str]:
    return Disk(place.disk.path / "out").names()


# -- what becomes of the sources


def test_after_moves_the_sources_into_a_folder(there):
    there.put("in/a.csv", "in/b.csv", "in/c.txt")
    copy(there, "in/*.csv", after="move:done")
    assert there.disk.names() == ["in/c.txt", "in/done/a.csv", "in/done/b.csv", "out/a.csv", "out/b.csv"]
    there.disk.put("in/a.csv", b"newer")
    copy(there, "in/*.csv", after=f"move:{there.disk.root}/attic/")
    assert there.disk.get("attic/a.csv") == b"newer"


def test_after_delete_is_move(there):
    there.put("in/a")
    copy(there, after="delete")
    assert there.disk.names() == ["out/a"]


def test_emptied_folders_are_removed_if_asked(there):
    there.put("in/a", "in/d/e/b", "in/f/c.txt", "in/f/d.csv")
    (there.disk.path / "in/g").mkdir()
    copy(there, "in/**/*", move=True, remove_empty_folders=True, max_files=10)
    assert (there.disk.path / "in").is_dir()
    assert not os.listdir(there.disk.path / "in")
    there.put("in/d/keep.txt", "in/d/a.csv", "in/e/b.csv")
    copy(there, "in/**/*.csv", move=True, remove_empty_folders=True)
    assert sorted(os.listdir(there.disk.path / "in")) == ["d"]


# -- which files


def test_young_files_are_left_for_later(there):
    there.put("in/old", "in/young")
    os.utime(there.disk.path / "in/young", (time.time(), time.time()))
    assert copy(there, min_age="1h")["files"] == 1
    assert out(there) == ["old"]


def test_files_that_change_between_two_looks_are_left_for_later(here, monkeypatch):
    here.put("in/still", "in/growing")
    looks = []
    whole = LocalStore.list

    async def growing(self, path, recursive=False):
        looks.append(path)
        here.disk.put("in/growing", b"x" * len(looks))
        async for entry in whole(self, path, recursive):
            yield entry

    monkeypatch.setattr(LocalStore, "list", growing)
    assert copy(here, stable_for=0.01)["files"] == 1
    assert out(here) == ["still"]
    assert len(looks) == 2


def test_too_many_bytes(here):
    here.put("in/a", "in/b")
    with pytest.raises(ConfigError, match="more than 7 bytes") as caught:
        copy(here, max_bytes=7)
    assert caught.value.field == "max_bytes"
    assert not (here.disk.path / "out").exists()
    assert copy(here, max_bytes=8)["files"] == 2


@pytest.mark.parametrize("name", ["a*b", "a?b", "[a]", "a[1].csv", "[*]"])
def test_wildcards_can_be_escaped(there, name):
    from flowrunner_provider.files.uri import escape

    there.put(f"in/{name}", "in/axb", "in/a", "in/a1.csv", "in/*")
    result = copy(there, f"in/{escape(name)}", "out/x")
    assert there.disk.get("out/x") == f"in/{name}".encode()
    assert result["files"] == 1
    there.disk.put("odd[1]/deep/f.csv", b"f")
    copy(there, "odd[[]1]/**/*.csv", "out[[]2]/")
    assert there.disk.get("out[2]/deep/f.csv") == b"f"


# -- what is verified, and what goes with the copies


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, data).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_sidecars_are_verified_and_written(there, algorithm):
    there.put("in/a", "in/b")
    for name in ("a", "b"):
        line = f"{digest(f'in/{name}'.encode(), algorithm)} *{name}\n"
        there.disk.put(f"in/{name}.{algorithm}", line.encode())
    copy(there, verify_sidecar=True, write_sidecar=True, algorithm=algorithm, move=True)
    assert there.disk.names() == [f"out/{name}" for name in ("a", f"a.{algorithm}", "b", f"b.{algorithm}")]
    assert there.disk.get(f"out/a.{algorithm}").decode() == f"{digest(b'in/a', algorithm)}  a\n"


def test_a_large_file_is_digested_as_it_passes(there):
    content = bytes(range(256)) * 12_345  # several chunks, the last one short
    there.disk.put("in/a", content)
    there.disk.put("in/a.sha256", f"{digest(content, 'sha256')}  a\n".encode())
    copy(there, verify_sidecar=True, write_sidecar=True, verify="checksum", source="in/a")
    assert there.disk.get("out/a") == content
    assert there.disk.get("out/a.sha256").decode() == f"{digest(content, 'sha256')}  a\n"


def test_a_file_that_is_not_what_its_sidecar_says_is_not_copied(there):
    there.put("in/a")
    there.disk.put("in/a.sha256", f"{digest(b'else')}  a\n".encode())
    there.disk.put("out/a", b"old")
    with pytest.raises(IntegrityError, match="instead of"):
        copy(there, verify_sidecar=True, move=True)
    assert there.disk.names() == ["in/a", "in/a.sha256", "out/a"]
    assert there.disk.get("out/a") == b"old"
    (there.disk.path / "in/a.sha256").unlink()
    with pytest.raises(NotFound, match="no sidecar"):
        copy(there, verify_sidecar=True)


def watch_reads(monkeypatch, tell):
    """``tell`` gets the path of each file that the local store reads, in one go or in blocks."""

    def watched(whole):
        def reading(self, path, *more, **how):
            tell(path)
            return whole(self, path, *more, **how)

        return reading

    for name in ("read", "read_whole"):
        monkeypatch.setattr(LocalStore, name, watched(getattr(LocalStore, name)))


def test_the_marker_comes_last_and_the_old_one_goes_first(here, monkeypatch):
    here.put("in/a", "in/b")
    here.disk.put("out/_SUCCESS", b"of yesterday")
    seen = []
    watch_reads(monkeypatch, lambda path: seen.append((here.disk.path / "out/_SUCCESS").exists()))
    copy(here, done_marker="_SUCCESS")
    assert out(here) == ["_SUCCESS", "a", "b"]
    assert here.disk.get("out/_SUCCESS") == b""
    assert seen == [False, False]


def test_no_marker_after_a_failure(here):
    here.put("in/a")
    here.disk.put("in/a.sha256", b"wrong  a\n")
    here.disk.put("out/_SUCCESS", b"of yesterday")
    with pytest.raises(PartialFailure):
        copy(here, done_marker="_SUCCESS", verify_sidecar=True, on_item_error="continue")
    assert out(here) == []


def test_permission_bits(there):
    there.put("in/a")
    copy(there, chmod="0640")
    assert (there.disk.path / "out/a").stat().st_mode & 0o7777 == 0o640


# -- failures


def test_the_others_are_copied_and_the_retry_does_only_the_failed(here, monkeypatch):
    names = [f"in/{number}" for number in range(5)]
    here.put(*names)
    for name in names:
        here.disk.put(f"{name}.sha256", f"{digest(name.encode())}  x\n".encode())
    here.disk.put("in/1.sha256", b"bad  x\n")
    (here.disk.path / "in/3.sha256").unlink()
    options: dict[str, Any] = {"verify_sidecar": True, "on_item_error": "continue", "move": True}
    with pytest.raises(PartialFailure, match="2 files could not be copied, 3 were") as caught:
        copy(here, fresh=False, **options)
    assert (sorted(caught.value.failed), caught.value.done, caught.value.retryable) == (["1", "3"], 3, True)
    assert out(here) == ["0", "2", "4"]
    here.disk.put("in/1.sha256", f"{digest(b'in/1')}  x\n".encode())
    with pytest.raises(PartialFailure, match="1 files could not be copied, 4 were"):
        copy(here, fresh=False, **options)
    here.disk.put("in/3.sha256", f"{digest(b'in/3')}  x\n".encode())
    read: list[str] = []
    watch_reads(monkeypatch, lambda path: read.append(Path(path).name))
    result = copy(here, fresh=False, **options)
    assert [name for name in read if not name.endswith(".sha256")] == ["3"]
    assert (result["files"], result["bytes"]) == (5, 20)
    assert out(here) == ["0", "1", "2", "3", "4"]
    assert Disk(here.disk.path / "in").names() == []


def test_too_many_failures_end_the_attempt(here):
    here.put(*(f"in/{number}" for number in range(5)))
    with pytest.raises(PartialFailure, match="more than 2 files"):
        copy(here, verify_sidecar=True, on_item_error="continue", max_failures=2, concurrency=1)


# -- only new files


def test_each_version_of_a_file_is_copied_once_over_all_runs(there):
    there.put("in/a", "in/b")
    assert copy(there, only_new=True)["files"] == 2
    (there.disk.path / "out/a").unlink()  # taken away by whoever works on it
    result = copy(there, only_new=True)
    assert (result["files"], result["known"]) == (0, 2)
    there.put("in/a", "in/c", age=-100)
    result = copy(there, only_new=True)
    assert (result["files"], result["known"]) == (2, 1)
    assert [name for name in out(there) if not name.startswith(".")] == ["a", "b", "c"]
    assert len([name for name in out(there) if name.startswith(".")]) == 1


def test_the_ledger_may_be_elsewhere(there, tmp_path):
    there.put("in/a")
    book = tmp_path / "state.jsonl"
    assert copy(there, only_new=str(book))["files"] == 1
    assert json.loads(book.read_text())[1:3] == ["a", 4]
    assert copy(there, only_new=str(book))["files"] == 0
    assert out(there) == ["a"]
    book.write_text("{}\n")
    with pytest.raises(ConfigError, match="damaged"):
        copy(there, only_new=str(book))


def test_the_ledger_stays_small(here, monkeypatch):
    monkeypatch.setattr(ledger, "MOST", 3)
    monkeypatch.setattr(ledger, "FOLD", 1)
    for number in range(8):
        here.put(f"in/{number}")
        copy(here, only_new=True, move=True)
    (book,) = (name for name in out(here) if name.startswith("."))
    assert len(here.disk.get(f"out/{book}").splitlines()) <= 4


def test_what_a_run_that_died_for_good_has_copied_is_known_to_the_next(tmp_path):
    """Killed after the commit; the next run is another task instance, and does not write the file again."""
    scene = make_scene(tmp_path, only_new=True)()
    assert attempt(run_copy, scene, rules=[kill_at("files.copy.after_commit")]).killed
    inode = (scene.disk.path / "out/a").stat().st_ino
    result = copy(scene, only_new=True, verify_sidecar=True)
    assert (result["files"], result["known"]) == (1, 1)
    assert (scene.disk.path / "out/a").stat().st_ino == inode


def test_what_a_run_that_failed_for_good_has_copied_is_known_even_if_it_was_taken_away(here):
    here.put("in/a", "in/b")
    here.disk.put("in/a.sha256", f"{digest(b'in/a')}  a\n".encode())
    here.disk.put("in/b.sha256", b"wrong  b\n")
    with pytest.raises(IntegrityError):
        copy(here, only_new=True, verify_sidecar=True, concurrency=1)
    (here.disk.path / "out/a").unlink()
    here.disk.put("in/b.sha256", f"{digest(b'in/b')}  b\n".encode())
    result = copy(here, only_new=True, verify_sidecar=True)
    assert (result["files"], result["known"]) == (1, 1)
    assert [name for name in out(here) if not name.startswith(".")] == ["b"]


# -- killed anywhere


def make_scene(tmp_path: Path, **options: Any):
    numbers = iter(range(10_000))

    def make() -> Stage:
        there = stage("local", tmp_path / str(next(numbers)), None)
        there.put("in/a", "in/b")
        for name in ("a", "b"):
            there.disk.put(f"in/{name}.sha256", f"{digest(f'in/{name}'.encode())}  {name}\n".encode())
        (there.state / "options").write_text(json.dumps(options))
        return there

    return make


def run_copy(there: Stage) -> None:
    from flowrunner_provider.files import session

    session.BATCH_SIZE, session.SAVE_EVERY = 1, 0.0
    options = json.loads((there.state / "options").read_text())
    operator = FileCopyOperator(
        task_id="copy", source=there.uri("in/*"), dest=there.uri("out/"), concurrency=1, verify_sidecar=True, **options
    )
    result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def everything_in_its_place(there: Stage) -> None:
    options = json.loads((there.state / "options").read_text())
    visible = [name for name in out(there) if not name.startswith(".")]
    expected = {"a", "b"}
    if options.get("write_sidecar"):
        expected |= {f"{name}.sha256" for name in ("a", "b")}
    if options.get("done_marker"):
        expected |= {"_SUCCESS"}
    assert set(visible) == expected
    hidden = [name for name in out(there) if name.startswith(".")]
    assert len(hidden) == (1 if options.get("only_new") else 0)
    for name in ("a", "b"):
        assert there.disk.get(f"out/{name}") == f"in/{name}".encode()
    archive = options.get("after", "").removeprefix("move:")
    if archive:
        left = Disk(there.disk.path / "in").names()
        assert left == [f"{archive}/{name}{tail}" for name in ("a", "b") for tail in ("", ".sha256")]
    result = json.loads((there.state / "result").read_text())
    assert (result["files"], result["skipped"], result["known"], result["bytes"]) == (2, 0, 0, 8)
    if options.get("only_new"):
        operator = FileCopyOperator(
            task_id="again", source=there.uri("in/*"), dest=there.uri("out/"), only_new=True, verify_sidecar=True
        )
        assert there.run(operator)["files"] == 0


def around_the_options(point: str) -> bool:
    """What the sweeps without options do not pass; nightly everything."""
    steps = ("files.write.", "files.copy.after_commit", "files.copy.before_ledger", "files.copy.after_ledger")
    return KILLS > 3 or point.startswith((*steps, "files.copy.before_delete", "files.copy.after_delete"))


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "options",
    [
        {"write_sidecar": True, "done_marker": "_SUCCESS", "after": "move:done"},
        {"only_new": True, "if_exists": "fail", "on_item_error": "continue"},
    ],
    ids=["sidecars", "only_new"],
)
def test_killed_anywhere_and_run_again(tmp_path, options):
    make = make_scene(tmp_path, **options)
    assert sweep(make, run_copy, everything_in_its_place, at=around_the_options).kills >= 8


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"after": "burn"}, "after"), ({"after": "move:"}, "after"), ({"after": "move:../x"}, "after"),
        ({"after": "move:x", "move": True}, "after"), ({"after": "move:done", "recursive": True}, "after"),
        ({"remove_empty_folders": True}, "remove_empty_folders"), ({"min_age": "soon"}, "min_age"),
        ({"stable_for": "11m"}, "stable_for"), ({"done_marker": "a/b"}, "done_marker"),
        ({"done_marker": "a"}, "done_marker"), ({"chmod": "rw"}, "chmod"), ({"max_failures": 0}, "max_failures"),
        ({"on_item_error": "hope"}, "on_item_error"), ({"algorithm": "crc"}, "algorithm"),
        ({"max_bytes": 0}, "max_bytes"), ({"only_new": "relative"}, "only_new"),
        ({"only_new": "/x/*.jsonl"}, "only_new"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_happens(here, options, field):
    here.put("in/a")
    with pytest.raises(ConfigError) as caught:
        copy(here, **options)
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert here.disk.names() == ["in/a"]


# -- the connection's rate limit


def test_the_rate_limit_of_the_connection_is_kept(tmp_path, sshd, airflow_home):
    there = stage("sftp", tmp_path, sshd)
    connection = json.loads(os.environ["AIRFLOW_CONN_PARTNER"])
    connection["extra"]["flowrunner"] = {"rate_limit": "20/second"}
    os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps(connection)
    there.put("in/a", "in/b", "in/c")
    began = time.monotonic()
    copy(there, concurrency=3)
    waits = 3 * 3 - 1  # for each file a read, a write, a rename at least; the very first waits for nobody
    assert time.monotonic() - began >= waits / 20
    assert out(there) == ["a", "b", "c"]
    connection["extra"]["flowrunner"] = {"rate_limit": "often"}
    os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps(connection)
    with pytest.raises(ConfigError, match="rate limit"):
        copy(there)
