"""files.split, files.concat and files.convert_encoding, on this machine and on a real SSH server."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    MissingExtra,
    NotFound,
    PermanentError,
)
from flowrunner_provider.files.operators import FileConcatOperator, FileEncodingOperator, FileSplitOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, sweep

HEADER = b"id;name\n"
ROWS = [b"%d;%s\n" % (number, b"x" * (number % 37)) for number in range(1000)]
TABLE = HEADER + b"".join(ROWS)


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def split(there: Stage, **options: Any) -> list[bytes]:
    """The parts as the result names them."""
    given = {"source": there.uri("in.csv"), "dest": there.uri("parts/"), "by": "lines", "size": 300, **options}
    result = there.run(FileSplitOperator(task_id="s", **given))
    assert result["count"] == len(result["parts"])
    return [there.disk.get(part.removeprefix(there.uri())) for part in result["parts"]]


def concat(there: Stage, **options: Any) -> bytes:
    given = {"source": there.uri("parts/*"), "dest": there.uri("all.csv"), **options}
    result = there.run(FileConcatOperator(task_id="c", **given))
    joined = there.disk.get(given["dest"].removeprefix(there.uri()))
    assert result["sha256"] == hashlib.sha256(joined).hexdigest()
    return joined


def convert(there: Stage, **options: Any) -> dict[str, Any]:
    given = {"source": there.uri("in.csv"), "dest": there.uri("out.csv"), **options}
    result: dict[str, Any] = there.run(FileEncodingOperator(task_id="e", **given))
    return result


# -- split and concat


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"by": "lines", "size": 300}, 4),
        ({"by": "lines", "size": 1}, 1000),
        ({"by": "bytes", "size": 4_000}, 6),
        ({"by": "count", "size": 7}, 7),
        ({"by": "count", "size": 1}, 1),
    ],
)
def test_parts_and_back_again(there, options, count):
    there.disk.put("in.csv", TABLE)
    parts = split(there, keep_header=True, **options)
    assert len(parts) == count
    assert all(part.startswith(HEADER) and part.endswith(b"\n") for part in parts)
    assert b"".join(part.removeprefix(HEADER) for part in parts) == b"".join(ROWS)
    if options["by"] == "bytes":
        assert max(map(len, parts)) <= 4_000
    if options["by"] == "count":
        assert max(map(len, parts)) - min(map(len, parts)) < 100
    assert concat(there, skip_header_after_first=True) == TABLE


def test_bytes_that_are_no_text(there):
    data = os.urandom(100_003)
    there.disk.put("in.csv", data)
    parts = split(there, by="bytes", size=10_000, whole_lines=False)
    assert [len(part) for part in parts] == [10_000] * 10 + [3]
    assert concat(there, as_text=False) == data
    parts = split(there, by="count", size=3, whole_lines=False, dest=there.uri("three/"), names="{number}{suffix}")
    assert sorted(map(len, parts)) == [33_334, 33_334, 33_335]
    assert b"".join(parts) == data
    assert "three/0003.csv" in there.disk.names()


@pytest.mark.parametrize(("size", "count"), [(1, 4), (2, 2), (50, 1)])
def test_a_line_break_between_quotes_ends_no_line(here, size, count):
    rows = [["id", "text"], ["1", 'he said "no"\nand left'], ["2", "plain"], ["3", "\n\n"], ["4", 'a ""quote""']]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    here.disk.put("in.csv", text.getvalue().encode())
    parts = split(here, size=size, keep_header=True, quoted=True)
    read = [list(csv.reader(io.StringIO(part.decode(), newline=""))) for part in parts]
    assert all(part[0] == rows[0] for part in read)
    assert [row for part in read for row in part[1:]] == [[c.replace("\r\n", "\n") for c in row] for row in rows[1:]]
    assert len(parts) == count
    here.disk.put("in.csv", b'id\n"never closed\n')
    with pytest.raises(IntegrityError, match="quotes"):
        split(here, size=size, quoted=True)


@pytest.mark.parametrize("data", [b"", b"\n", b"a", HEADER, HEADER[:-1], b"a\nb", b"\xef\xbb\xbfid\n1\n"])
@pytest.mark.parametrize(
    "options", [{"by": "lines", "size": 1}, {"by": "bytes", "size": 9}, {"by": "count", "size": 3}]
)
def test_small_files(here, data, options):
    here.disk.put("in.csv", data)
    parts = split(here, **options)
    assert parts
    assert b"".join(parts) == data
    assert all(part for part in parts) or data == b""


def test_what_cannot_be_split(here):
    here.disk.put("in.csv", b"a" * 50 + b"\nb\n")
    with pytest.raises(PermanentError, match="line at byte 0"):
        split(here, by="bytes", size=50)
    here.disk.put("in.csv", "id\nä\n".encode("utf-16"))
    with pytest.raises(PermanentError, match="NUL"):
        split(here)
    here.disk.put("in.csv", TABLE)
    with pytest.raises(ConfigError, match="header"):
        split(here, by="bytes", size=8, keep_header=True, max_parts=9_999)
    for options in ({"size": 3}, {"by": "bytes", "size": 1_000}, {"by": "count", "size": 21}):
        with pytest.raises(ConfigError) as caught:
            split(here, max_parts=20, dest=here.uri(f"p{options.get('by', '')}/"), **options)
        assert caught.value.field == "max_parts"
    assert not [name for name in here.disk.names() if name.startswith(("pbytes", "pcount"))]


def test_a_name_that_is_taken(there):
    there.disk.put("in.csv", TABLE)
    there.disk.put("parts/in-0002.csv", b"theirs")
    with pytest.raises(AlreadyExists):
        split(there, by="count", size=3, if_exists="fail")
    assert there.disk.names() == ["in.csv", "parts/in-0002.csv"]
    parts = split(there, by="count", size=3, if_exists="skip")
    whole = split(there, by="count", size=3, dest=there.uri("other/"))
    assert parts == [whole[0], b"theirs", whole[2]]
    assert split(there, by="count", size=3) == whole


def test_texts_are_joined_line_by_line(there):
    bom = b"\xef\xbb\xbf"
    for name, data in {"1": bom + b"id\r\n1", "2": b"id\n2\n", "3": bom + b"id\r\n", "4": b"id\r\n4"}.items():
        there.disk.put(f"parts/{name}", data)
    assert concat(there, skip_header_after_first=True) == bom + b"id\r\n1\r\n2\n4"
    assert concat(there) == bom + b"id\r\n1\r\nid\n2\nid\r\nid\r\n4"
    assert concat(there, as_text=False) == b"".join(there.disk.get(f"parts/{name}") for name in "1234")
    assert concat(there, source=[there.uri("parts/4"), there.uri("parts/2")]) == b"id\r\n4\r\nid\n2\n"


@pytest.mark.parametrize(
    ("second", "match"), [(b"name\n1\n", "header of"), (b"", "no header"), (b"id;x\n", "header of"), (b"i\0d\n", "NUL")]
)
def test_headers_must_agree(there, second, match):
    there.disk.put("parts/1", b"id\n1\n")
    there.disk.put("parts/2", second)
    with pytest.raises(PermanentError, match=match) as caught:
        concat(there, skip_header_after_first=True)
    assert "name" not in str(caught.value)
    assert there.disk.names() == ["parts/1", "parts/2"]


def grows(monkeypatch: pytest.MonkeyPatch, stage: Stage, name: str) -> None:
    """The file is longer by the time that it was read."""
    whole = LocalStore.read

    async def growing(self, path, offset=0, length=None):
        async for chunk in whole(self, path, offset, length):
            yield chunk
        if length is None:
            stage.disk.put(name, TABLE + b"more")

    monkeypatch.setattr(LocalStore, "read", growing)


def test_a_file_that_changes_is_an_error(here, monkeypatch):
    here.disk.put("in.csv", TABLE)
    grows(monkeypatch, here, "in.csv")
    for run, options in ((split, {"by": "count", "size": 1}), (convert, {})):
        with pytest.raises(IntegrityError, match="changed"):
            run(here, **options)
        here.disk.put("in.csv", TABLE)
    with pytest.raises(IntegrityError, match="changed"):
        concat(here, source=here.uri("in.csv"))
    assert here.disk.names() == ["in.csv"]


# -- encodings

TEXT = "id;name\r\n1;Müller aus Köln, Straße\r\n2;Jäger und Söhne, größter Laden\r\n3;Überlingen am Bodensee\r\n"
MARKED = ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"]


def judge(there: Stage, name: str, encoding: str) -> str:
    """What iconv, another program, reads."""
    command = ["iconv", "-f", encoding, "-t", "utf-8"]
    return subprocess.run(command, input=there.disk.get(name), check=True, capture_output=True).stdout.decode()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", *MARKED])
def test_the_encoding_is_found(there, encoding):
    mark = "\ufeff" if encoding.endswith("be") else ""
    there.disk.put("in.csv", (mark + TEXT).encode(encoding))
    result = convert(there)
    assert judge(there, "out.csv", "utf-8") == TEXT
    (entry,) = result["entries"]
    assert entry["found_by"] == ("mark" if encoding in MARKED else {"utf-8": "utf-8", "cp1252": "detected"}[encoding])
    assert result["lost"] == 0


@pytest.mark.parametrize("to", ["cp1252", "utf-16-le", "utf-8-sig", "iso8859-15"])
def test_the_encoding_is_written(there, to):
    there.disk.put("in.csv", TEXT.encode("cp850"))
    convert(there, from_encoding="cp850", to_encoding=to, newline="lf")
    expected = TEXT.replace("\r\n", "\n")
    assert there.disk.get("out.csv") == expected.encode(to)
    convert(there, source=there.uri("out.csv"), from_encoding=to, dest=there.uri("b.csv"), bom=True, newline="crlf")
    assert there.disk.get("b.csv") == b"\xef\xbb\xbf" + TEXT.encode()


def test_where_plain_letters_end_late(here):
    plain = b"id;name\n" * 200_000
    here.disk.put("in.csv", plain + TEXT.encode("cp1252"))
    assert convert(here)["entries"][0]["found_by"] == "detected"
    assert here.disk.get("out.csv") == plain + TEXT.encode()
    here.disk.put("in.csv", TEXT.encode() + plain + b"\xfc")
    with pytest.raises(PermanentError, match=f"byte {len(TEXT.encode() + plain)} "):
        convert(here, dest=here.uri("bad.csv"))
    here.disk.put("in.csv", TEXT.encode("cp1252") * 8_000 + "señor".encode("cp1252"))
    with pytest.raises(PermanentError, match="detected"):  # the same letter is another one in cp1250
        convert(here, dest=here.uri("bad.csv"))
    assert "bad.csv" not in here.disk.names()


SAMPLES = {
    "de": ("Die Straße nach Überlingen führt am großen See entlang. Ärger gibt es öfter über fünf Äpfel.", "cp850"),
    "fr": ("René habite à Besançon où l'été est très agréable. Les élèves français étudient la forêt.", "cp1252"),
    "es": ("El niño pequeño comió piña en la montaña; ¿dónde está la canción más rápida?", "mac_roman"),
    "pl": ("Zażółć gęślą jaźń. Łukasz mieszka przy ulicy Świętokrzyskiej w Gdańsku.", "iso8859-2"),
    "hu": ("Árvíztűrő tükörfúrógép. Őszi eső esett az öreg házra; örülnek a hétvégének.", "cp852"),
    "ru": ("Иван Петров живёт в Москве; дети читают книги каждый вечер, а потом идут гулять.", "koi8-r"),
    "el": ("Ο γρήγορος άνθρωπος ζει στην Αθήνα και διαβάζει βιβλία κάθε βράδυ.", "iso8859-7"),
    "tr": ("Çağlayan şişli semtinde oturuyor; çocuklar güzel kitaplar okuyor.", "cp1254"),
    "ja": ("山田太郎は東京都千代田区に住んでいます。子供たちは毎晩本を読みます。", "euc_jp"),
    "sv": ("Åsa bor i Göteborg och läser böcker; barnen åker på måndag före klockan åtta.", "cp1252"),
}


@pytest.mark.parametrize("language", SAMPLES)
def test_a_weak_guess_is_no_guess(here, language):
    text, encoding = SAMPLES[language]
    here.disk.put("in.csv", text.encode(encoding))
    with suppress(PermanentError):
        convert(here)
    assert here.disk.names() == ["in.csv"] or here.disk.get("out.csv").decode() == text
    assert convert(here, fallback_encoding=encoding)["lost"] == 0
    assert here.disk.get("out.csv").decode() == text


@pytest.mark.parametrize("source", ["utf-8", "shift_jis", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("before", [0, 1, 262_143, 262_144, 300_001])
def test_the_first_bad_byte_is_named(here, source, before):
    good = ("a" * before + "日本").encode(source)
    here.disk.put("in.csv", good + b"\xff\xff\xdc" + "a".encode(source))
    if source == "utf-16-le":
        here.disk.put("in.csv", good + b"\x00\xdc" + "a".encode(source))
    with pytest.raises(PermanentError, match=f"byte {len(good)} ") as caught:
        convert(here, from_encoding=source)
    assert caught.value.remedy
    assert here.disk.names() == ["in.csv"]


def test_what_is_lost_is_counted(there):
    there.disk.put("from/a.csv", b"ab\xff\xfec\n")
    there.disk.put("from/b.csv", "ß€ж\n".encode())
    given = {"source": there.uri("from/*"), "dest": there.uri("to/"), "from_encoding": "utf-8"}
    result = convert(there, **given, to_encoding="latin-1", on_error="ignore")
    assert (result["files"], result["lost"]) == (2, 4)
    assert [there.disk.get(f"to/{name}.csv") for name in "ab"] == [b"abc\n", b"\xdf\n"]
    assert convert(there, **given, on_error="replace")["lost"] == 2
    assert there.disk.get("to/a.csv").decode() == "ab\ufffd\ufffdc\n"
    with pytest.raises(PermanentError, match=r"line 1 .*U\+20AC"):
        convert(there, **{**given, "source": there.uri("from/b.csv")}, to_encoding="latin-1")


def test_line_breaks_that_a_chunk_divides(here):
    data = b"a" * 262_143 + b"\r\nb\rc\n"
    here.disk.put("in.csv", data)
    convert(here, newline="lf")
    assert here.disk.get("out.csv") == b"a" * 262_143 + b"\nb\nc\n"
    convert(here, newline="crlf")
    assert here.disk.get("out.csv") == b"a" * 262_143 + b"\r\nb\r\nc\r\n"


# -- bad input


@pytest.mark.parametrize(
    ("run", "options", "error", "field"),
    [
        (split, {"source": "/nowhere/in.csv"}, NotFound, None),
        (split, {"source": "/nowhere/*.csv"}, ConfigError, "source"),
        (split, {"by": "pages"}, ConfigError, "by"),
        (split, {"size": 0}, ConfigError, "size"),
        (split, {"size": "many"}, ConfigError, "size"),
        (split, {"whole_lines": False}, ConfigError, "whole_lines"),
        (split, {"names": "part"}, ConfigError, "names"),
        (split, {"names": "{number}/x"}, ConfigError, "names"),
        (split, {"dest": "sftp://nobody@/in/"}, ConfigError, "conn_id"),
        (concat, {"source": []}, ConfigError, "source"),
        (concat, {"source": "/nowhere/*"}, NotFound, None),
        (concat, {"dest": "/nowhere/"}, ConfigError, "dest"),
        (concat, {"as_text": False, "skip_header_after_first": True}, ConfigError, "as_text"),
        (convert, {"from_encoding": "klingon"}, ConfigError, "from_encoding"),
        (convert, {"to_encoding": "hex"}, ConfigError, "to_encoding"),
        (convert, {"to_encoding": "idna"}, ConfigError, "to_encoding"),
        (convert, {"to_encoding": "cp1252", "bom": True}, ConfigError, "bom"),
        (convert, {"from_encoding": "utf-8", "fallback_encoding": "cp1252"}, ConfigError, "fallback_encoding"),
        (convert, {"newline": "cr"}, ConfigError, "newline"),
        (convert, {"on_error": "guess"}, ConfigError, "on_error"),
        (convert, {"if_exists": "rename"}, ConfigError, "if_exists"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, run, options, error, field):
    here.disk.put("in.csv", TABLE)
    here.disk.put("parts/1", TABLE)
    with pytest.raises(error) as caught:
        run(here, **options)
    assert caught.value.remedy
    assert field in (None, getattr(caught.value, "field", None))
    assert here.disk.names() == ["in.csv", "parts/1"]


def test_a_file_never_replaces_its_own_source(here):
    here.disk.put("in.csv", TABLE)
    here.disk.put("a-0001", TABLE)
    for run, options in (
        (split, {"source": here.uri("a-0001"), "dest": here.uri(), "names": "a-{number}"}),
        (concat, {"source": here.uri("*.csv"), "dest": here.uri("in.csv")}),
        (convert, {"dest": here.uri()}),
    ):
        with pytest.raises(ConfigError, match=r"replace|one of the sources"):
            run(here, **options)
    assert here.disk.get("in.csv") == here.disk.get("a-0001") == TABLE


def test_a_missing_package_is_told(here, monkeypatch):
    here.disk.put("in.csv", TEXT.encode("cp1252"))
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    with pytest.raises(MissingExtra, match="encoding"):
        convert(here)
    assert convert(here, from_encoding="cp1252")["files"] == 1


def test_an_unreachable_host(here, monkeypatch):
    connection = {"conn_type": "sftp", "host": "127.0.0.1", "port": 1, "extra": {"no_host_key_check": True}}
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps(connection))
    here.disk.put("in.csv", TABLE)
    with pytest.raises(FlowRunnerError) as caught:
        split(here, dest="sftp://down@/in/", timeout=5)
    assert caught.value.remedy


@pytest.mark.parametrize("run", [split, convert])
def test_memory_stays_constant(here, run):
    import resource

    size = 1024**3 if KILLS > 3 else 64 * 1024**2
    line = b"x" * 99 + b"\n"
    with open(here.disk.path / "in.csv", "wb") as file:
        for _ in range(size // (1024 * 100)):
            file.write(line * 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = {"by": "bytes", "size": size // 3} if run is split else {"from_encoding": "cp1252"}
    given = {"source": here.uri("in.csv"), "dest": here.uri("out/"), **options}
    here.run({split: FileSplitOperator, convert: FileEncodingOperator}[run](task_id="m", **given))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


# -- killed

JOBS: dict[str, tuple[Callable[..., Any], dict[str, bytes], dict[str, Any], dict[str, bytes]]] = {
    "split": (
        FileSplitOperator,
        {"in.csv": TABLE},
        {"source": "in.csv", "dest": "out/", "by": "lines", "size": 400, "keep_header": True},
        {f"out/in-000{n + 1}.csv": HEADER + b"".join(ROWS[n * 400 : n * 400 + 400]) for n in range(3)},
    ),
    "concat": (
        FileConcatOperator,
        {"in/1": b"id\n1\n", "in/2": b"id\n2\n"},
        {"source": "in/*", "dest": "out/all", "skip_header_after_first": True},
        {"out/all": b"id\n1\n2\n"},
    ),
    "convert": (
        FileEncodingOperator,
        {"in/1": TEXT.encode("cp1252"), "in/2": b"a\xffb"},
        {"source": "in/*", "dest": "out/", "fallback_encoding": "ascii", "on_error": "replace"},
        {"out/1": TEXT.encode(), "out/2": "a\ufffdb".encode()},
    ),
}


def scenes(tmp_path, server, way: str, job: str, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> tuple[Stage, Stage, str]:
        folder = tmp_path / str(next(numbers))
        source, dest = stage("local", folder / "from", None), stage(way, folder / "to", server)
        for name, data in JOBS[job][1].items():
            source.disk.put(name, data)
        (source.state / "options").write_text(json.dumps(options))
        return source, dest, job

    return make


def run_job(scene: tuple[Stage, Stage, str]) -> None:
    source, dest, job = scene
    operator, _, given, _ = JOBS[job]
    options = {**given, **json.loads((source.state / "options").read_text())}
    options = {**options, "source": source.uri(options["source"]), "dest": dest.uri(options["dest"])}
    task = operator(task_id="t", **options)
    result = execute(task, make_context(task, state=source.state / "same"))
    (source.state / "result").write_text(json.dumps(result))


def whole(scene: tuple[Stage, Stage, str]) -> None:
    source, dest, job = scene
    assert {name: dest.disk.get(name) for name in dest.disk.names()} == JOBS[job][3]
    result = json.loads((source.state / "result").read_text())
    assert not result["skipped"]
    if job == "split":
        assert result["parts"] == [dest.uri(name) for name in JOBS[job][3]]
    if job == "convert":
        assert (result["files"], result["lost"]) == (2, 1)


@pytest.mark.faults
@pytest.mark.parametrize("way", ["local", "sftp"])
@pytest.mark.parametrize("job", JOBS)
def test_killed_anywhere_and_run_again(tmp_path, sshd, job, way):
    options = {"if_exists": "fail"} if way == "local" else {}
    left_out = () if KILLS > 3 else ("_write",) if way == "local" else ("_write", "begin", "mkdir", "finish")
    chosen = sweep(
        scenes(tmp_path, sshd, way, job, options), run_job, whole, at=lambda point: not point.endswith(left_out)
    )
    assert chosen.kills >= 2


@pytest.mark.faults
@pytest.mark.parametrize("job", JOBS)
def test_killed_twice(tmp_path, sshd, job):
    double_kill(scenes(tmp_path, sshd, "local", job, {"if_exists": "fail"}), run_job, whole, limit=KILLS)


@pytest.mark.faults
@pytest.mark.parametrize("job", JOBS)
def test_somebody_elses_file_is_never_taken_for_ours(tmp_path, sshd, job):
    scene = scenes(tmp_path, sshd, "local", job, {"if_exists": "fail"})()
    action = JOBS[job][0].action
    assert attempt(run_job, scene, rules=[kill_at(f"{action}.before_commit")]).killed
    name = next(iter(JOBS[job][3]))
    scene[1].disk.put(name, b"theirs")
    assert attempt(run_job, scene, try_number=2).error_type == "AlreadyExists"
    assert scene[1].disk.get(name) == b"theirs"
