"""Corners of files.copy: a copy whose source could not be moved away, sources that lie around the destination, and
options that contradict each other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError, PartialFailure
from flowrunner_provider.files import session
from flowrunner_provider.files.operators import FileCopyOperator
from tests.files.far import Disk
from tests.files.stage import Stage, stage
from tests.support.kill import sweep


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def copy(
    place: Stage, source: str | list[str] = "in/*", dest: str = "out/", *, fresh: bool = True, **options: Any
) -> Any:
    sources = [place.uri(path) for path in ([source] if isinstance(source, str) else source)]
    operator = FileCopyOperator(task_id="copy", source=sources, dest=place.uri(dest), **options)
    return place.run(operator, fresh=fresh)


def refused(place: Stage, field: str, *args: Any, **options: Any) -> None:
    before = place.disk.names()
    with pytest.raises(ConfigError) as caught:
        copy(place, *args, **options)
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert place.disk.names() == before


# -- copied, but its source is still there


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "rename", "fail"])
def test_a_retry_moves_the_source_of_a_copy_and_does_not_copy_it_again(here, if_exists):
    here.put("in/a")
    here.disk.put("done", b"a file in the way")
    options = {"after": f"move:{here.disk.root}/done", "on_item_error": "continue", "if_exists": if_exists}
    with pytest.raises(PartialFailure, match="1 files could not be copied"):
        copy(here, fresh=False, **options)
    assert here.disk.names() == ["done", "in/a", "out/a"]
    (here.disk.path / "done").unlink()
    result = copy(here, fresh=False, **options)
    assert here.disk.names() == ["done/a", "out/a"]
    assert (result["files"], result["skipped"]) == (1, 0)


def partly_failed(tmp_path: Path) -> Callable[[], Stage]:
    """A copy whose source could not be moved; the cause is removed."""
    numbers = iter(range(1_000))

    def make() -> Stage:
        place = stage("local", tmp_path / str(next(numbers)), None)
        place.put("in/a", "in/b")
        place.disk.put("done/a/in the way", b"")
        with pytest.raises(PartialFailure):
            run_again(place)
        shutil.rmtree(place.disk.path / "done/a")
        return place

    return make


def run_again(place: Stage) -> None:
    options = {"after": f"move:{place.disk.root}/done", "on_item_error": "continue", "if_exists": "rename"}
    result = copy(place, fresh=False, **options)
    (place.state / "result").write_text(json.dumps(result))


def moved_once(place: Stage) -> None:
    assert place.disk.names() == ["done/a", "done/b", "out/a", "out/b"]
    result = json.loads((place.state / "result").read_text())
    assert (result["files"], result["skipped"]) == (2, 0)


@pytest.mark.faults
def test_the_retry_of_a_partial_failure_is_killed_anywhere(tmp_path):
    assert sweep(partly_failed(tmp_path), run_again, moved_once).kills >= 4


# -- sources that lie around the destination


def test_a_copy_that_would_find_its_own_copies_is_refused(here):
    here.put("in/a", "in/d/b")
    refused(here, "dest", "in/", "in/out/", recursive=True)
    refused(here, "dest", "in/**/*", "in/d/e/")


def test_a_destination_that_the_source_does_not_match_may_lie_below_it(here):
    here.put("in/a.csv", "in/2026/b.csv")
    copy(here, "in/*.csv", "in/out/")
    copy(here, "in/20*/*.csv", "in/years/")
    assert here.disk.names() == ["in/2026/b.csv", "in/a.csv", "in/out/a.csv", "in/years/2026/b.csv"]


@pytest.mark.parametrize("folder", [".", "./", "{root}/in", "{root}/in/"])
def test_an_archive_that_is_the_source_folder_is_refused(here, folder):
    here.put("in/a")
    refused(here, "after", after=f"move:{folder.format(root=here.disk.root)}")
    refused(here, "after", "in/a", after=f"move:{folder.format(root=here.disk.root)}")


def test_an_archive_that_another_source_lists_is_refused(here):
    here.put("in/a", "more/b")
    refused(here, "after", ["in/*", "more/*"], after=f"move:{here.disk.root}/more")


# -- options


def test_two_writers_of_one_sidecar_are_refused(here):
    here.put("in/a", "in/a.sha256")
    refused(here, "write_sidecar", write_sidecar=True)
    here.disk.put("in/a.sha256", b"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n")
    here.disk.put("in/a", b"a")
    copy(here, write_sidecar=True, verify_sidecar=True)
    assert Disk(here.disk.path / "out").names() == ["a", "a.sha256"]


def test_permission_bits_as_a_number_are_refused(here):
    here.put("in/a")
    refused(here, "chmod", chmod=0o640)


def test_a_damaged_row_of_the_ledger_is_named(here):
    here.put("in/a")
    ledger = here.disk.path / "ledger.jsonl"
    ledger.write_text(json.dumps(["first", "a", 1, 2, ""]) + "\n")
    refused(here, "only_new", only_new=str(ledger))


def test_a_retry_that_looks_deeper_starts_over(here, monkeypatch):
    """What became reachable before the place where the failed attempt stood would be left out without a word."""
    monkeypatch.setattr(session, "BATCH_SIZE", 1)
    here.put("in/b", "in/d", "in/a/c")
    for name in ("b", "a/c"):
        here.disk.put(f"in/{name}.sha256", hashlib.sha256(f"in/{name}".encode()).hexdigest().encode())
    here.disk.put("in/d.sha256", b"bad")
    with pytest.raises(IntegrityError):
        copy(here, "in/", fresh=False, verify_sidecar=True, concurrency=1)
    assert Disk(here.disk.path / "out").names() == ["b"]
    here.disk.put("in/d.sha256", hashlib.sha256(b"in/d").hexdigest().encode())
    assert copy(here, "in/", fresh=False, verify_sidecar=True, recursive=True)["files"] == 3
    assert Disk(here.disk.path / "out").names() == ["a/c", "b", "d"]
