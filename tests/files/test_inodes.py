"""A disk that has room and no inode: nothing appears under a final name, the error says so, and then it works."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import PartialFailure, PermanentError
from tests.support.context import execute, make_context
from tests.support.http_server import Blob, HttpServer, Reply, json_reply

ROWS = [{"id": str(number)} for number in range(50)]
FILES = {"a.csv": b"alpha" * 100, "b.csv": b"beta", "c.csv": b""}


class Disk:
    """A file system of its own with few inodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"
        self.ballast.mkdir()

    def fill(self, left: int = 0) -> None:
        """Take all inodes but ``left``."""
        number = 0
        while os.statvfs(self.path).f_ffree > left:
            (self.ballast / str(number)).touch()
            number += 1

    def free(self) -> None:
        """Give them back."""
        for path in self.ballast.iterdir():
            path.unlink()

    def names(self) -> list[str]:
        """All files but the ballast: hidden ones, too."""
        return sorted(
            str(path.relative_to(self.path))
            for path in self.path.rglob("*")
            if path.is_file() and path.parent != self.ballast
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=40", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        if os.environ.get("REQUIRE_BACKENDS") == "1":
            pytest.fail("a tmpfs cannot be mounted here")
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        yield Disk(mount)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture
def here(tmp_path: Path, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the actions read."""
    source = tmp_path / "in"
    source.mkdir()
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with sqlite3.connect(tmp_path / "rows.db") as database:
        database.execute("CREATE TABLE orders (id TEXT)")
        database.executemany("INSERT INTO orders VALUES (:id)", ROWS)

    def page(request: Any) -> Reply:
        start = int(request.query.get("offset", ["0"])[0])
        return json_reply(ROWS[start : start + 20])

    http_server.route("GET", "/blob", Blob(FILES["a.csv"]))
    http_server.route("GET", "/rows", page)
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps({"conn_type": "http", "host": http_server.url}))
    monkeypatch.setenv("AIRFLOW_CONN_ROWS", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "rows.db")}))
    return tmp_path


def copied(here: Path, to: Path) -> Any:
    from flowrunner_provider.files.operators import FileCopyOperator

    return FileCopyOperator(task_id="t", source=f"{here}/in/*", dest=f"{to}/", concurrency=1)


def synced(here: Path, to: Path) -> Any:
    from flowrunner_provider.files.operators import FileSyncOperator

    return FileSyncOperator(task_id="t", source=f"{here}/in", dest=f"{to}", concurrency=1)


def extracted(here: Path, to: Path) -> Any:
    from flowrunner_provider.files.operators import FileExtractOperator

    return FileExtractOperator(task_id="t", archive=f"{here}/all.zip", dest=f"{to}/")


def written(here: Path, to: Path) -> Any:
    from flowrunner_provider.files.operators import FileWriteOperator

    return FileWriteOperator(task_id="t", path=f"{to}/done", content="done")


def downloaded(here: Path, to: Path) -> Any:
    from flowrunner_provider.http.operators import HttpDownloadOperator

    return HttpDownloadOperator(task_id="t", endpoint="/blob", save_to=f"{to}/blob")


def paged(here: Path, to: Path) -> Any:
    from flowrunner_provider.http.operators import HttpPaginateOperator

    return HttpPaginateOperator(task_id="t", endpoint="/rows", save_to=f"{to}/rows.jsonl", strategy="offset")


def as_csv(here: Path, to: Path) -> Any:
    from flowrunner_provider.data.operators import WriteCsvOperator

    return WriteCsvOperator(task_id="t", source=f"{here}/rows.jsonl", path=f"{to}/rows.csv")


def as_parquet(here: Path, to: Path) -> Any:
    from flowrunner_provider.data.operators import WriteColumnarOperator

    return WriteColumnarOperator(task_id="t", source=f"{here}/rows.jsonl", path=f"{to}/rows.parquet")


def exported(here: Path, to: Path) -> Any:
    from flowrunner_provider.database.operators import SqlExportOperator

    return SqlExportOperator(task_id="t", conn_id="rows", table="orders", dest=f"{to}/rows.csv")


ACTIONS: dict[str, tuple[Callable[[Path, Path], Any], list[str]]] = {
    "files.copy": (copied, sorted(FILES)),
    "files.sync": (synced, sorted(FILES)),
    "files.extract": (extracted, sorted(FILES)),
    "files.write": (written, ["done"]),
    "http.download": (downloaded, ["blob"]),
    "http.paginate": (paged, ["rows.jsonl"]),
    "data.write_csv": (as_csv, ["rows.csv"]),
    "data.write_parquet": (as_parquet, ["rows.parquet"]),
    "sql.export": (exported, ["rows.csv"]),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_no_inode(disk: Disk, here: Path, action: str) -> None:
    make, names = ACTIONS[action]

    def run() -> None:
        operator = make(here, disk.path)
        execute(operator, make_context(operator, state=here / "state"))

    disk.fill()
    with pytest.raises((PermanentError, PartialFailure)) as caught:
        run()
    assert "no inode left" in str(caught.value)
    assert disk.names() == []
    disk.free()
    run()
    assert disk.names() == names


@pytest.mark.parametrize("action", ["files.copy", "files.sync", "files.extract"])
def test_inodes_for_some_of_the_files(disk: Disk, here: Path, action: str) -> None:
    make = ACTIONS[action][0]

    def run() -> None:
        operator = make(here, disk.path)
        execute(operator, make_context(operator, state=here / "state"))

    disk.fill(left=1)
    with pytest.raises((PermanentError, PartialFailure), match="no inode left"):
        run()
    assert len(disk.names()) == 1
    for name in disk.names():
        assert (disk.path / name).read_bytes() == FILES[name], "what has a final name is whole"
    disk.free()
    run()
    assert {name: (disk.path / name).read_bytes() for name in disk.names()} == FILES
