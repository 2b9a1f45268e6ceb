"""Uploads, and files on other stores, killed anywhere and run again: both far sides are as if nothing had happened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.http import download, pagination
from flowrunner_provider.http.operators import (
    HttpDownloadOperator,
    HttpPaginateOperator,
    HttpRequestOperator,
    HttpUploadOperator,
)
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Blob, Effects, Reply, json_reply
from tests.support.kill import random_kills, sweep, zombies

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "1"))
DATA = bytes(range(256)) * 1200
FILES = {"a.csv": DATA, "empty.csv": b""}
ROWS = [{"id": number} for number in range(5)]


@dataclass(frozen=True)
class Scene:
    """What one scenario plays in; ``out`` is on the SFTP server."""

    directory: Path
    url: str
    partner: str
    out: Path


class Stage:
    """The servers, and a path of its own for each scene."""

    def __init__(self, server, sshd, root: Path) -> None:
        self.server, self.sshd, self.root = server, sshd, root
        self.effects: dict[str, dict[str, Effects]] = {}
        (root / "in").mkdir()  # the same for all scenes: uploads only read, and their names are in the failpoints
        for name, content in FILES.items():
            (root / "in" / name).write_bytes(content)

    def scene(self) -> Scene:
        directory = self.root / f"scene-{len(self.effects)}"
        (directory / "tmp").mkdir(parents=True)
        effects = self.effects[directory.name] = {}
        for name in FILES:
            path = f"/{directory.name}/{name}"
            posted = effects[name] = Effects(key_header=None)
            self.server.route("POST", path, posted)
            self.server.route("PUT", path, posted)
            self.server.route("GET", path, lambda _, posted=posted: json_reply({"items": len(posted.effects)}))
        self.server.route("GET", f"/{directory.name}/blob", Blob(DATA))
        self.server.route("GET", f"/{directory.name}/rows", page)
        value = {
            "conn_type": "sftp", "host": self.sshd.host, "port": self.sshd.port, "login": self.sshd.user,
            "extra": {"key_file": str(self.sshd.key_file), "host_key": self.sshd.host_key},
        }  # fmt: skip
        return Scene(directory, f"{self.server.url}/{directory.name}", json.dumps(value), self.sshd.root())


def page(request) -> Reply:
    start = int(request.query.get("offset", ["0"])[0])
    return json_reply(ROWS[start : start + 4])


@pytest.fixture
def stage(http_server, sshd, tmp_path) -> Stage:
    return Stage(http_server, sshd, tmp_path)


def run(scene: Scene, operator) -> object:
    import tempfile

    tempfile.tempdir = str(scene.directory / "tmp")
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": scene.url})
    os.environ["AIRFLOW_CONN_PARTNER"] = scene.partner
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def send_with_look_up(scene: Scene) -> object:
    reconcile = {"endpoint": "/{name}", "exists_when": "items > `0`"}
    how = {"method": "POST", "mode": "raw", "reconcile": reconcile, "concurrency": 1}
    return run(
        scene, HttpUploadOperator(task_id="t", source=f"{scene.directory.parent}/in/*.csv", endpoint="/{name}", **how)
    )


def fetch(scene: Scene) -> object:
    download.CHECKPOINT_SECONDS = 0.0
    to = f"sftp://partner@{scene.out}/blob"
    return run(scene, HttpDownloadOperator(task_id="t", endpoint="/blob", save_to=to, if_exists="fail"))


def fetch_changed(scene: Scene) -> object:
    to = str(scene.out / "blob")
    return run(scene, HttpDownloadOperator(task_id="t", endpoint="/blob", save_to=to, only_if_changed=True))


def save(scene: Scene) -> object:
    to = f"sftp://partner@{scene.out}/blob"
    return run(scene, HttpRequestOperator(task_id="t", endpoint="/blob", save_to=to))


def fetch_rows(scene: Scene) -> object:
    pagination.CHECKPOINT_SECONDS = 0.0
    to = f"sftp://partner@{scene.out}/rows.jsonl"
    return run(scene, HttpPaginateOperator(task_id="t", endpoint="/rows", save_to=to, strategy="offset"))


def stops(point: str) -> bool:
    """Where attempts stop by default; FLOWRUNNER_KILLS=3: everywhere."""
    return KILLS > 2 or point.endswith((".after_intent", ".before_intent", ".before_rename", ".before_open"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def the_file_is_whole(scene: Scene) -> None:
    assert (scene.out / "blob").read_bytes() == DATA
    assert names(scene.out) == ["blob"]


def the_file_and_its_version_are_there(scene: Scene) -> None:
    assert (scene.out / "blob").read_bytes() == DATA
    assert names(scene.out) == [".blob.version.json", "blob"]


def every_row_is_there_once(scene: Scene) -> None:
    assert [json.loads(line) for line in (scene.out / "rows.jsonl").read_text().splitlines()] == ROWS
    assert names(scene.out) == ["rows.jsonl"]
    assert names(scene.directory / "tmp") == []


@pytest.mark.parametrize(
    ("target", "check"),
    [
        (fetch, the_file_is_whole),
        (fetch_changed, the_file_and_its_version_are_there),
        (save, the_file_is_whole),
        (fetch_rows, every_row_is_there_once),
    ],
)
def test_files_on_other_stores_survive_every_kill(stage, target, check):
    sweep(stage.scene, target, check)
    if target is not fetch_changed:
        zombies(stage.scene, target, check, at=stops)
    random_kills(stage.scene, target, check, count=KILLS)


def test_every_file_is_sent_once_whatever_is_killed(stage):
    def once(scene: Scene) -> None:
        effects = stage.effects[scene.directory.name]
        assert {name: len(posted.effects) for name, posted in effects.items()} == dict.fromkeys(effects, 1)
        assert effects["a.csv"].effects[0].body == DATA

    sweep(stage.scene, send_with_look_up, once)
    zombies(stage.scene, send_with_look_up, once, at=stops)
    random_kills(stage.scene, send_with_look_up, once, count=KILLS)
