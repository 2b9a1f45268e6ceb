"""Within one store that copies by itself, no byte passes through this machine; also when it is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from flowrunner_provider.files.stores.s3 import S3Store
from tests.files.far import Side
from tests.files.s3 import side
from tests.support.context import execute, make_context
from tests.support.kill import sweep

pytestmark = pytest.mark.backend

DATA = {"a": b"alpha" * 1000, "d/b": b"beta"}


class Scene:
    def __init__(self, place: Side, folder: Path) -> None:
        self.place, self.folder = place, folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in DATA.items():
            place.put(f"in/{name}", data)

    def run(self, operator: Any, state: str) -> Any:
        os.environ.update(self.place.environment)
        return execute(operator, make_context(operator, state=self.folder / state))

    def copy(self, state: str = "copy", **options: Any) -> Any:
        operator = FileCopyOperator(
            task_id="copy", source=self.place.uri("in/"), dest=self.place.uri("out/"), recursive=True, **options
        )
        return self.run(operator, state)

    def copied(self) -> dict[str, bytes]:
        return {
            name.removeprefix("out/"): self.place.far.get(name)
            for name in self.place.far.names()
            if name.startswith("out/")
        }


@pytest.fixture
def scene(request, tmp_path) -> Scene:
    return Scene(side(request, tmp_path), tmp_path)


@pytest.fixture
def nothing_read(monkeypatch):
    def read(self, path, *more, **how):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(S3Store, "read", read)


def test_copy(scene, nothing_read):
    result = scene.copy(move=True)
    assert (result["files"], result["bytes"]) == (2, sum(map(len, DATA.values())))
    assert scene.copied() == DATA
    assert not [name for name in scene.place.far.names() if name.startswith("in/")]


def test_sync_with_a_backup(scene, nothing_read):
    scene.place.put("out/a", b"old")
    sync = FileSyncOperator(
        task_id="sync", source=scene.place.uri("in"), dest=scene.place.uri("out"),
        backup_dir=scene.place.uri("attic"), compare="name", delete_extra=True,
    )  # fmt: skip
    assert scene.run(sync, "sync")["copied"] == 1
    scene.place.put("out/extra", b"extra")
    assert scene.run(sync, "again")["deleted"] == 1
    assert scene.copied() == {**DATA, "a": b"old"}
    assert scene.place.far.get("attic/extra") == b"extra"


def test_a_checksum_is_of_both_ends(scene, monkeypatch):
    scene.copy("good", verify="checksum", if_exists="fail")
    whole = S3Store.copy_within

    async def damaged(self, path, target, **how):
        entry = await whole(self, path, target, **how)
        scene.place.far.put(target.removeprefix(f"{scene.place.far.root}/"), b"x" * (entry.size or 0))
        return entry

    monkeypatch.setattr(S3Store, "copy_within", damaged)
    with pytest.raises(IntegrityError, match="read back"):
        scene.copy("bad", verify="checksum", concurrency=1)
    assert "a" not in scene.copied()


def run_copy(scene: Scene) -> None:
    from flowrunner_provider.files import session

    session.SAVE_EVERY = 0.0
    result = scene.copy(move=True, concurrency=1, if_exists="fail")
    (scene.folder / "result").write_text(json.dumps(result))


def moved_once(scene: Scene) -> None:
    assert scene.copied() == DATA
    assert not [name for name in scene.place.far.names() if name.startswith("in/")]
    result = json.loads((scene.folder / "result").read_text())
    assert (result["files"], result["skipped"], result["bytes"]) == (2, 0, sum(map(len, DATA.values())))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_killed_anywhere_and_run_again(request, tmp_path):
    numbers = iter(range(1000))

    def make() -> Scene:
        folder = tmp_path / str(next(numbers))
        return Scene(side(request, folder), folder)

    def around(point: str) -> bool:
        return "within" in point or "delete_source" in point or point.startswith("objects.")

    assert sweep(make, run_copy, moved_once, at=around).kills >= 10
