"""A server that encodes the keys of a listing as AWS does: a space as a plus sign, a plus sign as ``%2B``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrunner_provider.files.operators import FileSyncOperator
from tests.files.far import Disk
from tests.files.s3 import connection_of
from tests.files.stage import Stage, stage
from tests.support.rgw import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.servers import HOST, Server, greets, require

pytestmark = pytest.mark.backend

NAMES = ["a b.csv", "a+b.csv", "run books/x y+z %41.txt", "100%.csv", "\u00e9\u4e2d.csv"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The folder that ``rclone serve s3`` serves as the bucket ``tests``, and its address."""
    program = require(str(Path(sys.executable).with_name("rclone")), "rclone", apt="rclone")
    folder = tmp_path / "served" / "tests"
    folder.mkdir(parents=True)

    def command(port: int) -> list[str]:
        keys = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--cache-dir", str(tmp_path / "cache")]
        return [
            program, "--config", os.devnull, "serve", "s3", str(folder.parent), "--addr", f"{HOST}:{port}", *keys,
        ]  # fmt: skip

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

    def ready(port: int) -> bool:
        return greets(port, b"HTTP/1.", say=b"GET / HTTP/1.0\r\n\r\n")

    with Server("rclone", command, ready=ready, log=tmp_path / "log") as server:
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", connection_of(S3Server(server)))
        yield Served(Disk(folder), "s3://lake@", tmp_path / "state")


class Served(Stage):
    """A stage whose server calls its folder otherwise."""

    def uri(self, relative: str = "") -> str:
        return f"{self.prefix}/{relative}"


def test_keys_with_spaces_and_plus_signs_are_listed_as_they_are(tmp_path, there):
    here = stage("local", tmp_path / "here", None)
    there.put(*NAMES)
    there.run(FileSyncOperator(task_id="down", source=there.uri(), dest=here.uri()))
    assert {name: here.disk.get(name) for name in NAMES} == {name: name.encode() for name in NAMES}
    mirror = FileSyncOperator(task_id="up", source=here.uri(), dest=there.uri(), delete_extra=True, compare="name")
    result = there.run(mirror)
    assert (result["unchanged"], result["listed"], result["deleted"]) == (len(NAMES), len(NAMES), 0)
