"""A server in Go that works on several requests of a session at a time: what leaves together ends as it should."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator
from tests.files.far import Disk
from tests.files.stage import LONG_AGO, Stage, stage
from tests.support.servers import HOST, Server, greets, require

pytestmark = pytest.mark.backend

COUNT = 150
PASSWORD = " pw-canary-4711 "  # spaces are part of a password


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A folder behind ``rclone serve sftp``."""
    program = require(str(Path(sys.executable).with_name("rclone")), "rclone", apt="rclone")
    root = tmp_path / "served"
    (root / "far").mkdir(parents=True)

    def command(port: int) -> list[str]:
        account = ["--user", "alice", "--pass", PASSWORD]
        cache = ["--vfs-cache-mode", "writes", "--cache-dir", str(tmp_path / "cache")]
        config = ["--config", str(tmp_path / "none.conf")]
        return [program, *config, "serve", "sftp", str(root), "--addr", f"{HOST}:{port}", *account, *cache]

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Server("rclone", command, ready=lambda port: greets(port, b"SSH-2.0-"), log=tmp_path / "log") as server:
        connection = {
            "conn_type": "sftp", "host": HOST, "port": server.port, "login": "alice", "password": PASSWORD,
            "extra": {"no_host_key_check": True},
        }  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_PARTNER", json.dumps(connection))
        yield Served(Disk(root / "far"), "sftp://partner@", tmp_path / "state")


class Served(Stage):
    """A stage whose server calls its folder otherwise."""

    def uri(self, relative: str = "") -> str:
        return f"{self.prefix}/far/{relative}"


def test_files_arrive_whole_and_with_their_times(tmp_path, there):
    here = stage("local", tmp_path / "here", None)
    here.put(*(f"d/{number % 7}/{number}" for number in range(COUNT)))
    here.disk.put("d/large", os.urandom(1_500_000))
    os.utime(here.disk.path / "d/large", (LONG_AGO, LONG_AGO))
    copy = FileCopyOperator(task_id="copy", source=here.uri("d"), dest=there.uri("e/"), recursive=True)
    assert there.run(copy)["files"] == COUNT + 1
    for compare in ("size_mtime", "checksum"):  # times and bytes, as the server tells them
        sync = FileSyncOperator(task_id=compare, source=here.uri("d"), dest=there.uri("e"), compare=compare)
        result = there.run(sync)
        assert (result["unchanged"], result["listed"], result["extra"]) == (COUNT + 1, COUNT + 1, 0)
