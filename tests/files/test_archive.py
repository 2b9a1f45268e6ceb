"""files.archive: other programs unpack what it makes, on this machine and on a real SSH server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    MissingExtra,
    NotFound,
    PathEscape,
)
from flowrunner_provider.files.operators import FileArchiveOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, sweep
from tests.support.servers import require

FILES = {"a.csv": b"alpha\n" * 50, "sub/b.bin": os.urandom(300_000), "sub/ä €.txt": "grün".encode(), "empty": b""}


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def fill(there: Stage) -> None:
    for name, data in FILES.items():
        there.disk.put(f"in/{name}", data)
        os.utime(there.disk.path / "in" / name, (1_600_000_000, 1_600_000_000))


def pack(there: Stage, name: str = "out/all.zip", **options: Any) -> Any:
    given = {"source": there.uri("in"), "dest": there.uri(name), **options}
    return there.run(FileArchiveOperator(task_id="pack", **given))


def unpack(archive: Path, to: Path, password: str = "") -> dict[str, bytes]:
    """What another program finds in it."""
    to.mkdir()
    if password:
        command = [require("7z", apt="p7zip-full"), "x", f"-p{password}", f"-o{to}", str(archive)]
    elif archive.suffix == ".zip":
        command = [require("unzip", apt="unzip"), "-q", str(archive), "-d", str(to)]
    else:
        command = [require("tar", apt="tar"), "-xf", str(archive), "-C", str(to)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return {path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tgz", "tar.zst"])
def test_other_programs_unpack_it(there, tmp_path, ending):
    fill(there)
    result = pack(there, f"out/all.{ending}")
    archive = there.disk.path / "out" / f"all.{ending}"
    local = shutil.copy(archive, tmp_path)
    assert unpack(Path(local), tmp_path / "judge") == FILES
    assert result["files"] == len(FILES)
    assert result["bytes"] == sum(map(len, FILES.values()))
    assert (result["size"], result["sha256"]) == (
        archive.stat().st_size,
        hashlib.sha256(archive.read_bytes()).hexdigest(),
    )
    assert there.disk.names() == sorted([f"in/{name}" for name in FILES] + [f"out/all.{ending}"])
    assert (tmp_path / "judge/a.csv").stat().st_mtime == 1_600_000_000 or ending == "zip"


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_single_file(there, ending):
    fill(there)
    result = pack(there, f"out/b.bin.{ending}", source=there.uri("in/sub/b.bin"))
    command = {"gz": ["gzip", "-dc"], "zst": [require("zstd", apt="zstd"), "-dcq"]}[ending]
    unpacked = subprocess.run([*command, there.disk.path / f"out/b.bin.{ending}"], check=True, capture_output=True)
    assert unpacked.stdout == FILES["sub/b.bin"]
    assert (result["files"], result["format"]) == (1, ending)
    with pytest.raises(ConfigError, match="one file"):
        pack(there, f"out/c.{ending}")


def test_a_password(there, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ZIP_KEY", json.dumps({"conn_type": "generic", "password": "päss wörd-4711"}))
    fill(there)
    pack(there, keys_conn_id="zip_key")
    local = Path(shutil.copy(there.disk.path / "out/all.zip", tmp_path))
    assert unpack(local, tmp_path / "judge", "päss wörd-4711") == FILES
    listed = subprocess.run(["7z", "l", "-slt", "-pwrong", local], check=True, capture_output=True).stdout
    assert listed.count(b"AES-256") >= 3
    assert FILES["a.csv"] not in local.read_bytes()
    with pytest.raises(ConfigError, match="does not support passwords"):
        pack(there, "out/all.tar.gz", keys_conn_id="zip_key")
    state = [path.read_text() for path in there.state.rglob("*.json")]
    assert not [text for text in state if "4711" in text]


def test_the_same_files_give_the_same_bytes(here):
    fill(here)
    for kind in ("zip", "tar.gz", "tar.zst"):
        first = pack(here, f"out/1.{kind}", reproducible=True)
        for name in FILES:
            os.utime(here.disk.path / "in" / name)
        assert pack(here, f"out/2.{kind}", reproducible=True)["sha256"] == first["sha256"]


def test_what_files_are_called(here, tmp_path):
    fill(here)
    pack(here, "out/1.zip", arcname="2026/{path}")
    pack(here, "out/2.zip", arcname="{name}", source=[here.uri("in/*.csv"), here.uri("in/sub/*.bin")])
    pack(here, "out/3.zip", arcname="x.csv", source=here.uri("in/a.csv"), recursive=False)
    pack(here, "out/4.zip", recursive=False)
    assert sorted(unpack(here.disk.path / "out/1.zip", tmp_path / "1")) == sorted(f"2026/{name}" for name in FILES)
    assert sorted(unpack(here.disk.path / "out/2.zip", tmp_path / "2")) == ["a.csv", "b.bin"]
    assert sorted(unpack(here.disk.path / "out/3.zip", tmp_path / "3")) == ["x.csv"]
    assert sorted(unpack(here.disk.path / "out/4.zip", tmp_path / "4")) == ["a.csv", "empty"]
    with pytest.raises(ConfigError, match="two files would have the name"):
        pack(here, "out/5.zip", arcname="same")
    for rule in ("../{path}", "/{path}", "a/../{name}", "C:{name}"):
        with pytest.raises(PathEscape):
            pack(here, "out/5.zip", arcname=rule)
    assert "out/5.zip" not in here.disk.names()


def test_a_file_name_that_looks_like_a_placeholder(here, tmp_path):
    here.disk.put("in/sub/{path}.csv", b"x")
    pack(here, "out/1.zip", arcname="2026/{name}")
    assert list(unpack(here.disk.path / "out/1.zip", tmp_path / "1")) == ["2026/{path}.csv"]


def test_a_name_that_is_taken(there):
    fill(there)
    there.disk.put("out/all.zip", b"old")
    with pytest.raises(AlreadyExists):
        pack(there, if_exists="fail")
    left = pack(there, if_exists="skip")
    assert (left["skipped"], left["files"], left["size"], there.disk.get("out/all.zip")) == (True, 0, 3, b"old")
    assert pack(there)["files"] == len(FILES)


def test_a_file_that_changes_is_an_error_and_nothing_is_published(here, monkeypatch):
    fill(here)
    whole = LocalStore.read

    async def growing(self, path, offset=0, length=None):
        async for chunk in whole(self, path, offset, length):
            yield chunk
        with open(path, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(LocalStore, "read", growing)
    for ending in ("zip", "tar.gz"):
        with pytest.raises(IntegrityError, match="changed while"):
            pack(here, f"out/all.{ending}")
    assert not [name for name in here.disk.names() if name.startswith("out")]


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"source": "/nowhere/*.csv"}, NotFound, None),
        ({"source": []}, ConfigError, "source"),
        ({"name": "out/all.xyz"}, ConfigError, "format"),
        ({"format": "rar"}, ConfigError, "format"),
        ({"name": "out/"}, ConfigError, "dest"),
        ({"name": "out/*.zip"}, ConfigError, "dest"),
        ({"name": "in/all.zip"}, None, None),
        ({"level": 10}, ConfigError, "level"),
        ({"level": True}, ConfigError, "level"),
        ({"arcname": "{date}"}, ConfigError, "arcname"),
        ({"arcname": ""}, ConfigError, "arcname"),
        ({"if_exists": "rename"}, ConfigError, "if_exists"),
        ({"max_files": 1}, ConfigError, "max_files"),
        ({"keys_conn_id": "nobody"}, ConfigError, "conn_id"),
        ({"keys_conn_id": "wrong"}, ConfigError, "conn_type"),
        ({"keys_conn_id": "bare"}, MissingCredential, "password"),
        ({"source": "sftp://nobody@/x"}, ConfigError, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, monkeypatch, options, error, field):
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({"conn_type": "http", "password": "x"}))
    monkeypatch.setenv("AIRFLOW_CONN_BARE", json.dumps({"conn_type": "generic"}))
    fill(here)
    if error is None:  # an archive among its own sources: the first time it is not there yet
        pack(here, **options)
        error, field = ConfigError, "dest"
    before = here.disk.names()
    with pytest.raises(error) as caught:
        pack(here, **options)
    assert here.disk.names() == before
    assert caught.value.remedy
    assert field in (None, getattr(caught.value, "field", None))


@pytest.mark.parametrize(("name", "module"), [("a.tar.zst", "zstandard"), ("a.zip", "pyzipper")])
def test_a_missing_package_is_told(here, monkeypatch, name, module):
    import sys

    fill(here)
    monkeypatch.setenv("AIRFLOW_CONN_ZIP_KEY", json.dumps({"conn_type": "generic", "password": "x"}))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises((MissingExtra, ImportError)) as caught:
        pack(here, name, keys_conn_id="zip_key" if name.endswith("zip") else "")
    assert "archive" in str(caught.value)


def test_a_member_beyond_4_gib_and_constant_memory(here, tmp_path):
    size = 4 * 1024**3 + 5
    if KILLS <= 3:
        size = 64 * 1024**2
    (here.disk.path / "in").mkdir()
    with open(here.disk.path / "in/sparse", "wb") as file:
        file.truncate(size)
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pack(here, level=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    listed = subprocess.run(["unzip", "-tq", here.disk.path / "out/all.zip"], capture_output=True, check=False)
    assert listed.returncode == 0, listed.stdout


# -- killed


def scenes(tmp_path, server, way: str, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> tuple[Stage, Stage]:
        folder = tmp_path / str(next(numbers))
        source, dest = stage("local", folder / "from", None), stage(way, folder / "to", server)
        fill(source)
        (source.state / "options").write_text(json.dumps(options))
        return source, dest

    return make


def run_pack(scene: tuple[Stage, Stage]) -> Any:
    source, dest = scene
    options = json.loads((source.state / "options").read_text())
    operator = FileArchiveOperator(task_id="p", source=source.uri("in"), dest=dest.uri("out/all.tar.gz"), **options)
    result = execute(operator, make_context(operator, state=source.state / "same"))
    (source.state / "result").write_text(json.dumps(result))


def packed_once(scene: tuple[Stage, Stage]) -> None:
    source, dest = scene
    result = json.loads((source.state / "result").read_text())
    archive = dest.disk.path / "out/all.tar.gz"
    assert dest.disk.names() == ["out/all.tar.gz"]
    assert (result["files"], result["skipped"]) == (len(FILES), False)
    assert result["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert unpack(archive, source.state / f"judge{time.monotonic_ns()}") == FILES


@pytest.mark.faults
@pytest.mark.parametrize(
    ("way", "options"),
    [("local", {"if_exists": "fail"}), ("sftp", {})]
    + ([("local", {}), ("sftp", {"if_exists": "skip"}), ("sftp", {"if_exists": "fail"})] if KILLS > 3 else []),
)
def test_killed_anywhere_and_run_again(tmp_path, sshd, way, options):
    assert sweep(scenes(tmp_path, sshd, way, options), run_pack, packed_once).kills >= 10


@pytest.mark.faults
def test_killed_twice(tmp_path, sshd):
    double_kill(scenes(tmp_path, sshd, "local", {"if_exists": "fail"}), run_pack, packed_once, limit=KILLS)


@pytest.mark.faults
def test_somebody_elses_archive_is_never_taken_for_ours(tmp_path, sshd):
    scene = scenes(tmp_path, sshd, "local", {"if_exists": "fail"})()
    assert attempt(run_pack, scene, rules=[kill_at("files.archive.before_commit")]).killed
    scene[1].disk.put("out/all.tar.gz", b"theirs")
    assert attempt(run_pack, scene, try_number=2).error_type == "AlreadyExists"
    assert scene[1].disk.get("out/all.tar.gz") == b"theirs"


def test_an_unreachable_host(here, monkeypatch):
    connection = {"conn_type": "sftp", "host": "127.0.0.1", "port": 1, "extra": {"no_host_key_check": True}}
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps(connection))
    fill(here)
    with pytest.raises(FlowRunnerError) as caught:
        here.run(FileArchiveOperator(task_id="p", source=here.uri("in"), dest="sftp://down@/a.zip", timeout=5))
    assert caught.value.remedy
