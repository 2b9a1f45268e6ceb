"""files.copy and files.list as a user calls them, on this machine and against a real SSH server."""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PathEscape,
)
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.hooks.sftp import FlowRunnerSftpHook
from flowrunner_provider.files.operators import FileCopyOperator, FileListOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.files.far import Disk, connection_of
from tests.support.context import execute, make_context
from tests.support.servers import free_port


@pytest.fixture
def here(tmp_path):
    (tmp_path / "in").mkdir()
    return Disk(tmp_path.resolve())


def copy(here, source, dest, *, try_number=1, max_tries=3, **options) -> Any:
    operator = FileCopyOperator(task_id="copy", source=source, dest=dest, **options)
    state = here.path.parent / f"{here.path.name}-state"
    return execute(operator, make_context(operator, state=state, try_number=try_number, max_tries=max_tries))


def listing(path, **options) -> list[str]:
    operator = FileListOperator(task_id="list", path=path, **options)
    result = execute(operator, make_context(operator, run_id=str(uuid.uuid4())))
    assert result["count"] >= len(result["files"])
    return [file["name"] for file in result["files"]]


def test_a_file_to_a_file(here):
    here.put("in/a", b"abc")
    result = copy(here, f"{here.root}/in/a", f"{here.root}/out/b")
    assert here.get("out/b") == b"abc"
    assert result == {
        "files": 1, "bytes": 3, "skipped": 0, "dest": f"{here.root}/out/b",
        "entries": [{"path": f"{here.root}/out/b", "size": 3}], "known": 0,
        "dry_run": False, "reasons": {}, "left": [],
    }  # fmt: skip


def test_a_file_into_a_folder(here):
    here.put("in/a", b"abc")
    copy(here, f"{here.root}/in/a", f"{here.root}/out/")
    assert here.get("out/a") == b"abc"


def test_a_file_onto_a_folder_is_refused(here):
    here.put("in/a", b"abc")
    here.put("out/x", b"")
    with pytest.raises(ConfigError, match="is a folder"):
        copy(here, f"{here.root}/in/a", f"{here.root}/out")


@pytest.mark.parametrize(
    ("source", "recursive", "expected"),
    [
        ("in", False, ["a.csv", "b.txt"]),
        ("in/", True, [".h/z.csv", "a.csv", "b.txt", "d/c.csv"]),
        ("in/*.csv", False, ["a.csv"]),
        ("in/*.csv", True, ["a.csv", "d/c.csv"]),
        ("in/**/*.csv", False, ["a.csv", "d/c.csv"]),
        ("in/d/*", False, ["c.csv"]),
        ("in/*/c.csv", False, ["d/c.csv"]),
    ],
)
def test_what_is_copied(here, source, recursive, expected):
    for name in ("a.csv", "b.txt", "d/c.csv", ".h/z.csv", ".q.csv.token.part"):
        here.put(f"in/{name}", name.encode())
    result = copy(here, f"{here.root}/{source}", f"{here.root}/out", recursive=recursive)
    assert Disk(here.path / "out").names() == expected
    assert result["files"] == len(expected)


def test_a_list_of_sources(here):
    here.put("in/a", b"a")
    here.put("else/b", b"b")
    copy(here, [f"{here.root}/in/a", f"{here.root}/else/*"], f"{here.root}/out")
    assert Disk(here.path / "out").names() == ["a", "b"]


def test_two_files_for_one_name_are_refused_before_anything_is_written(here):
    here.put("in/a", b"a")
    here.put("else/a", b"b")
    with pytest.raises(ConfigError, match="two files"):
        copy(here, [f"{here.root}/in/a", f"{here.root}/else/a"], f"{here.root}/out")
    assert not (here.path / "out").exists()


@pytest.mark.parametrize("pair", [("A.txt", "a.txt"), ("caf\u00e9", "cafe\u0301")])
def test_names_that_collide_where_case_does_not_count(here, pair, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(LocalStore, "capabilities", replace(LocalStore.capabilities, case_sensitive=False))
    for name in pair:
        here.put(f"in/{name}", b"x")
    with pytest.raises(ConfigError, match="one file"):
        copy(here, f"{here.root}/in", f"{here.root}/out")
    assert not (here.path / "out").exists()


def test_onto_itself_is_refused(here):
    here.put("in/a", b"a")
    for dest in ("in/a", "in/"):
        with pytest.raises(ConfigError, match="onto itself"):
            copy(here, f"{here.root}/in/a", f"{here.root}/{dest}", move=True)
    os.symlink(here.path / "in", here.path / "alias")
    with pytest.raises(ConfigError, match="onto itself"):
        copy(here, f"{here.root}/in/a", f"{here.root}/alias/", move=True)
    assert here.get("in/a") == b"a"


@pytest.mark.parametrize("source", ["in/*.nothing", "in", "nowhere", "nowhere/*.csv"])
def test_nothing_matches(here, source):
    with pytest.raises(NotFound):
        copy(here, f"{here.root}/{source}", f"{here.root}/out")
    assert not (here.path / "out").exists()
    assert copy(here, f"{here.root}/{source}", f"{here.root}/out", missing_ok=True)["files"] == 0


def test_too_many(here):
    for number in range(4):
        here.put(f"in/{number}", b"")
    with pytest.raises(ConfigError, match="more than 3"):
        copy(here, f"{here.root}/in", f"{here.root}/out", max_files=3)
    assert not (here.path / "out").exists()


def test_links_are_not_followed(here):
    here.put("in/a", b"a")
    os.symlink("/etc/passwd", here.path / "in/passwd")
    os.symlink(here.path / "in", here.path / "in/loop")
    assert copy(here, f"{here.root}/in", f"{here.root}/out", recursive=True)["files"] == 1
    with pytest.raises(ConfigError, match="symbolic link"):
        copy(here, f"{here.root}/in/passwd", f"{here.root}/out/", max_tries=4)


def test_a_link_in_the_destination_leads_nowhere_else(here):
    here.put("in/sub/a", b"a")
    (here.path / "victim").mkdir()
    (here.path / "out").mkdir()
    os.symlink(here.path / "victim", here.path / "out/sub")
    with pytest.raises(PathEscape):
        copy(here, f"{here.root}/in", f"{here.root}/out", recursive=True)
    assert os.listdir(here.path / "victim") == []


@pytest.mark.parametrize(
    ("policy", "files", "skipped", "there"),
    [
        ("overwrite", 2, 0, {"a.csv": b"new", "b.csv": b"new"}),
        ("skip", 1, 1, {"a.csv": b"old", "b.csv": b"new"}),
        ("rename", 2, 0, {"a.csv": b"old", "a.1.csv": b"new", "b.csv": b"new"}),
    ],
)
def test_if_exists(here, policy, files, skipped, there):
    here.put("in/a.csv", b"new")
    here.put("in/b.csv", b"new")
    here.put("out/a.csv", b"old")
    result = copy(here, f"{here.root}/in", f"{here.root}/out", if_exists=policy, move=True)
    out = Disk(here.path / "out")
    assert {name: out.get(name) for name in out.names()} == there
    assert (result["files"], result["skipped"]) == (files, skipped)
    assert Disk(here.path / "in").names() == (["a.csv"] if policy == "skip" else [])


def test_if_exists_fail_writes_nothing(here):
    for number in range(300):
        here.put(f"in/{number:03}", b"x")
    here.put("out/299", b"old")
    with pytest.raises(AlreadyExists, match="299"):
        copy(here, f"{here.root}/in", f"{here.root}/out", if_exists="fail")
    assert Disk(here.path / "out").names() == ["299"]


def test_rename_does_not_take_a_name_that_is_planned(here):
    here.put("in/a", b"1")
    here.put("in/a.1", b"2")
    here.put("out/a", b"old")
    copy(here, f"{here.root}/in", f"{here.root}/out", if_exists="rename")
    out = Disk(here.path / "out")
    assert {name: out.get(name) for name in out.names()} == {"a": b"old", "a.2": b"1", "a.1": b"2"}


def test_many_files_in_many_batches_and_small_records(here):
    from flowrunner_provider.core.journal import MAX_RECORD_BYTES

    names = [f"{'long-name-' * 15}{number:04}" for number in range(700)]
    for name in names:
        here.put(f"in/{name}", b"x")
    result = copy(here, f"{here.root}/in", f"{here.root}/out", concurrency=16)
    assert (result["files"], result["bytes"], len(result["entries"])) == (700, 700, 20)
    assert Disk(here.path / "out").names() == sorted(names)
    state = here.path.parent / f"{here.path.name}-state"
    assert max(path.stat().st_size for path in state.glob("*.json")) < MAX_RECORD_BYTES


class GrowingStore(LocalStore):
    """Somebody appends to the source while it is read."""

    async def read(self, path, offset=0, length=None):
        async for chunk in super().read(path, offset, length):
            yield chunk
            with open(path, "ab") as file:
                file.write(b"more")


class ShrinkingStore(LocalStore):
    async def read(self, path, offset=0, length=None):
        os.truncate(path, 10)
        async for chunk in super().read(path, offset, length):
            yield chunk


class ReplacingStore(LocalStore):
    async def read(self, path, offset=0, length=None):
        async for chunk in super().read(path, offset, length):
            yield chunk
            stat = os.stat(path)
            with open(path + ".new", "wb") as file:
                file.write(b"y" * stat.st_size)
            os.utime(path + ".new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.replace(path + ".new", path)


@pytest.mark.parametrize("store", [GrowingStore, ShrinkingStore, ReplacingStore])
def test_a_source_that_changes_while_it_is_read(here, store, monkeypatch):
    monkeypatch.setattr("flowrunner_provider.files.hook.LocalStore", store)
    here.put("in/a", b"x" * 400_000)
    here.put("out/a", b"old")
    with pytest.raises(IntegrityError, match="changed"):
        copy(here, f"{here.root}/in/a", f"{here.root}/out/", move=True)
    assert here.get("out/a") == b"old"
    assert Disk(here.path / "out").names() == ["a"]
    assert (here.path / "in/a").exists()


@pytest.mark.parametrize(
    "content", [b"", b"x" * 99, b"x" * 101, b"y" * 100], ids=["cut", "shorter", "longer", "another"]
)
def test_a_small_source_that_changes_after_it_was_listed(here, content, monkeypatch):
    class Meanwhile(LocalStore):
        async def begin(self, path, token, **how):
            here.put("new", content)
            os.replace(f"{here.root}/new", f"{here.root}/in/a")
            return await super().begin(path, token, **how)

    monkeypatch.setattr("flowrunner_provider.files.hook.LocalStore", Meanwhile)
    here.put("in/a", b"x" * 100)
    here.put("out/a", b"old")
    with pytest.raises(IntegrityError, match="changed"):
        copy(here, f"{here.root}/in/a", f"{here.root}/out/", move=True)
    assert here.get("out/a") == b"old"
    assert Disk(here.path / "out").names() == ["a"]
    assert here.get("in/a") == content


def test_bytes_that_do_not_arrive_as_sent(here, monkeypatch):
    from flowrunner_provider.core.part_file import PartFile

    real = PartFile.write
    monkeypatch.setattr(PartFile, "write", lambda self, data: real(self, data.replace(b"x", b"y")))
    here.put("in/a", b"xxx")
    copy(here, f"{here.root}/in/a", f"{here.root}/size")
    with pytest.raises(IntegrityError, match="read back"):
        copy(here, f"{here.root}/in/a", f"{here.root}/sum", verify="checksum", max_tries=4)
    assert not (here.path / "sum").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"source": []}, "source"), ({"source": "in/x"}, "source"), ({"dest": "out"}, "dest"),
        ({"dest": "/out/*.csv"}, "dest"), ({"if_exists": "maybe"}, "if_exists"), ({"verify": "hope"}, "verify"),
        ({"concurrency": 0}, "concurrency"), ({"concurrency": 1000}, "concurrency"), ({"max_files": 0}, "max_files"),
        ({"source": "sftp://nobody@/x"}, "conn_id"), ({"source": "sftp://wrong_extra@/x"}, "look_for_keyz"),
        ({"source": "sftp://wrong_type@/x"}, "conn_type"), ({"source": "sftp://both@/x"}, "key_file"),
        ({"source": "sftp://unchecked@/x"}, "no_host_key_check"), ({"source": "sftp://right@other/x"}, "source"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_happens(here, options, named, monkeypatch):
    connections = {
        "wrong_extra": {"conn_type": "sftp", "host": "127.0.0.1", "extra": {"flowrunner": {"look_for_keyz": 1}}},
        "wrong_type": {"conn_type": "http", "host": "127.0.0.1"},
        "both": {"conn_type": "sftp", "host": "127.0.0.1", "extra": {"key_file": "a", "private_key": "b"}},
        "unchecked": {
            "conn_type": "sftp", "host": "127.0.0.1", "extra": {"no_host_key_check": "true", "host_key": "x y"},
        },
        "right": {"conn_type": "sftp", "host": "127.0.0.1", "extra": {"host_key": "x y"}},
    }  # fmt: skip
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    given = {"source": f"{here.root}/in", "dest": f"{here.root}/out", **options}
    with pytest.raises(ConfigError) as caught:
        copy(here, given.pop("source"), given.pop("dest"), **given)
    assert caught.value.field == named
    assert not (here.path / "out").exists()


def test_an_unreachable_host_is_worth_a_retry(here, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_GONE", f"sftp://me@127.0.0.1:{free_port()}/?no_host_key_check=true")
    with pytest.raises(ConnectionLost):
        copy(here, "sftp://gone@/x", f"{here.root}/out")


def test_a_missing_package_names_the_extra(here, monkeypatch):
    from flowrunner_provider.core.errors import MissingExtra

    monkeypatch.setitem(__import__("sys").modules, "asyncssh", None)
    monkeypatch.setenv("AIRFLOW_CONN_P", "sftp://me@127.0.0.1:1/?no_host_key_check=true")
    with pytest.raises(MissingExtra, match=r"\[sftp\]"):
        copy(here, "sftp://p@/x", f"{here.root}/out")


# -- what the official operators get wrong (measured there), and a real server


@pytest.fixture
def partner(sshd, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", connection_of(sshd))
    return Disk(sshd.root())


def test_a_retry_after_a_failure_does_not_die_of_already_exists(here, partner, monkeypatch):
    partner.put("out/d/a.csv", b"a")
    good = os.environ["AIRFLOW_CONN_PARTNER"]
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", good.replace("ed25519 AAAA", "ed25519 AAAB"))
    source, dest = f"sftp://partner@{partner.root}/out/", f"{here.root}/out/"
    with pytest.raises(FlowRunnerError):
        copy(here, source, dest, recursive=True, if_exists="fail")
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", good)
    assert copy(here, source, dest, recursive=True, if_exists="fail", try_number=2)["files"] == 1
    assert here.get("out/d/a.csv") == b"a"


def test_an_interrupted_get_leaves_nothing_under_the_final_name(here, partner, sshd, chaos, monkeypatch):
    from tests.support.chaos_proxy import Toxics

    data = os.urandom(3_000_000)
    partner.put("big", data)
    proxy = chaos(sshd.host, sshd.port)
    extra = {"key_file": str(sshd.key_file), "host_key": sshd.host_key}
    connection = {"conn_type": "sftp", "host": sshd.host, "port": proxy.port, "login": sshd.user, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_FLAKY", json.dumps(connection))
    here.put("out/big", b"old")
    proxy.toxics = Toxics(cut_down=1_500_000)
    with pytest.raises(ConnectionLost):
        copy(here, f"sftp://flaky@{partner.root}/big", f"{here.root}/out/")
    assert here.get("out/big") == b"old"
    proxy.reset()
    copy(here, f"sftp://flaky@{partner.root}/big", f"{here.root}/out/", try_number=2)
    assert here.get("out/big") == data
    assert Disk(here.path / "out").names() == ["big"]


def test_times_are_utc_whatever_the_worker_thinks(partner, monkeypatch):
    partner.put("f", b"x")
    os.utime(partner.path / "f", (1_767_225_600, 1_767_225_600))
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        operator = FileListOperator(task_id="list", path=f"sftp://partner@{partner.root}")
        (file,) = execute(operator, make_context(operator, run_id=str(uuid.uuid4())))["files"]
        assert file["modified"] == "2026-01-01T00:00:00+00:00"
        assert file["path"] == f"sftp://partner@{partner.root}/f"
        assert listing(operator.path, newer_than="2025-12-31T23:59:59+00:00") == ["f"]
        assert listing(operator.path, newer_than=datetime(2026, 1, 1, tzinfo=UTC)) == []
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a\\..\\b", b"%2e%2e%2fetc"])
def test_a_name_from_a_server_that_is_no_plain_name(here, partner, name):
    with open(os.path.join(os.fsencode(partner.root), name), "wb") as file:
        file.write(b"x")
    partner.put("good", b"x")
    with pytest.raises(PathEscape):
        copy(here, f"sftp://partner@{partner.root}", f"{here.root}/out")
    assert not (here.path / "out").exists()


def test_one_unreadable_file_is_an_error_and_not_a_gap(here, special_sshd, monkeypatch):
    with special_sshd("-P open") as server:
        monkeypatch.setenv("AIRFLOW_CONN_LOCKED", connection_of(server))
        far = Disk(server.root())
        far.put("f", b"x")
        with pytest.raises(AccessDenied):
            copy(here, f"sftp://locked@{far.root}/", f"{here.root}/out", missing_ok=True)
        assert Disk(here.path).names() == []


def test_connection_test(sshd, partner, monkeypatch, tmp_path):
    assert FlowRunnerSftpHook("partner").test_connection()[0]
    monkeypatch.setenv("HOME", str(tmp_path))
    right = {"host_key": sshd.host_key, "key_file": str(sshd.key_file)}
    cases = {
        "refused": ({"port": free_port()}, "cannot be reached"),
        "unknown": ({"extra": {"key_file": str(sshd.key_file)}}, "SHA256:"),
        "denied": (
            {"extra": {"host_key": sshd.host_key, "look_for_keys": "false"}, "password": "no-canary"},
            "tried: password",
        ),
        "folder": (
            {"extra": {**right, "flowrunner": {"test_folder": "/nowhere"}}}, "/nowhere does not exist",
        ),
    }  # fmt: skip
    for name, (change, words) in cases.items():
        connection = {**json.loads(os.environ["AIRFLOW_CONN_PARTNER"]), **change}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        good, text = FlowRunnerSftpHook(name).test_connection()
        assert not good
        assert words in text
        assert "canary" not in text


# -- files.list


def test_list(here):
    for number, name in enumerate(["b.csv", "a.csv", "d/c.csv", "x.txt", ".h.csv", ".y.csv.t.part"]):
        here.put(f"in/{name}", b"x" * number)
        os.utime(here.path / "in" / name, (1000 + number, 1000 + number))
    root = f"{here.root}/in"
    assert listing(root) == [".h.csv", "a.csv", "b.csv", "x.txt"]
    assert listing(f"{root}/*.csv") == ["a.csv", "b.csv"]
    assert listing(root, pattern="*.csv", recursive=True) == ["a.csv", "b.csv", "c.csv"]
    assert listing(root, pattern=r"[ab]\.csv", syntax="regex", sort="newest") == ["a.csv", "b.csv"]
    assert listing(root, sort="largest", limit=2) == [".h.csv", "x.txt"]
    assert listing(root, min_size=3) == [".h.csv", "x.txt"]
    assert listing(root, min_age="1h", pattern="a*") == ["a.csv"]
    assert listing(root, pattern="*.nothing") == []
    with pytest.raises(NotFound):
        listing(f"{here.root}/nowhere")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"sort": "wildly"}, "sort"), ({"limit": 0}, "limit"), ({"min_age": "soon"}, "min_age"),
        ({"newer_than": "2026-01-01"}, "newer_than"), ({"newer_than": "x"}, "newer_than"),
        ({"syntax": "sql", "pattern": "x"}, "syntax"),
        ({"pattern": "(", "syntax": "regex"}, "pattern"), ({"limit": "5"}, "limit"), ({"limit": True}, "limit"),
        ({"min_size": "1"}, "min_size"), ({"min_size": -1}, "min_size"),
    ],
)  # fmt: skip
def test_list_refuses(here, options, field):
    with pytest.raises(ConfigError) as caught:
        listing(f"{here.root}/in", **options)
    assert caught.value.field == field


def test_list_is_never_silently_short(here, monkeypatch):
    monkeypatch.setattr("flowrunner_provider.files.operators.list.XCOM_FILES", 5)
    for number in range(6):
        here.put(f"in/{number}", b"")
    with pytest.raises(ConfigError, match="set limit"):
        listing(f"{here.root}/in")
    assert len(listing(f"{here.root}/in", limit=6)) == 6


def test_open_store_is_for_other_actions_too(here):
    assert isinstance(open_store(f"{here.root}/in"), LocalStore)
    with pytest.raises(ConfigError, match="sftp://"):
        open_store("ldap://x@/y")
