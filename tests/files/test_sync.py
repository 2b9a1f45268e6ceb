"""files.sync: between both stores, killed anywhere, and against a model; trees are compared by their hashes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import AccessDenied, ConfigError, ConnectionLost, FlowRunnerError, NotFound
from flowrunner_provider.files import session, spool
from flowrunner_provider.files.operators import FileSyncOperator
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.sync import plan as sync_plan
from tests.files.stage import KILLS, LONG_AGO, Stage, stage
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import double_kill, random_kills, sweep

OLD = LONG_AGO - 1000


def hashes(folder: Path) -> dict[str, str]:
    """What is in a tree, hidden files included: the judge."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Pair:
    """Two folders: ``one`` is the source and ``two`` the destination."""

    def __init__(self, one: Stage, two: Stage, options: dict[str, Any] | None = None) -> None:
        self.one, self.two, self.options = one, two, options or {}
        (one.disk.path / "one").mkdir()

    def put(self, side: str, name: str, text: str, when: int = LONG_AGO) -> None:
        disk = self.one.disk if side == "one" else self.two.disk
        disk.put(f"{side}/{name}", text.encode())
        os.utime(disk.path / side / name, (when, when))

    def operator(self, **options: Any) -> FileSyncOperator:
        more = {**self.options, **options}
        if more.get("backup_dir"):
            more["backup_dir"] = self.two.uri(more["backup_dir"])
        return FileSyncOperator(task_id="sync", source=self.one.uri("one"), dest=self.two.uri("two"), **more)

    def sync(self, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.one.run(self.operator(**options))
        assert result["listed"] == result["copied"] + result["unchanged"]
        return result

    def trees(self) -> tuple[dict[str, str], dict[str, str]]:
        return hashes(self.one.disk.path / "one"), hashes(self.two.disk.path / "two")


def pair(way: str, tmp_path: Path, server: Any, **options: Any) -> Pair:
    here, there = (stage(kind, tmp_path / kind, server) for kind in ("local", "local" if way == "local" else "sftp"))
    return Pair(there, here, options) if way == "down" else Pair(here, there, options)


@pytest.fixture(params=["up", "down"])
def both(request, tmp_path, sshd) -> Pair:
    return pair(request.param, tmp_path, sshd)


@pytest.fixture
def local(tmp_path) -> Pair:
    (tmp_path / "a").mkdir()
    return Pair(stage("local", tmp_path / "a", None), stage("local", tmp_path / "b", None))


def test_made_like_the_source_and_then_left_alone(both, monkeypatch):
    monkeypatch.setattr(spool, "HELD", 0)
    for name in ("a", "b c", "d/e", "d/f/g", "ü", ".h"):
        both.put("one", name, name)
    both.put("two", "extra", "x")
    result = both.sync()
    assert (result["copied"], result["deleted"], result["extra"]) == (6, 0, 1)
    result = both.sync(delete_extra=True)
    assert (result["copied"], result["unchanged"], result["deleted"], result["deletes"]) == (0, 6, 1, ["extra"])
    one, two = both.trees()
    assert one == two
    both.put("one", "a", "A", LONG_AGO + 60)
    assert both.sync()["copies"] == ["a"]
    assert both.trees()[0] == both.trees()[1]


def test_what_changes_nothing_records_nothing_and_asks_for_no_name_of_the_destination(local, tmp_path, monkeypatch):
    for name in ("a", "d/e"):
        local.put("one", name, name)

    def recorded(state: str) -> bool:
        task, store = local.operator(), FileStateStore(tmp_path / state)
        execute(task, make_context(task, state=store))
        return any('"counts"' in path.read_text() for path in store.directory.iterdir())

    assert recorded("first")
    monkeypatch.setattr(LocalStore, "join", lambda *path: pytest.fail(f"{path} is not going to be written"))
    assert not recorded("second")


@pytest.mark.parametrize(
    ("compare", "copied"), [("size_mtime", ["size", "time"]), ("checksum", ["bytes", "size"]), ("name", [])]
)
def test_what_counts_as_changed(both, compare, copied):
    for name, text, when in (("size", "xx", OLD), ("time", "y", LONG_AGO), ("bytes", "z", OLD), ("same", "s", OLD)):
        both.put("one", name, text, when)
    for name, text in (("size", "x"), ("time", "y"), ("bytes", "Z"), ("same", "s")):
        both.put("two", name, text, OLD)
    assert sorted(both.sync(compare=compare)["copies"]) == copied


def test_chosen_files_only_and_the_others_are_left_alone(local):
    for name in ("a.csv", "a.tmp", "d/b.csv", "d/b.tmp", "x/c.csv"):
        local.put("one", name, name)
    for name in ("old.csv", "old.tmp", "x/old.csv"):
        local.put("two", name, name)
    result = local.sync(include=["*.csv"], exclude=["x/**"], delete_extra=True)
    assert (result["copies"], result["deletes"]) == (["a.csv", "d/b.csv"], ["old.csv"])
    assert sorted(local.trees()[1]) == ["a.csv", "d/b.csv", "old.tmp", "x/old.csv"]


def test_a_plan_does_nothing(local):
    local.put("one", "a", "a")
    local.put("two", "b", "b")
    result = local.sync(dry_run=True, delete_extra=True)
    assert (result["copies"], result["deletes"], result["bytes"], result["dry_run"]) == (["a"], ["b"], 1, True)
    assert sorted(local.trees()[1]) == ["b"]


def test_a_backup_of_what_is_replaced_and_deleted(both):
    both.put("one", "a", "new")
    both.put("two", "a", "old", OLD)
    both.put("two", "d/b", "extra", OLD)
    both.sync(delete_extra=True, backup_dir="attic")
    attic = both.two.disk.path / "attic"
    assert (attic / "a").read_text() == "old"
    assert (attic / "d/b").read_text() == "extra"
    assert sorted(hashes(attic)) == ["a", "d/b"]
    assert both.trees()[0] == both.trees()[1]


def test_more_deletions_than_allowed_do_nothing_at_all(local):
    local.put("one", "a", "a")
    local.put("two", "b", "b")
    local.put("two", "c", "c")
    with pytest.raises(ConfigError, match="max_deletes is 1"):
        local.sync(delete_extra=True, max_deletes=1)
    assert sorted(local.trees()[1]) == ["b", "c"]


def test_a_missing_source_is_not_an_empty_one(local):
    local.put("two", "b", "b")
    (local.one.disk.path / "one").rmdir()
    with pytest.raises(NotFound):
        local.sync(delete_extra=True)
    assert sorted(local.trees()[1]) == ["b"]


@pytest.mark.parametrize("side", ["one", "two"])
@pytest.mark.parametrize("error", [AccessDenied, ConnectionLost, NotFound])
def test_a_listing_that_fails_half_way_does_nothing(local, monkeypatch, side, error):
    whole = LocalStore.list
    for name in ("a", "b"):
        local.put("one", name, "new")
    local.put("two", "a", "old")
    local.put("two", "x", "x")
    before = local.trees()

    async def broken(self, path, recursive=False):
        async for entry in whole(self, path, recursive):
            yield entry
            if path.endswith(side):
                raise error("half-way")

    monkeypatch.setattr(LocalStore, "list", broken)
    with pytest.raises(FlowRunnerError, match="half-way"):
        local.sync(delete_extra=True)
    assert local.trees() == before


def test_names_that_are_one_file_in_the_destination(local, monkeypatch):
    monkeypatch.setattr(LocalStore, "capabilities", replace(LocalStore.capabilities, case_sensitive=False))
    local.put("one", "A.txt", "a")
    local.put("two", "a.txt", "a")
    with pytest.raises(ConfigError, match="one file"):
        local.sync(delete_extra=True)
    assert sorted(local.trees()[1]) == ["a.txt"]


def test_links_are_not_followed(local):
    local.put("one", "a", "a")
    os.symlink(local.one.disk.path, local.one.disk.path / "one" / "loop")
    assert local.sync()["listed"] == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"compare": "hope"}, "compare"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_deletes": -1}, "max_deletes"),
        ({"source": "/x/*"}, "source"),
        ({"source": "/x", "dest": "/x/y"}, "dest"),
        ({"source": "/x/y", "dest": "/x"}, "dest"),
        ({"source": "/x", "dest": "/y", "backup_dir": "/y/z"}, "backup_dir"),
        ({"backup_dir": "sftp://partner@/x"}, "backup_dir"),
        ({"source": "x"}, "source"),
        ({"dest": "sftp://nobody@/x"}, "conn_id"),
        ({"include": "*.csv"}, "include"),
        ({"exclude": "*.tmp"}, "exclude"),
    ],
)
def test_bad_input(local, options, field):
    given = {"source": local.one.uri("one"), "dest": local.two.uri("two"), **options}
    with pytest.raises(ConfigError) as caught:
        local.one.run(FileSyncOperator(task_id="t", **given))
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert local.trees()[1] == {}


# -- killed


def scenes(tmp_path: Path, server: Any, way: str, **options: Any):
    numbers = iter(range(10_000))

    def make() -> Pair:
        there = pair(way, tmp_path / str(next(numbers)), server, delete_extra=True, max_deletes=2, **options)
        for name, text in (("a", "new"), ("b/c", "x" * 300_000), ("same", "same")):
            there.put("one", name, text)
        for name, text in (("a", "older"), ("same", "same"), ("x", "extra"), ("y/z", "extra")):
            there.put("two", name, text, LONG_AGO if name == "same" else OLD)
        return there

    return make


def run_sync(there: Pair) -> None:
    session.BATCH_SIZE, session.SAVE_EVERY = 1, 0.0
    operator = there.operator(concurrency=1)
    result = execute(operator, make_context(operator, state=there.one.state / "same"))
    (there.one.state / "result").write_text(json.dumps(result))


def converged(there: Pair) -> None:
    one, two = there.trees()
    assert one == two
    result = json.loads((there.one.state / "result").read_text())
    counts = {name: result[name] for name in ("listed", "copied", "unchanged", "deleted", "bytes")}
    assert counts == {"listed": 3, "copied": 2, "unchanged": 1, "deleted": 2, "bytes": 300_003}
    if there.options.get("backup_dir"):
        attic = there.two.disk.path / "attic"
        assert sorted(hashes(attic)) == ["a", "x", "y/z"]
        assert (attic / "a").read_text() == "older"


WAYS: list[tuple[str, dict[str, Any]]] = [("local", {"backup_dir": "attic", "compare": "checksum"})]
if KILLS > 3:
    WAYS += [
        ("local", {"backup_dir": "attic"}),
        ("up", {}),
        ("down", {"compare": "checksum"}),
        ("up", {"backup_dir": "attic"}),
    ]


@pytest.mark.faults
@pytest.mark.parametrize(("way", "options"), WAYS)
def test_killed_anywhere_and_run_again(tmp_path, sshd, way, options):
    make = scenes_local(tmp_path, options) if way == "local" else scenes(tmp_path, sshd, way, **options)
    assert sweep(make, run_sync, converged).kills >= 20


def scenes_local(tmp_path: Path, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> Pair:
        folder = tmp_path / f"local{next(numbers)}"
        there = Pair(
            stage("local", folder / "a", None),
            stage("local", folder / "b", None),
            {"delete_extra": True, "max_deletes": 2, **options},
        )
        for name, text in (("a", "new"), ("b/c", "x" * 300_000), ("same", "same")):
            there.put("one", name, text)
        for name, text in (("a", "older"), ("same", "same"), ("x", "extra"), ("y/z", "extra")):
            there.put("two", name, text, LONG_AGO if name == "same" else OLD)
        return there

    return make


@pytest.mark.faults
@pytest.mark.parametrize("way", ["up", "down"])
def test_killed_at_random(tmp_path, sshd, way):
    random_kills(scenes(tmp_path, sshd, way), run_sync, converged, count=KILLS)


@pytest.mark.faults
def test_killed_twice(tmp_path):
    double_kill(scenes_local(tmp_path, {}), run_sync, converged, limit=KILLS)


# -- a long source


@pytest.mark.parametrize("breaks", [False, True])
def test_a_long_source_is_copied_while_it_is_listed_and_nothing_is_deleted_before_its_end(local, monkeypatch, breaks):
    monkeypatch.setattr(sync_plan, "EARLY", 5)
    monkeypatch.setattr(sync_plan, "_CHUNK", 5)
    monkeypatch.setattr(sync_plan, "BATCH_SIZE", 2)
    for number in range(40):
        local.put("one", f"{number:02}", "new")
    local.put("two", "extra", "x")
    whole, early = LocalStore.list, []

    async def slow(self, path, recursive=False):
        count = 0
        async for entry in whole(self, path, recursive):
            yield entry
            count += 1
            if path.endswith("one") and count == 20:
                async with asyncio.timeout(20):
                    while len(local.trees()[1]) < 3:
                        await asyncio.sleep(0.001)
                early.append(len(local.trees()[1]))
                if breaks:
                    raise ConnectionLost("half-way")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "list", slow)
        if breaks:
            with pytest.raises(ConnectionLost, match="half-way"):
                local.sync(delete_extra=True)
            assert "extra" in local.trees()[1]
        else:
            assert local.sync(delete_extra=True)["copied"] == 40
    assert early[0] < 40
    local.sync(delete_extra=True)
    assert local.trees()[0] == local.trees()[1]


@pytest.mark.parametrize("first", ["one", "two"])
def test_both_sides_are_listed_at_once(local, monkeypatch, first):
    """Whichever side's listing ends first."""
    monkeypatch.setattr(sync_plan, "_CHUNK", 3)
    monkeypatch.setattr(sync_plan, "AHEAD", 5)
    monkeypatch.setattr(sync_plan, "_PAUSE", 0.001)
    for number in range(10):
        local.put("one", f"{number:02}", "new")
        local.put("two", f"{number + 5:02}", "new")
    whole, ended, begun = LocalStore.list, asyncio.Event(), set()

    async def listed(self, path, recursive=False):
        begun.add(Path(path).name)
        if not path.endswith(first):
            async with asyncio.timeout(20):
                await ended.wait()
        async for entry in whole(self, path, recursive):
            yield entry
        if path.endswith(first):
            assert begun == {"one", "two"}
            ended.set()

    monkeypatch.setattr(LocalStore, "list", listed)
    result = local.sync(delete_extra=True)
    assert (result["listed"], result["copied"], result["deleted"]) == (10, 5, 5)
    assert local.trees()[0] == local.trees()[1]
