"""files.delete and files.mkdir, on this machine and against a real SSH server."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PermanentError,
)
from flowrunner_provider.files import delete as engine
from flowrunner_provider.files.operators import FileDeleteOperator, MakeDirectoryOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, sweep
from tests.support.servers import free_port


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def delete(there: Stage, path: str | list[str], *, fresh: bool = True, **options: Any) -> Any:
    paths = [there.uri(one) for one in path] if isinstance(path, list) else there.uri(path)
    return there.run(FileDeleteOperator(task_id="delete", path=paths, **options), fresh=fresh)


def test_what_matches_is_gone_and_counted(there):
    there.put("a.csv", "b.csv", "c.txt", "d/e.csv", ".h.csv", ".a.csv.token.part")
    result = delete(there, "*.csv")
    assert there.disk.names() == [".a.csv.token.part", ".h.csv", "c.txt", "d/e.csv"]
    assert result == {
        "matched": 2, "deleted": 2, "kept": 0, "bytes": 10, "dry_run": False,
        "paths": [there.uri("a.csv"), there.uri("b.csv")],
    }  # fmt: skip


def test_one_file_and_a_list_and_a_tree(there):
    there.put("a", "b", "c", "d/e", "d/f/g")
    assert delete(there, "a")["deleted"] == 1
    assert delete(there, ["b", "c", "b"])["deleted"] == 2
    assert delete(there, "d", recursive=True)["matched"] == 2
    assert there.disk.names() == []
    assert (there.disk.path / "d" / "f").is_dir(), "folders stay"


def test_a_folder_is_not_emptied_by_mistake(there):
    there.put("d/e")
    for path in ("d", "d/"):
        with pytest.raises(ConfigError, match="is a folder") as caught:
            delete(there, path)
        assert caught.value.remedy
    assert there.disk.names() == ["d/e"]


def test_the_newest_are_kept_and_the_young_are_kept(there):
    there.put("a", "b", "c", "d")
    os.utime(there.disk.path / "a", (time.time(), time.time()))
    result = delete(there, "*", keep_last=2, older_than="1d")
    assert there.disk.names() == ["a", "d"]
    assert (result["matched"], result["deleted"], result["kept"]) == (4, 2, 2)
    assert delete(there, "*", keep_last=2)["deleted"] == 0
    assert delete(there, "*", older_than="1d")["deleted"] == 1


def test_more_than_allowed_deletes_nothing(there):
    there.put(*(f"f{number}" for number in range(5)))
    with pytest.raises(ConfigError, match="max_deletes=4") as caught:
        delete(there, "*", max_deletes=4)
    assert caught.value.field == "max_deletes"
    assert len(there.disk.names()) == 5
    assert delete(there, "*", max_deletes=5)["deleted"] == 5


def test_a_dry_run_counts_and_deletes_nothing(there):
    there.put("a", "b")
    result = delete(there, "*", dry_run=True, keep_last=1)
    assert (result["deleted"], result["kept"], result["dry_run"]) == (1, 1, True)
    assert result["paths"] == [there.uri("a")]
    assert there.disk.names() == ["a", "b"]


@pytest.mark.parametrize("path", ["*.csv", "a", "d/*"])
def test_nothing_there(there, path):
    there.put("b")
    with pytest.raises(NotFound):
        delete(there, path)
    assert delete(there, path, missing_ok=True)["matched"] == 0


def test_a_missing_path_in_a_list_stops_before_the_first_delete(there):
    there.put("a")
    with pytest.raises(NotFound):
        delete(there, ["a", "nowhere"])
    assert there.disk.names() == ["a"]


@pytest.mark.parametrize("options", [{}, {"missing_ok": True}])
def test_a_listing_that_fails_half_way_deletes_nothing(here, monkeypatch, options):
    for error in (AccessDenied, ConnectionLost, NotFound):
        here.put("a", "d/b")
        whole = LocalStore.list

        async def broken(self, path, recursive=False, error=error, whole=whole):
            async for entry in whole(self, path, recursive):
                yield entry
                if entry.name == "a":
                    raise error("half-way")

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "list", broken)
            with pytest.raises(FlowRunnerError, match=r"half-way|changed while"):
                delete(here, "", recursive=True, **options)
        assert here.disk.names() == ["a", "d/b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_deletes_nothing(there):
    there.put("a", "d/b")
    (there.disk.path / "d").chmod(0)
    try:
        with pytest.raises(AccessDenied):
            delete(there, "", recursive=True, missing_ok=True)
    finally:
        (there.disk.path / "d").chmod(0o755)
    assert there.disk.names() == ["a", "d/b"]


def test_links_are_left_alone(there):
    there.put("a", "d/b")
    os.symlink(there.disk.path / "d", there.disk.path / "to_folder")
    os.symlink(there.disk.path / "a", there.disk.path / "to_file")
    assert delete(there, "", recursive=True)["deleted"] == 2
    assert there.disk.names() == ["to_file"]
    with pytest.raises(ConfigError, match="symbolic link"):
        delete(there, "to_file")


def test_a_file_that_changed_after_the_listing_is_kept(here, monkeypatch):
    here.put("a", "b")
    find = engine._Delete._find

    async def then_change(self):
        found = await find(self)
        here.disk.put("a", b"new and important")
        return found

    monkeypatch.setattr(engine._Delete, "_find", then_change)
    result = delete(here, "*")
    assert (result["matched"], result["deleted"], result["kept"]) == (2, 1, 1)
    assert here.disk.names() == ["a"]


def test_a_failure_in_the_middle_is_gone_on_with(here, monkeypatch):
    """Counts over both attempts are those of the work, and max_deletes counts both attempts."""
    monkeypatch.setattr(engine, "CONCURRENCY", 1)
    here.put("a", "b", "c")
    whole = LocalStore.delete

    async def refuse(self, path):
        if path.endswith("b"):
            raise ConnectionLost("gone")
        await whole(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", refuse)
        with pytest.raises(ConnectionLost):
            delete(here, "*", fresh=False, max_deletes=3)
    here.put("x")
    with pytest.raises(ConfigError, match="max_deletes"):
        delete(here, "*", fresh=False, max_deletes=3)
    assert here.disk.names() == ["b", "c", "x"]
    result = delete(here, "*", fresh=False, max_deletes=4)
    assert (result["matched"], result["deleted"], result["kept"]) == (4, 4, 0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_deletes": 0}, "max_deletes"),
        ({"max_deletes": "5"}, "max_deletes"),
        ({"keep_last": -1}, "keep_last"),
        ({"older_than": "soon"}, "older_than"),
        ({"path": []}, "path"),
        ({"path": "relative"}, "path"),
        ({"path": "ldap://x@/y"}, "path"),
        ({"path": "/a/../b"}, "path"),
        ({"path": "sftp://nobody@/x"}, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, options, field):
    here.put("a")
    operator = FileDeleteOperator(task_id="delete", **{"path": here.uri("*"), **options})
    with pytest.raises(ConfigError) as caught:
        here.run(operator)
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert here.disk.names() == ["a"]


@pytest.mark.parametrize("action", [FileDeleteOperator, MakeDirectoryOperator])
def test_an_unreachable_host_and_a_wrong_type(here, action, monkeypatch):
    wrong = {"conn_type": "sftp", "host": "127.0.0.1", "port": free_port(), "extra": {"no_host_key_check": True}}
    for values, error in ((wrong, ConnectionLost), ({**wrong, "conn_type": "http"}, ConfigError)):
        monkeypatch.setenv("AIRFLOW_CONN_PARTNER", json.dumps(values))
        with pytest.raises(error):
            here.run(action(task_id="t", path="sftp://partner@/x"))


def listed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server may do while somebody else creates and deletes files in the folder."""
    once = LocalStore.list

    async def twice(self, path, recursive=False):
        entries = [entry async for entry in once(self, path, recursive)]
        for entry in entries + entries:
            yield entry

    monkeypatch.setattr(LocalStore, "list", twice)


def test_a_file_that_is_listed_twice_takes_one_place_of_keep_last(here, monkeypatch):
    here.put("a", "b", "c")
    listed_twice(monkeypatch)
    delete(here, "*", keep_last=2)
    assert here.disk.names() == ["b", "c"]


class TestMkdir:
    def make(self, there: Stage, path: str, *, fresh: bool = True, **options: Any) -> Any:
        return there.run(MakeDirectoryOperator(task_id="mkdir", path=there.uri(path), **options), fresh=fresh)

    def test_made_once_with_its_parents(self, there):
        assert self.make(there, "a/b/c/") == {"path": there.uri("a/b/c/"), "created": True}
        assert (there.disk.path / "a/b/c").is_dir()
        assert not self.make(there, "a/b/c")["created"]
        with pytest.raises(AlreadyExists):
            self.make(there, "a/b/c", exist_ok=False)

    def test_parents_are_not_made_unasked(self, there):
        with pytest.raises((NotFound, PermanentError)):
            self.make(there, "x/y", parents=False)
        assert not (there.disk.path / "x").exists()
        assert self.make(there, "x", parents=False)["created"]

    def test_a_file_is_no_folder(self, there):
        there.put("f")
        with pytest.raises(AlreadyExists, match="not a folder"):
            self.make(there, "f")
        os.symlink(there.disk.path / "f", there.disk.path / "to_file")
        (there.disk.path / "d").mkdir()
        os.symlink(there.disk.path / "d", there.disk.path / "to_folder")
        assert not self.make(there, "to_folder")["created"]
        with pytest.raises(PermanentError):
            self.make(there, "to_file")

    def test_wildcards_are_escaped_as_everywhere(self, there):
        self.make(there, "a/[*]/[[]b]")
        assert (there.disk.path / "a/*/[b]").is_dir()

    def test_a_pattern_is_refused(self, there):
        with pytest.raises(ConfigError, match="pattern"):
            self.make(there, "a*")


# -- killed


def scenes(tmp_path: Path, server: Any, kind: str):
    numbers = iter(range(10_000))

    def make() -> Stage:
        there = stage(kind, tmp_path / str(next(numbers)), server)
        there.put("a.csv", "b.csv", "c.csv", "keep.txt")
        return there

    return make


def run_delete(there: Stage) -> Any:
    engine.BATCH_SIZE, engine.CONCURRENCY = 2, 1
    operator = FileDeleteOperator(task_id="delete", path=there.uri("*.csv"), max_deletes=3)
    result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def all_gone_and_counted(there: Stage) -> None:
    assert there.disk.names() == ["keep.txt"]
    result = json.loads((there.state / "result").read_text())
    assert (result["matched"], result["deleted"], result["kept"], result["bytes"]) == (3, 3, 0, 15)
    assert result["paths"] == [there.uri(name) for name in ("a.csv", "b.csv", "c.csv")]


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["local", "sftp"] if KILLS > 3 else ["sftp"])
def test_killed_anywhere_and_run_again(tmp_path, sshd, kind):
    report = sweep(scenes(tmp_path, sshd, kind), run_delete, all_gone_and_counted)
    assert report.kills >= 15


@pytest.mark.faults
def test_killed_twice(tmp_path, sshd):
    double_kill(scenes(tmp_path, sshd, "local"), run_delete, all_gone_and_counted, limit=KILLS)


def run_mkdir(there: Stage) -> Any:
    operator = MakeDirectoryOperator(task_id="mkdir", path=there.uri("x/y"), exist_ok=False)
    result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def made(there: Stage) -> None:
    assert (there.disk.path / "x/y").is_dir()
    assert json.loads((there.state / "result").read_text())["created"]


@pytest.mark.faults
def test_mkdir_killed_anywhere(tmp_path, sshd):
    assert sweep(scenes(tmp_path, sshd, "sftp"), run_mkdir, made).kills >= 5
    there = scenes(tmp_path / "local", sshd, "local")()
    assert attempt(run_mkdir, there, rules=[kill_at("files.mkdir.after_mkdir")]).killed
    assert attempt(run_mkdir, there, try_number=2).ok
