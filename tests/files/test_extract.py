"""files.extract: archives that other programs made, and archives that are made to deceive."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import struct
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    BombDetected,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    NotFound,
    PathEscape,
    PermanentError,
    SecurityError,
)
from flowrunner_provider.files.operators import FileExtractOperator
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import double_kill, sweep
from tests.support.servers import require

FILES = {"a.csv": b"alpha\n" * 50, "sub/b.bin": random.Random(1).randbytes(300_000), "sub/ä €.txt": b"x", "empty": b""}
FEW = {"a.csv": b"alpha\n", "sub/b.bin": FILES["sub/b.bin"]}
NAMES = {
    "up": "../evil", "up within": "a/../../evil", "absolute": "/tmp/evil", "drive": "C:\\evil", "backslash": "..\\evil",
    "encoded": "%2e%2e%2fevil", "wide": "..／evil", "dots": "...", "control": "a\nb", "long": "x" * 300,
}  # fmt: skip


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def unpack(there: Stage, name: str = "in.bin", *, fresh: bool = True, **options: Any) -> Any:
    given = {"archive": there.uri(name), "dest": there.uri("out/"), **options}
    return there.run(FileExtractOperator(task_id="unpack", **given), fresh=fresh)


def found(there: Stage) -> dict[str, bytes]:
    return {name[4:]: there.disk.get(name) for name in there.disk.names() if name.startswith("out/")}


def made_by(program: str, folder: Path) -> bytes:
    """What another program makes of the files."""
    source = folder / "source"
    for name, data in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
        os.utime(source / name, (1_600_000_000, 1_600_000_000))
    commands = {
        "zip": ["zip", "-qr", "../made", "."],
        "zip-stored": ["zip", "-qr0", "../made", "."],
        "zip-streamed": ["sh", "-c", "zip -qr - . | cat > ../made"],
        "zip-crypto": ["zip", "-qr", "-P", "secret-4711", "../made", "."],
        "7z-aes": ["7z", "a", "-tzip", "-mem=AES256", "-psecret-4711", "../made", "."],
        "tar": ["tar", "-cf", "../made", "."],
        "tar.gz": ["tar", "-czf", "../made", "."],
        "tar.zst": ["tar", "--zstd", "-cf", "../made", "."],
        "ustar": ["tar", "--format=ustar", "-cf", "../made", "."],
        "pax": ["tar", "--format=pax", "-cf", "../made", "."],
    }  # fmt: skip
    require(commands[program][0], apt={"7z": "p7zip-full"}.get(commands[program][0], commands[program][0]))
    subprocess.run(commands[program], cwd=source, check=True, capture_output=True)
    made = folder / "made"
    return (made if made.exists() else folder / "made.zip").read_bytes()


def zipped(files: dict[str, bytes] | list[tuple[Any, bytes]], **how: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how.get("method", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE, **more: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            for field, value in more.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "program",
    ["zip", "zip-stored", "zip-streamed", "zip-crypto", "7z-aes", "tar", "tar.gz", "tar.zst", "ustar", "pax"],
)
def test_what_other_programs_packed(there, tmp_path, monkeypatch, program):
    if there.prefix and program not in ("zip-streamed", "7z-aes", "tar.gz") and KILLS <= 3:
        pytest.skip("nightly")
    monkeypatch.setenv("AIRFLOW_CONN_KEY", json.dumps({"conn_type": "generic", "password": "secret-4711"}))
    there.disk.put("in.bin", made_by(program, tmp_path / "judge"))
    locked = program in ("zip-crypto", "7z-aes")
    if locked:
        with pytest.raises(MissingCredential, match="encrypted"):
            unpack(there)
        monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({"conn_type": "generic", "password": "no"}))
        with pytest.raises(PermanentError):
            unpack(there, keys_conn_id="wrong")
        assert found(there) == {}
    result = unpack(there, keys_conn_id="key" if locked else "")
    assert found(there) == FILES
    assert (result["files"], result["bytes"]) == (len(FILES), sum(map(len, FILES.values())))
    kind = "zip" if "zip" in program or "7z" in program else program if "." in program else "tar"
    assert result["format"] == kind
    assert sorted(entry["path"] for entry in result["entries"]) == sorted(
        f"{there.disk.root}/out/{name}" for name in FILES
    )
    if kind != "zip":
        assert (there.disk.path / "out/a.csv").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_single_file(there, kind):
    data = FILES["sub/b.bin"]
    packed = gzip.compress(data)
    if kind == "zst":
        command = [require("zstd", apt="zstd"), "-cq"]
        packed = subprocess.run(command, input=data, check=True, capture_output=True).stdout
    there.disk.put(f"orders.csv.{kind}", packed + packed)  # two frames are one file, as cat makes them
    assert unpack(there, f"orders.csv.{kind}")["format"] == kind
    assert found(there) == {"orders.csv": data + data}
    for bad in (packed[:-1], packed[: len(packed) // 2], packed + b"rubbish", packed[:100] + b"xxx" + packed[103:]):
        there.disk.put(f"bad.{kind}", bad)
        with pytest.raises(IntegrityError):
            unpack(there, f"bad.{kind}", dest=there.uri("bad/"))
    assert not [name for name in there.disk.names() if name.startswith("bad/")]


def test_what_is_wanted(here):
    here.disk.put("in.bin", zipped({"./r-1/a.csv": b"a", "r-1/s/b.csv": b"b", "r-1/c.txt": b"c", "../evil": b"e"}))
    unpack(here, members=["*.csv"], strip_prefix="r-1")
    assert found(here) == {"a.csv": b"a", "s/b.csv": b"b"}
    unpack(here, members="r-1/*.txt")
    assert found(here)["r-1/c.txt"] == b"c"
    with pytest.raises(NotFound):
        unpack(here, members="*.xml")
    with pytest.raises(ConfigError, match="not below"):
        unpack(here, members="*.csv", strip_prefix="other")


def test_a_name_that_is_taken(there):
    there.disk.put("in.bin", zipped({"a": b"new", "b": b"new"}))
    there.disk.put("out/b", b"old")
    with pytest.raises(AlreadyExists):
        unpack(there, if_exists="fail")
    assert found(there) == {"b": b"old"}
    result = unpack(there, if_exists="skip")
    assert (result["files"], result["skipped"], found(there)) == (1, 1, {"a": b"new", "b": b"old"})
    unpack(there)
    assert found(there) == {"a": b"new", "b": b"new"}


# -- made to deceive


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_elsewhere(here, kind, name):
    files = {"good.txt": b"x", name: b"evil"}
    here.disk.put("in.bin", zipped(files) if kind == "zip" else tarred(files))
    with pytest.raises(PathEscape) as caught:
        unpack(here)
    assert ascii(name)[1:20] in str(caught.value)
    assert here.disk.names() == ["in.bin"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_in_a_tar(here, kind):
    here.disk.put("in.bin", gzip.compress(tarred({"evil": b""}, kind, linkname="/etc/passwd")))
    with pytest.raises(SecurityError, match="evil"):
        unpack(here)
    assert here.disk.names() == ["in.bin"]


@pytest.mark.parametrize("mode", [0o120777, 0o060600, 0o010600])
def test_what_is_no_file_in_a_zip(here, mode):
    info = zipfile.ZipInfo("evil")
    info.external_attr, info.create_system = mode << 16, 3
    here.disk.put("in.bin", zipped([("good", b"x"), (info, b"/etc/passwd")]))
    with pytest.raises(SecurityError, match="evil"):
        unpack(here)
    assert here.disk.names() == ["in.bin"]


@pytest.mark.parametrize(
    "files", [[("a", b"1"), ("a", b"2")], [("a", b"1"), ("./a", b"2")], [("a", b"1"), ("a/b", b"2")]]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_of_one_name(here, files):
    here.disk.put("in.bin", zipped(files))
    with pytest.raises(SecurityError):
        unpack(here)
    assert here.disk.names() == ["in.bin"]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize("field", ["name", "method", "crc", "size", "packed size", "encryption"])
def test_two_stories_of_one_member(here, field):
    data = zipped({"good.txt": b"hello" * 100})
    at = {"name": 30, "method": 8, "crc": 14, "size": 22, "packed size": 18, "encryption": 6}[field]
    new = {"name": b"evil", "method": b"\0\0", "encryption": b"\1\0"}.get(field, struct.pack("<L", 7))
    here.disk.put("in.bin", patched(data, at, new))
    with pytest.raises(IntegrityError):
        unpack(here)
    assert here.disk.names() == ["in.bin"]


def test_members_that_share_their_bytes(here):
    data = zipped({"a": b"x" * 10_000, "b": b"x" * 10_000})
    table = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", table + 4)
    both = patched(data, second + 42, struct.pack("<L", 0))
    name = patched(both, second + 46, b"a")  # what its local header says
    here.disk.put("in.bin", name)
    with pytest.raises(SecurityError):
        unpack(here)
    assert here.disk.names() == ["in.bin"]


@pytest.mark.parametrize("kind", ["zip", "zip-stored", "tar.gz", "tar", "aes"])
def test_a_wrong_bit_is_found_before_the_file_is_published(here, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("AIRFLOW_CONN_KEY", json.dumps({"conn_type": "generic", "password": "secret-4711"}))
    if kind == "aes":
        data = bytearray(made_by("7z-aes", tmp_path / "judge"))
    elif kind.startswith("zip"):
        data = bytearray(zipped(FILES, method=zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED))
    else:
        data = bytearray(tarred(FILES))
        if kind == "tar":
            data[1024] ^= 1  # a header; plain TAR has no checksum of its contents
        else:
            data = bytearray(gzip.compress(data))
    if kind != "tar":
        data[len(data) // 2] ^= 1
    here.disk.put("in.bin", bytes(data))
    with pytest.raises(PermanentError):
        unpack(here, keys_conn_id="key" if kind == "aes" else "")
    assert "sub/b.bin" not in found(here)
    assert not [name for name in here.disk.names() if name.endswith(".part")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_cut_off_anywhere(here, kind):
    data = {"zip": zipped, "tar": tarred, "tar.gz": tarred}[kind](FILES)
    data = gzip.compress(data) if kind == "tar.gz" else data
    for cut in sorted({0, 1, 3, 100, 511, 512, 513, len(data) // 2, len(data) - 1}):
        cut = min(cut, data.index(bytes(1024)) if kind == "tar" else cut)
        here.disk.put("in.bin", data[:cut])
        with pytest.raises(PermanentError):
            unpack(here)
        assert here.disk.names() == ["in.bin"]


BOMBS = {
    "tar.gz": lambda: gzip.compress(tarred({"zeros": bytes(60_000_000)})),
    "gz": lambda: gzip.compress(bytes(60_000_000)),
    "zip": lambda: zipped({"zeros": bytes(60_000_000)}),
    "zst": lambda: (
        subprocess.run(
            [require("zstd", apt="zstd"), "-cq19"], input=bytes(400_000_000), check=True, capture_output=True
        ).stdout
    ),
    "many": lambda: zipped({f"f{number}": b"" for number in range(20_001)}),
    "pax header": lambda: gzip.compress(
        tarfile.TarInfo._create_header(  # type: ignore[attr-defined]
            {"name": "x", "size": 190_000_000, "type": tarfile.XHDTYPE}, tarfile.USTAR_FORMAT, "utf-8", "strict"
        )
        + bytes(190_000_000)
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(here, kind):
    here.disk.put("in.bin", BOMBS[kind]())
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BombDetected) as caught:
        unpack(here, max_entries=20_000, max_ratio=1e6 if kind == "pax header" else 100)
    assert time.process_time() - began < 2 or kind == "many"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert caught.value.remedy
    assert here.disk.names() == ["in.bin"]


@pytest.mark.parametrize(("limits", "field"), [({"max_size": 1000}, "max_size"), ({"max_entries": 2}, "max_entries")])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gz"])
def test_limits(here, limits, field, kind):
    data = os.urandom(2_000_000)
    packed = {"zip": lambda: zipped({"a": data, "b": b"", "c": b""}), "gz": lambda: gzip.compress(data)}
    here.disk.put("in.gz", packed.get(kind, lambda: gzip.compress(tarred({"a": data, "b": b"", "c": b""})))())
    if kind == "gz" and field == "max_entries":
        assert unpack(here, "in.gz", **limits)["files"] == 1
        return
    with pytest.raises(BombDetected, match=field[4:] if field == "max_entries" else "1000"):
        unpack(here, "in.gz", **limits)
    assert here.disk.names() == ["in.gz"]


def test_an_archive_in_an_archive_stays_a_file(here):
    inner = zipped({"x": bytes(500_000)})
    here.disk.put("in.bin", zipped({"inner.zip": inner, "again.gz": gzip.compress(inner)}))
    unpack(here)
    assert found(here)["inner.zip"] == inner


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"7z\xbc\xaf\x27\x1c....", b"BZh91AY", b"Rar!....", b"\xfd7zXZ\0..", bytes(1024)]
)
def test_what_is_no_archive(here, data):
    here.disk.put("in.zip", data)
    with pytest.raises(PermanentError) as caught:
        unpack(here, "in.zip")
    assert caught.value.remedy
    assert here.disk.names() == ["in.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_zip(here, method):
    here.disk.put("in.bin", zipped({"a": b"x" * 1000}, method=method))
    with pytest.raises(PermanentError, match="method"):
        unpack(here)


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"archive": "/nowhere/a.zip"}, NotFound, None),
        ({"archive": "/nowhere/*.zip"}, ConfigError, "archive"),
        ({"archive": "a.zip"}, ConfigError, "archive"),
        ({"dest": "/x/*"}, ConfigError, "dest"),
        ({"if_exists": "rename"}, ConfigError, "if_exists"),
        ({"max_ratio": 0}, ConfigError, "max_ratio"),
        ({"max_size": "1"}, ConfigError, "max_size"),
        ({"max_entries": 1.5}, ConfigError, "max_entries"),
        ({"keys_conn_id": "nobody"}, ConfigError, "conn_id"),
        ({"dest": "sftp://nobody@/x/"}, ConfigError, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, options, error, field):
    here.disk.put("in.bin", zipped(FILES))
    with pytest.raises(error) as caught:
        unpack(here, **options)
    assert caught.value.remedy
    assert field in (None, getattr(caught.value, "field", None))
    assert here.disk.names() == ["in.bin"]


def test_a_folder_of_links_is_no_way_out(here, tmp_path):
    (here.disk.path / "out").mkdir()
    (tmp_path / "outside").mkdir()
    (here.disk.path / "out/sub").symlink_to(tmp_path / "outside")
    here.disk.put("in.bin", zipped({"sub/evil": b"x"}))
    with pytest.raises(FlowRunnerError):
        unpack(here)
    assert list((tmp_path / "outside").iterdir()) == []


# -- killed


def scenes(tmp_path, server, way: str, kind: str, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> tuple[Stage, Stage]:
        folder = tmp_path / str(next(numbers))
        source, dest = stage("local", folder / "from", None), stage(way, folder / "to", server)
        source.disk.put("in.bin", zipped(FEW) if kind == "zip" else gzip.compress(tarred(FEW)))
        (source.state / "options").write_text(json.dumps(options))
        return source, dest

    return make


def run_unpack(scene: tuple[Stage, Stage]) -> Any:
    source, dest = scene
    options = json.loads((source.state / "options").read_text())
    operator = FileExtractOperator(task_id="u", archive=source.uri("in.bin"), dest=dest.uri("out"), **options)
    result = execute(operator, make_context(operator, state=source.state / "same"))
    (source.state / "result").write_text(json.dumps(result))


def unpacked_once(scene: tuple[Stage, Stage]) -> None:
    source, dest = scene
    result = json.loads((source.state / "result").read_text())
    assert found(dest) == FEW
    assert (result["files"], result["skipped"]) == (len(FEW), 0)
    assert result["bytes"] == sum(map(len, FEW.values()))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("way", "kind", "options"),
    [("local", "zip", {"if_exists": "fail"}), ("sftp", "tar.gz", {})]
    + ([("local", "tar.gz", {"if_exists": "skip"}), ("sftp", "zip", {"if_exists": "fail"})] if KILLS > 3 else []),
)
def test_killed_anywhere_and_run_again(tmp_path, sshd, way, kind, options):
    assert sweep(scenes(tmp_path, sshd, way, kind, options), run_unpack, unpacked_once).kills >= 12


@pytest.mark.faults
def test_killed_twice(tmp_path, sshd):
    make = scenes(tmp_path, sshd, "local", "zip", {"if_exists": "fail"})
    double_kill(make, run_unpack, unpacked_once, limit=KILLS)
