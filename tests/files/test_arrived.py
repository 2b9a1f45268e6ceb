"""files.arrived: each version of each file once, whatever fails; what a failing listing hides is not gone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import Any

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import AccessDenied, ConfigError, FlowRunnerError, NotFound, Unavailable
from flowrunner_provider.files import triggers
from flowrunner_provider.files.arrived import engine as arrived
from flowrunner_provider.files.arrived import seen as arrived_seen
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.triggers import FileArrivedTrigger
from flowrunner_provider.runtime.watch_record import Superseded
from flowrunner_provider.runtime.watcher import Seen
from tests.files.stage import LONG_AGO, Stage, stage
from tests.support.servers import free_port


class Watch:
    """A watcher whose events are told and settled at once; ``cursor`` is what survives the triggerer."""

    def __init__(self, there: Stage, path: str = "in/*.csv", **options: Any) -> None:
        self.there, self.path, self.options = there, path, options
        self.cursor: Any = None
        self.last: Seen | None = None
        self.restart()

    def restart(self) -> None:
        """The triggerer was killed: only the cursor, as JSON, is left."""
        self.cursor = json.loads(json.dumps(self.cursor))
        self.trigger = FileArrivedTrigger(path=self.there.uri(self.path), **self.options)

    def poll(self) -> list[dict[str, Any]]:
        seen = self.last = asyncio.run(self.trigger.poll(self.cursor))
        self.cursor = seen.cursor
        return [dict(event) for event in seen.events]

    def names(self) -> list[str]:
        """The names, each with its change, of one look."""
        return sorted(f"{file['change']} {file['name']}" for event in self.poll() for file in event["files"])


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    made = stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)
    (made.disk.path / "in").mkdir()
    return made


@pytest.fixture
def here(tmp_path) -> Stage:
    made = stage("local", tmp_path, None)
    (made.disk.path / "in").mkdir()
    return made


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("AIRFLOW__FLOWRUNNER__STATE_PATH", str(tmp_path / "watcher-state"))
    return tmp_path / "watcher-state"


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(triggers, "SYSTEM_CLOCK", clock)
    return clock


def touch(there: Stage, name: str, text: str, when: int = LONG_AGO) -> None:
    there.disk.put(name, text.encode())
    os.utime(there.disk.path / name, (when, when))


def test_each_file_is_told_once_and_a_restart_goes_on(there):
    there.put("in/old.csv")
    watch = Watch(there)
    assert watch.names() == []
    there.put("in/a.csv", "in/b.csv", "in/c.txt", "in/d/e.csv")
    (event, _) = watch.poll()
    file = event["files"][0]
    assert (file["path"], file["size"], file["change"]) == (there.uri("in/a.csv"), len("in/a.csv"), "created")
    assert file["modified"] == "2020-09-13T12:26:40+00:00"
    assert watch.names() == []
    watch.restart()
    there.put("in/f.csv")
    assert watch.names() == ["created f.csv"]


def test_from_the_beginning_recursive_and_below_a_pattern(there):
    there.put("in/a.csv", "in/d/b.csv", "in/d/c.txt")
    assert Watch(there, start="beginning").names() == ["created a.csv"]
    assert Watch(there, "in", start="beginning", recursive=True, pattern="*.csv").names() == [
        "created a.csv",
        "created b.csv",
    ]
    assert Watch(there, "in", start="beginning", recursive=True, min_size=8).names() == [
        "created a.csv",
        "created b.csv",
        "created c.txt",
    ]
    assert Watch(there, "in", start="beginning", min_size=9).names() == []


@pytest.mark.parametrize(
    ("on", "told"),
    [
        ("create", ["created new.csv"]),
        ("update", ["updated bytes.csv", "updated time.csv"]),
        ("both", ["created new.csv", "updated bytes.csv", "updated time.csv"]),
    ],
)
def test_what_is_told(there, on, told):
    for name in ("same", "bytes", "time"):
        touch(there, f"in/{name}.csv", "x")
    watch = Watch(there, on=on)
    assert watch.names() == []
    touch(there, "in/bytes.csv", "xx")
    touch(there, "in/time.csv", "x", LONG_AGO + 60)
    touch(there, "in/new.csv", "x")
    assert watch.names() == told
    assert watch.names() == []
    touch(there, "in/new.csv", "x2")
    assert watch.names() == ([] if on == "create" else ["updated new.csv"])


def test_many_files_that_grow_are_told_when_they_have_been_left_alone(there, clock):
    watch = Watch(there, stable_for="60s")
    watch.poll()
    for number in range(30):
        touch(there, f"in/{number:02}.csv", "x")
    assert watch.names() == []
    clock.advance(40)
    touch(there, "in/07.csv", "xx")
    touch(there, "in/late.csv", "x")
    assert watch.names() == []
    clock.advance(20)
    assert watch.names() == [f"created {number:02}.csv" for number in range(30) if number != 7]
    clock.advance(20)
    watch.restart()  # which watches anew what it had not told
    assert watch.names() == []
    clock.advance(60)
    assert watch.names() == ["created 07.csv", "created late.csv"]
    assert watch.trigger._pending == {}


def test_a_file_that_is_written_slowly_is_no_update(here, clock):
    watch = Watch(here, stable_for=60, on="update")
    watch.poll()
    for text in ("x", "xx"):
        touch(here, "in/a.csv", text)
        assert watch.names() == []
        clock.advance(30)
    clock.advance(60)
    assert watch.names() == []
    touch(here, "in/a.csv", "xxx")
    assert watch.names() == []
    clock.advance(60)
    assert watch.names() == ["updated a.csv"]


def test_nothing_is_told_without_the_marker(there):
    watch = Watch(there, "in", marker_file="_SUCCESS")
    watch.poll()
    there.put("in/a", "in/b")
    assert watch.names() == []
    there.put("in/_SUCCESS")
    assert watch.names() == ["created a", "created b"]


def test_one_event_for_all_of_a_look(there):
    watch = Watch(there, batch="look")
    assert watch.poll() == []
    there.put("in/a.csv", "in/b.csv")
    (event,) = watch.poll()
    assert [file["name"] for file in event["files"]] == ["a.csv", "b.csv"]
    assert watch.poll() == []


def test_one_file(there):
    watch = Watch(there, "in/orders.csv", on="both")
    assert watch.names() == []
    touch(there, "in/orders.csv", "x")
    assert watch.names() == ["created orders.csv"]
    touch(there, "in/orders.csv", "xx")
    assert watch.names() == ["updated orders.csv"]
    os.unlink(there.disk.path / "in/orders.csv")
    assert watch.names() == []
    touch(there, "in/orders.csv", "new")
    assert watch.names() == ["created orders.csv"]


def test_a_file_that_is_gone_is_forgotten_the_second_time(there):
    there.put("in/a.csv", "in/b.csv")
    watch = Watch(there, start="beginning")
    assert watch.names() == ["created a.csv", "created b.csv"]
    kept = there.disk.path / "kept.csv"
    (there.disk.path / "in/a.csv").rename(kept)
    assert watch.names() == []
    kept.rename(there.disk.path / "in/a.csv")
    assert watch.names() == [], "one listing had missed it"
    for name in ("a", "b"):
        os.unlink(there.disk.path / f"in/{name}.csv")
    assert watch.names() == []
    touch(there, "in/b.csv", "another b", LONG_AGO + 9)
    assert watch.names() == ["created b.csv"]
    there.put("in/a.csv")
    assert watch.names() == ["created a.csv"]
    assert len(watch.cursor["there"]) < 60


def test_more_than_a_look_tells_comes_with_the_next_ones_the_oldest_first(here, monkeypatch):
    monkeypatch.setattr(arrived, "MAX_EVENTS", 3)
    watch = Watch(here)
    watch.poll()
    names = [f"in/{number:03}.csv" for number in range(50)]
    here.put(*reversed(names))
    told = []
    while events := watch.poll():
        told += [file["name"] for event in events for file in event["files"]]
        assert watch.last is not None
        assert watch.last.more is (len(told) < 50)
    assert told == [name.removeprefix("in/") for name in reversed(names)]


def test_an_event_has_the_same_id_when_it_is_told_again(here):
    watch = Watch(here, on="both", start="beginning")
    here.put("in/a.csv")
    before = watch.cursor
    (first,) = watch.poll()
    watch.cursor = before  # killed before it was settled
    watch.restart()
    (again,) = watch.poll()
    assert again == first
    touch(here, "in/a.csv", "changed")
    (changed,) = watch.poll()
    assert changed["id"] != first["id"]


def test_the_record_stays_small(here):
    watch = Watch(here, start="beginning")
    for number in range(arrived_seen.INLINE - 40):
        (here.disk.path / f"in/{number}-{'x' * 150}.csv").touch()
    watch.cursor = None
    watch.options["start"] = "now"
    watch.restart()
    watch.poll()
    for number in range(40):
        (here.disk.path / f"in/n{number}-{'ü' * 100}.csv").touch()
    seen = asyncio.run(watch.trigger.poll(watch.cursor))
    assert seen.events
    assert len(json.dumps({"cursor": None, "open": {"events": list(seen.events), "cursor": seen.cursor}})) < 48_000


class TestManyFiles:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch) -> None:
        monkeypatch.setattr(arrived_seen, "INLINE", 5)
        monkeypatch.setattr(arrived, "MAX_FILES", 30)

    def test_they_are_kept_on_the_disk_and_survive(self, here, state):
        here.put(*(f"in/{number}.csv" for number in range(10)))
        watch = Watch(here)
        watch.poll()
        assert set(watch.cursor) == {"shelf", "check"}
        before = watch.cursor
        assert watch.poll() == []
        assert watch.cursor == before
        here.put("in/new.csv")
        before = watch.cursor
        assert watch.names() == ["created new.csv"]
        watch.cursor = before  # killed before the record was written: the old list is still there
        watch.restart()
        assert watch.names() == ["created new.csv"]
        watch.restart()
        assert watch.names() == []
        for number in range(10):
            os.unlink(here.disk.path / f"in/{number}.csv")
        watch.poll()
        watch.poll()
        assert set(watch.cursor) == {"there", "gone"}
        assert len(list(state.rglob("*.json"))) == 2

    def test_one_that_was_frozen_while_another_took_over_does_not_spoil_its_list(self, here, state):
        class Record:
            """The watcher's record, and whether it is still its owner."""

            def __init__(self, epoch: int) -> None:
                self.epoch, self.superseded = epoch, False

            async def assure(self) -> None:
                if self.superseded:
                    raise Superseded

        here.put(*(f"in/{number}.csv" for number in range(10)))
        frozen, other = Watch(here), Watch(here)
        frozen.trigger._record, other.trigger._record = first, _ = Record(1), Record(2)
        frozen.poll()
        other.cursor = frozen.cursor
        here.put("in/new.csv", "in/newer.csv")
        assert len(other.poll()) == 2
        assert other.cursor["shelf"] != frozen.cursor["shelf"]
        first.superseded = True
        before = {path: path.read_bytes() for path in state.rglob("*.json")}
        with pytest.raises(Superseded):
            frozen.poll()
        assert {path: path.read_bytes() for path in state.rglob("*.json")} == before
        first.superseded = False  # it froze behind that question
        frozen.poll()
        assert other.poll() == []

    def test_a_list_that_is_lost_is_an_error_and_no_fresh_start(self, here, state):
        here.put(*(f"in/{number}.csv" for number in range(10)))
        watch = Watch(here)
        watch.poll()
        shutil.rmtree(state)
        with pytest.raises(ConfigError, match=r"missing in .*watcher-state") as caught:
            watch.poll()
        assert "state_path" in caught.value.remedy

    def test_too_many(self, here):
        here.put(*(f"in/{number}.csv" for number in range(31)))
        with pytest.raises(ConfigError, match="more than 30 files") as caught:
            Watch(here).poll()
        assert caught.value.remedy


class TestFailuresAreNotGone:
    def test_a_folder_that_is_not_there(self, there):
        there.put("in/a.csv")
        watch = Watch(there, start="beginning")
        watch.poll()
        away = there.disk.path / "away"
        (there.disk.path / "in").rename(away)
        for _ in range(3):
            with pytest.raises(NotFound):
                watch.poll()
        away.rename(there.disk.path / "in")
        assert watch.names() == []

    @pytest.mark.parametrize("error", [AccessDenied("no"), NotFound("vanished")])
    def test_a_listing_that_fails_in_the_middle(self, here, monkeypatch, error):
        here.put(*(f"in/{number}.csv" for number in range(5)))
        watch = Watch(here, start="beginning")
        assert len(watch.poll()) == 5
        here.put("in/new.csv")
        real = LocalStore.list

        async def broken(self, path, recursive=False):
            async for entry in real(self, path, recursive):
                yield entry
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "list", broken)
            for _ in range(3):
                with pytest.raises(Unavailable if isinstance(error, NotFound) else AccessDenied):
                    watch.poll()
        assert watch.names() == ["created new.csv"]

    def test_a_server_that_was_away(self, tmp_path, sshd):
        there = stage("sftp", tmp_path, sshd)
        there.put("in/a.csv")
        watch = Watch(there, start="beginning")
        watch.poll()
        good = os.environ["AIRFLOW_CONN_PARTNER"]
        os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps({**json.loads(good), "port": free_port()})
        with pytest.raises(FlowRunnerError):
            watch.poll()
        os.environ["AIRFLOW_CONN_PARTNER"] = good
        there.put("in/b.csv")
        assert watch.names() == ["created b.csv"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"on": "delete"}, "on"),
        ({"batch": "all"}, "batch"),
        ({"start": "then"}, "start"),
        ({"min_size": -1}, "min_size"),
        ({"marker_file": "a/b"}, "marker_file"),
        ({"pattern": "*.csv"}, "pattern"),
    ],
)
def test_bad_input(here, options, field):
    with pytest.raises(ConfigError) as caught:
        Watch(here, **options).poll()
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)


def test_an_unknown_connection():
    trigger = FileArrivedTrigger(path="sftp://nobody@/out/*.csv")
    with pytest.raises(FlowRunnerError) as caught:
        asyncio.run(trigger.poll(None))
    assert caught.value.remedy
