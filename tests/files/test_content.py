"""files.read and files.write, on this machine and against a real SSH server."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    NotFound,
    PermanentError,
    Unavailable,
)
from flowrunner_provider.files.operators import FileReadOperator, FileWriteOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, sweep


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def read(there: Stage, **options: Any) -> Any:
    return there.run(FileReadOperator(task_id="read", path=there.uri("f"), **options))


def write(there: Stage, content: Any, *, fresh: bool = True, **options: Any) -> Any:
    return there.run(FileWriteOperator(task_id="write", path=there.uri("d/f"), content=content, **options), fresh=fresh)


@pytest.mark.parametrize(
    ("data", "options", "content"),
    [
        (b"a\r\nb", {}, "a\r\nb"),
        (b"\xef\xbb\xbfa", {}, "a"),
        ("ä".encode("latin-1"), {"encoding": "latin-1"}, "ä"),
        (b"a\r\nb\nc\r", {"read_as": "lines"}, ["a", "b", "c"]),
        ("a\u2028b\n".encode(), {"read_as": "lines"}, ["a\u2028b"]),
        (b"", {"read_as": "lines"}, []),
        (b"\x00\xff", {"read_as": "base64"}, "AP8="),
        (b'{"a": [1, null]}', {"read_as": "json"}, {"a": [1, None]}),
        (b"", {}, ""),
        (b"12345", {"max_bytes": 5}, "12345"),
    ],
)
def test_what_is_read(here, data, options, content):
    here.disk.put("f", data)
    assert read(here, **options) == {"path": here.uri("f"), "size": len(data), "content": content}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"123456", {"max_bytes": 5}, "more than 5"),
        (b"\xff", {}, "byte 0"),
        (b"{", {"read_as": "json"}, "not JSON"),
        (b"NaN", {"read_as": "json"}, "not JSON"),
        (b"[" * 40_000, {"read_as": "json"}, "not JSON"),
    ],
)
def test_what_cannot_be_read_is_an_error(there, data, options, message):
    there.disk.put("f", data)
    with pytest.raises(PermanentError, match=message) as caught:
        read(there, **options)
    assert caught.value.remedy


def test_what_is_not_there_or_changes(there, monkeypatch):
    with pytest.raises(NotFound):
        read(there)
    (there.disk.path / "f").mkdir()
    with pytest.raises(PermanentError, match="folder"):
        read(there)


def test_a_file_that_grows_is_read_again(here, monkeypatch):
    here.disk.put("f", b"abc")
    whole = LocalStore.read

    async def growing(self, path, offset=0, length=None):
        async for chunk in whole(self, path, offset, length):
            yield chunk
        here.disk.put("f", b"abcdef")

    monkeypatch.setattr(LocalStore, "read", growing)
    with pytest.raises(Unavailable, match="changed while"):
        read(here)


def test_the_content_is_not_kept_in_the_state_store(here):
    here.disk.put("f", b"s3cr3t-canary")
    read(here)
    assert not [path for path in here.state.rglob("*.json") if "canary" in path.read_text()]


@pytest.mark.parametrize(
    ("content", "options", "data"),
    [
        ("ä\n", {}, "ä\n".encode()),
        ("a\nb\r\n", {"newline": "crlf"}, b"a\r\nb\r\n"),
        ("a\nb\r\n", {"newline": "lf"}, b"a\nb\n"),
        ("ä", {"encoding": "latin-1"}, b"\xe4"),
        ({"a": ["ä"]}, {}, '{"a": ["ä"]}'.encode()),
        ("", {}, b""),
        ("{{ ds }}", {}, b"2026-01-02"),
        ("{{ ds }}\n", {}, b"2026-01-02\n"),
        ("{{ ds }}\n\n", {}, b"2026-01-02\n\n"),
    ],
)
def test_what_is_written(there, content, options, data):
    assert write(there, content, **options)["bytes"] == len(data)
    assert there.disk.get("d/f") == data
    assert there.disk.names() == ["d/f"]


def test_a_name_that_is_taken(there):
    write(there, "one")
    with pytest.raises(AlreadyExists):
        write(there, "two", if_exists="fail")
    result = write(there, "three", if_exists="skip")
    assert (result["skipped"], result["size"], there.disk.get("d/f")) == (True, 3, b"one")
    write(there, "four")
    assert there.disk.get("d/f") == b"four"


def test_appended(there):
    for line in ("a\n", "b\n"):
        result = write(there, line, append=True)
    assert (there.disk.get("d/f"), result["bytes"], result["size"]) == (b"a\nb\n", 2, 4)
    assert there.disk.names() == ["d/f"]


def test_append_needs_a_store_that_replaces_in_one_step(here, monkeypatch):
    write(here, "a", append=True)
    monkeypatch.setattr(LocalStore, "capabilities", replace(LocalStore.capabilities, atomic_replace=False))
    with pytest.raises(ConfigError, match="atomically"):
        write(here, "b", append=True)
    assert here.disk.get("d/f") == b"a"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"encoding": "klingon"}, "encoding"),
        ({"encoding": "hex"}, "encoding"),
        ({"content": "€", "encoding": "latin-1"}, "encoding"),
        ({"content": {1.5: float("nan")}}, "content"),
        ({"newline": "cr"}, "newline"),
        ({"if_exists": "rename"}, "if_exists"),
        ({"append": True, "if_exists": "skip"}, "if_exists"),
        ({"path": "/x/"}, "path"),
        ({"path": "x"}, "path"),
        ({"path": "sftp://nobody@/x"}, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, options, field):
    operator = FileWriteOperator(task_id="w", **{"path": here.uri("f"), "content": "x", **options})
    with pytest.raises(ConfigError) as caught:
        here.run(operator)
    assert (caught.value.field, bool(caught.value.remedy), here.disk.names()) == (field, True, [])


@pytest.mark.parametrize(
    ("options", "field"),
    [({"read_as": "xml"}, "read_as"), ({"max_bytes": 0}, "max_bytes"), ({"encoding": "x"}, "encoding")],
)
def test_bad_input_of_read(here, options, field):
    with pytest.raises(ConfigError) as caught:
        read(here, **options)
    assert caught.value.field == field


# -- killed


def scenes(tmp_path, server, kind: str, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> Stage:
        there = stage(kind, tmp_path / str(next(numbers)), server)
        if options.get("append") != "new":
            there.disk.put("old", b"")
        if options.get("append") is True:
            there.disk.put("d/f", b"first\n")
        (there.state / "options").write_text(json.dumps({**options, "append": bool(options.get("append"))}))
        return there

    return make


def run_write(there: Stage) -> Any:
    options = json.loads((there.state / "options").read_text())
    operator = FileWriteOperator(task_id="w", path=there.uri("d/f"), content="second\n", **options)
    result = execute(operator, make_context(operator, state=there.state / "same"))
    (there.state / "result").write_text(json.dumps(result))


def written_once(there: Stage) -> None:
    assert there.disk.get("d/f") in (b"second\n", b"first\nsecond\n")
    result = json.loads((there.state / "result").read_text())
    assert (result["size"], result["skipped"]) == (len(there.disk.get("d/f")), False)
    assert [name for name in there.disk.names() if name != "old"] == ["d/f"]


def appended_once(there: Stage) -> None:
    assert there.disk.get("d/f") == b"first\nsecond\n"
    written_once(there)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("local", {"append": True}),
        ("sftp", {"append": True}),
        ("local", {"append": "new"}),
        ("local", {"if_exists": "fail"}),
    ]
    + (
        [("local", {"append": True}), ("sftp", {}), ("local", {}), ("sftp", {"if_exists": "skip"})] if KILLS > 3 else []
    ),
)
def test_killed_anywhere_and_run_again(tmp_path, sshd, kind, options):
    check = appended_once if options.get("append") is True else written_once
    assert sweep(scenes(tmp_path, sshd, kind, options), run_write, check).kills >= 8


@pytest.mark.faults
def test_an_append_killed_twice(tmp_path, sshd):
    double_kill(scenes(tmp_path, sshd, "local", {"append": True}), run_write, appended_once, limit=KILLS)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("point", "text", "outcome"),
    [
        ("files.write.after_append", b"first\nsecond\nthird\n", None),
        ("files.write.after_append", b"overwritten", "OutcomeUnknown"),
        ("files.write.before_append", b"first\nother\n", "OutcomeUnknown"),
        ("files.write.before_append", None, "OutcomeUnknown"),
    ],
)
def test_somebody_else_wrote_while_it_was_dead(tmp_path, sshd, point, text, outcome):
    there = scenes(tmp_path, sshd, "local", {"append": True})()
    assert attempt(run_write, there, rules=[kill_at(point)]).killed
    if text is None:
        os.unlink(there.disk.path / "d/f")
    else:
        there.disk.put("d/f", text)
    assert attempt(run_write, there, try_number=2).error_type == outcome
    if text is not None:
        assert there.disk.get("d/f") == text


def test_an_append_of_another_content_is_refused(here, monkeypatch):
    here.disk.put("d/f", b"first\n")

    async def lost(self, **how):
        raise Unavailable("the far side is silent")

    with monkeypatch.context() as patch:
        patch.setattr("flowrunner_provider.files.stores.local.LocalUpload.commit", lost)
        with pytest.raises(Unavailable):
            write(here, "second\n", append=True, fresh=False)
    with pytest.raises(PermanentError, match="other content"):
        write(here, "third\n", append=True, fresh=False)
    write(here, "second\n", append=True, fresh=False)
    assert here.disk.get("d/f") == b"first\nsecond\n"
    assert here.disk.names() == ["d/f"]
