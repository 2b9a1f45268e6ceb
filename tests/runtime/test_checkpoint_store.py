"""The journal's stores: durable, private, and never empty by mistake."""

import stat
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, Unavailable
from flowrunner_provider.runtime.checkpoint_store import FileStore, TaskStateStore, scope_of, store_of
from tests.support.context import FileStateStore, make_context

SCOPE = ("dag", "run", "task", "-1")


def test_the_scope_names_the_task_instance_and_not_the_try() -> None:
    scopes = {scope_of(make_context(try_number=number)) for number in (1, 2, 3)}
    assert len(scopes) == 1
    assert scope_of(make_context(map_index=1)) != scope_of(make_context(map_index=2))


def test_airflow_s_store_is_used_where_it_is(tmp_path: Path) -> None:
    assert isinstance(store_of(make_context(state=tmp_path / "state")), TaskStateStore)
    assert isinstance(store_of(make_context()), FileStore)


@pytest.mark.parametrize("value", [{"a": [1, None, "é"]}, [], "text", 7, True])
def test_values_survive(tmp_path: Path, value: Any) -> None:
    for store in (FileStore(tmp_path, SCOPE), TaskStateStore(FileStateStore(tmp_path / "state"))):
        store.set("key", value)
        assert store.get("key") == value
        assert store.get("other") is None


def test_a_failing_store_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    store = TaskStateStore(FileStateStore(tmp_path, fail={"get": "all", "set": "all"}))
    with pytest.raises(Unavailable, match="could not be read"):
        store.get("key")
    with pytest.raises(Unavailable, match="could not be written"):
        store.set("key", 1)


def test_files_are_private_and_apart(tmp_path: Path) -> None:
    FileStore(tmp_path, SCOPE).set("key", 1)
    assert FileStore(tmp_path, ("dag", "run", "other", "-1")).get("key") is None
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_damaged_file_stops_the_work(tmp_path: Path) -> None:
    store = FileStore(tmp_path, SCOPE)
    store.set("key", 1)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_text('{"half')
    with pytest.raises(ConfigError, match="delete it to start over"):
        store.get("key")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(Unavailable, match="cannot be written"):
        FileStore(tmp_path / "state", SCOPE).set("key", 1)
