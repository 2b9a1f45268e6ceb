"""A dry run of files.copy tells what the copy then does, and leaves no trace."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import AlreadyExists, ConfigError, NotFound, PathEscape
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import LONG_AGO, Stage, stage
from tests.support.context import FileStateStore, execute, make_context


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def operator(place: Stage, source: str = "in/*", dest: str = "out/", **options: Any) -> FileCopyOperator:
    return FileCopyOperator(task_id="copy", source=place.uri(source), dest=place.uri(dest), **options)


def everything(folder: Path) -> dict[str, Any]:
    """Files, folders and times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def both(place: Stage, source: str = "in/*", dest: str = "out/", **options: Any) -> tuple[Any, Any]:
    """What the dry run says, and what is done then."""
    before = everything(place.disk.path)
    told = place.run(operator(place, source, dest, dry_run=True, **options))
    assert told.pop("dry_run") is True
    assert everything(place.disk.path) == before
    done = place.run(operator(place, source, dest, **options))
    assert (done.pop("dry_run"), done["reasons"], done["left"]) == (False, {}, [])
    assert {**told, "reasons": {}, "left": []} == done
    return told, done


def left(told: Any) -> dict[str, str]:
    return {os.path.basename(file["path"]): file["because"] for file in told["left"]}


@pytest.mark.parametrize("options", [{}, {"move": True}, {"verify": "checksum", "done_marker": "_OK"}])
def test_what_would_be_copied(there, options):
    there.put("in/a", "in/bb", "in/d/c", "out/a")
    told, _ = both(there, "in/**", **options)
    assert (told["files"], told["bytes"], told["skipped"]) == (3, 4 + 5 + 6, 0)
    assert [os.path.basename(file["path"]) for file in told["entries"]] == ["a", "bb", "c"]
    assert told["left"] == []


def test_targets_that_are_there(there):
    there.put("in/a.csv", "in/b.csv", "out/a.csv")
    told, _ = both(there, if_exists="skip")
    assert (told["files"], told["skipped"], left(told)) == (1, 1, {"a.csv": "exists"})
    there.put("in/a.csv")
    told, _ = both(there, if_exists="rename")
    assert [os.path.basename(file["path"]) for file in told["entries"]] == ["a.1.csv", "b.1.csv"]


def test_a_target_that_must_not_be_there(there):
    there.put("in/a", "out/a")
    with pytest.raises(AlreadyExists):
        there.run(operator(there, dry_run=True, if_exists="fail"))


def test_what_earlier_runs_have_copied_is_known_and_the_ledger_is_not_touched(there):
    there.put("in/a", "in/b")
    there.run(operator(there, only_new=True))
    there.put("in/a", "in/b", "in/c")
    told, _ = both(there, only_new=True)
    assert (told["files"], told["known"], told["reasons"]) == (1, 2, {"known": 2})
    assert left(told) == {"a": "known", "b": "known"}


def test_young_files_and_those_that_are_still_changing(here, monkeypatch):
    here.put("in/old", "in/young", "in/growing")
    os.utime(here.disk.path / "in/young", (time.time(), time.time()))
    whole, looks = LocalStore.list, []

    async def growing(self, path, recursive=False):
        looks.append(path)
        here.disk.put("in/growing", b"x" * len(looks))
        os.utime(here.disk.path / "in/growing", (LONG_AGO, LONG_AGO))
        async for entry in whole(self, path, recursive):
            yield entry

    monkeypatch.setattr(LocalStore, "list", growing)
    told = here.run(operator(here, dry_run=True, min_age="1h", stable_for=0.01))
    assert (told["files"], told["reasons"]) == (1, {"young": 1, "changing": 1})
    assert left(told) == {"young": "young", "growing": "changing"}


def test_no_more_is_told_than_a_result_has_room_for(here):
    here.put(*(f"{side}/{number:03}" for side in ("in", "out") for number in range(150)), "in/new")
    told, _ = both(here, if_exists="skip")
    assert (told["skipped"], told["files"], len(told["left"])) == (150, 1, 20)
    told, _ = both(here)
    assert (told["files"], len(told["entries"])) == (151, 20)


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ("in/*.csv", {}, NotFound),
        ("nowhere/*", {}, NotFound),
        ("in/*", {"max_files": 1}, ConfigError),
        ("in/*", {"max_bytes": 1}, ConfigError),
        ("in/*", {"dest": "in/"}, ConfigError),
        ("in/*", {"done_marker": "a"}, ConfigError),
        ("bad/*", {}, PathEscape),
    ],
)
def test_what_the_copy_would_refuse_is_refused(here, source, options, error):
    here.put("in/a", "in/b", "bad/a\\b")
    before = everything(here.disk.path)
    for dry in (True, False):
        with pytest.raises(error):
            here.run(operator(here, source, **{"dry_run": dry, **options}))
        assert everything(here.disk.path) == before


def test_nothing_to_copy_is_fine_if_asked(here):
    here.put("other")
    told, _ = both(here, "in/*", missing_ok=True)
    assert (told["files"], told["entries"]) == (0, [])


def test_nothing_is_recorded_for_the_next_attempt_and_what_a_killed_copy_left_stays(here, tmp_path):
    here.put("in/a", "in/b", "out/.a.token.part")

    def recorded(dry_run: bool) -> bool:
        task = operator(here, dry_run=dry_run)
        store = FileStateStore(tmp_path / f"store-{dry_run}")
        execute(task, make_context(task, state=store))
        return any('"cursor"' in path.read_text() for path in store.directory.iterdir())

    assert not recorded(dry_run=True)
    assert here.disk.names() == ["in/a", "in/b", "out/.a.token.part"]
    assert recorded(dry_run=False)
