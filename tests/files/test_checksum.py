"""files.checksum, on this machine and against a real SSH server; coreutils are the judge."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.files import spool
from flowrunner_provider.files.operators import FileChecksumOperator
from tests.files.stage import Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import sweep


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path / "here", None)


def check(there: Stage, path: str = "*", **options: Any) -> Any:
    return there.run(FileChecksumOperator(task_id="checksum", path=there.uri(path), **options))


def sha(text: str, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, text.encode()).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1", "md5", "blake2b"])
def test_told(there, algorithm):
    there.put("a", "d/b")
    result = check(there, "", recursive=True, algorithm=algorithm)
    assert (result["files"], result["bytes"], result["compared"]) == (2, 4, 0)
    assert [entry["checksum"] for entry in result["entries"]] == [sha("a", algorithm), sha("d/b", algorithm)]
    assert result["entries"][0]["path"] == there.uri("a")


def test_expected(there):
    there.put("a", "b")
    assert check(there, "a", expected=sha("a").upper())["compared"] == 1
    assert check(there, expected={"a": sha("a")})["compared"] == 1
    for wrong in ({"a": sha("b")}, {"a": sha("a"), "c": sha("c")}):
        with pytest.raises(IntegrityError):
            check(there, expected=wrong)
    with pytest.raises(ConfigError, match="2 files match"):
        check(there, expected=sha("a"))
    with pytest.raises(NotFound):
        check(there, "x*")


def test_sidecars_are_those_of_coreutils(there):
    there.put("a", "b c")
    check(there, write_sidecar=True)
    for name in ("a", "b c"):
        subprocess.run(["sha256sum", "--check", "--quiet", f"{name}.sha256"], cwd=there.disk.path, check=True)
    result = check(there, verify_sidecar=True)
    assert (result["files"], result["compared"]) == (2, 2)
    there.disk.put("a", b"A")
    with pytest.raises(IntegrityError, match=r"/a has"):
        check(there, verify_sidecar=True)
    there.put("new")
    with pytest.raises(NotFound, match="no sidecar"):
        check(there, "new", verify_sidecar=True)


def test_two_trees(here, there, monkeypatch):
    monkeypatch.setattr(spool, "HELD", 0)
    names = [f"d{number % 3}/f{number}" for number in range(10)]
    for name in names:
        here.put(f"one/{name}")
        there.disk.put(f"two/{name}", f"one/{name}".encode())
    operator = {"compare_with": there.uri("two")}
    assert check(here, "one", **operator)["compared"] == 10
    there.disk.put("two/d0/f0", b"x")
    there.disk.put("two/d1/f1", b"ONE/d1/f1")
    there.disk.put("two/extra", b"")
    here.disk.put("one/more", b"")
    with pytest.raises(IntegrityError) as caught:
        check(here, "one", **operator)
    for part in ("4 of the files", "d0/f0 has 9 and 1 bytes", "d1/f1 differs", "extra is only in", "more is only in"):
        assert part in str(caught.value)
    with pytest.raises(NotFound):
        check(here, "one", compare_with=there.uri("nowhere"))


def test_two_trees_whose_names_have_wildcards(there):
    there.put("[1]/a", "b*/a")
    there.disk.put("b*/a", b"[1]/a")
    assert check(there, "[[]1]", compare_with=there.uri("b[*]"))["compared"] == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"algorithm": "crc32"}, "algorithm"),
        ({"expected": "x", "verify_sidecar": True}, "expected"),
        ({"path": []}, "path"),
        ({"path": "x"}, "path"),
        ({"compare_with": "/a/*"}, "compare_with"),
        ({"path": "sftp://nobody@/x"}, "conn_id"),
    ],
)
def test_bad_input(here, options, field):
    with pytest.raises(ConfigError) as caught:
        here.run(FileChecksumOperator(task_id="t", **{"path": here.uri(), **options}))
    assert caught.value.field == field


def run_checksum(there: Stage) -> None:
    operator = FileChecksumOperator(task_id="t", path=there.uri("*"), write_sidecar=True)
    result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def written(there: Stage) -> None:
    assert there.disk.names() == ["a", "a.sha256", "b", "b.sha256"]
    assert there.disk.get("b.sha256") == f"{sha('b')}  b\n".encode()
    assert json.loads((there.state / "result").read_text())["files"] == 2


@pytest.mark.faults
def test_killed_anywhere(tmp_path):
    numbers = iter(range(1000))

    def make() -> Stage:
        there = stage("local", tmp_path / str(next(numbers)), None)
        there.put("a", "b")
        return there

    assert sweep(make, run_checksum, written).kills >= 8
