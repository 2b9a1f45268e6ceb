"""files.wait: both modes see the same, and only what is known not to be there is waited for."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import AccessDenied, ConfigError, ConnectionLost, FlowRunnerError, PermanentError
from flowrunner_provider.files import triggers
from flowrunner_provider.files.sensors import StoreFileSensor
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.triggers import FileTrigger
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from tests.contracts.sensor_contract import SensorContract
from tests.files.stage import LONG_AGO, Stage, stage
from tests.support.context import execute, make_context
from tests.support.servers import free_port


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(triggers, "SYSTEM_CLOCK", clock)
    return clock


def sensor(there: Stage, path: str = "*.csv", **options: Any) -> StoreFileSensor:
    return StoreFileSensor(task_id="wait", **{"path": there.uri(path), "deferrable": False, **options})


def look(waiting: StoreFileSensor) -> list[str] | None:
    """The names that one poke sees; None for not yet."""
    answer: Any = waiting.poke(make_context(waiting))
    return [file["name"] for file in answer.xcom_value["files"]] if answer else None


class TestContract(SensorContract):
    @pytest.fixture(autouse=True)
    def scene(self, tmp_path, sshd) -> None:
        self.there = stage("sftp", tmp_path, sshd)

    def sensor(self, **kwargs: Any) -> FlowRunnerSensor:
        return sensor(self.there, "in", **{"min_files": 2, **kwargs})

    def nothing_yet(self) -> None:
        self.there.put("in/a")

    def appear(self) -> None:
        self.there.put("in/b")

    def break_it(self) -> type[FlowRunnerError]:
        os.unlink(self.there.disk.path / "in/a")
        (self.there.disk.path / "in").rmdir()
        os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps({"conn_type": "http", "host": "x"})
        return ConfigError


def test_what_is_told(there):
    assert look(sensor(there)) is None
    assert look(sensor(there, "nowhere/*.csv")) is None
    there.put("a.csv", "b.csv", "c.txt", "d/e.csv")
    assert look(sensor(there, min_files=2)) == ["a.csv", "b.csv"]
    assert look(sensor(there, min_files=3)) is None
    assert look(sensor(there, recursive=True, min_files=3)) == ["a.csv", "b.csv", "e.csv"]
    assert look(sensor(there, "d", pattern="*.csv")) == ["e.csv"]
    assert look(sensor(there, "c.txt")) == ["c.txt"]
    assert look(sensor(there, min_size=6)) is None
    result = execute(waiting := sensor(there, "c.txt"), make_context(waiting))
    assert result["count"] == 1
    assert result["files"][0]["path"] == there.uri("c.txt")


def test_the_time_is_utc_whatever_the_worker_thinks(there, monkeypatch):
    import time

    there.put("a.csv")
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        at = datetime.fromtimestamp(LONG_AGO, UTC)
        assert look(sensor(there, newer_than=at)) is None
        assert look(sensor(there, newer_than=at.replace(minute=at.minute - 1))) == ["a.csv"]
        assert look(sensor(there, newer_than="2020-09-13T08:26:39-04:00")) == ["a.csv"]
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_a_marker(there):
    there.put("a.csv")
    waiting = sensor(there, "", pattern="*", marker_file="_SUCCESS")
    assert look(waiting) is None
    there.put("_SUCCESS")
    assert look(waiting) == ["a.csv"]


def test_a_file_that_grows_is_not_there_yet(there, clock):
    waiting = sensor(there, stable_for="60s")
    there.put("a.csv", "b.csv")
    assert look(waiting) is None
    clock.advance(59)
    there.disk.put("b.csv", b"more of it")
    assert look(waiting) is None
    clock.advance(1)
    assert look(waiting) == ["a.csv"]
    clock.advance(58)
    os.utime(there.disk.path / "b.csv", (5, 5))
    assert look(waiting) == ["a.csv"]
    clock.advance(60)
    assert look(waiting) == ["a.csv", "b.csv"]
    os.unlink(there.disk.path / "a.csv")
    assert look(waiting) == ["b.csv"]
    there.put("a.csv")
    assert look(waiting) == ["b.csv"]


def test_the_trigger_keeps_its_memory_and_a_new_one_begins_anew(there, clock):
    there.put("a.csv")
    _, arguments = sensor(there, stable_for=60).trigger().serialize()
    one, other = FileTrigger(**arguments), FileTrigger(**arguments)
    assert asyncio.run(one.observe()) is None
    clock.advance(60)
    assert asyncio.run(other.observe()) is None
    found: Any = asyncio.run(one.observe())
    assert found["count"] == 1


@pytest.mark.parametrize("error", [AccessDenied, ConnectionLost, PermanentError])
@pytest.mark.parametrize("call", ["stat", "list"])
def test_an_error_is_never_absent(here, monkeypatch, error, call):
    async def stat(self, path):
        raise error("no answer")

    async def listing(self, path, recursive=False):
        raise error("no answer")
        yield

    here.put("a.csv")
    monkeypatch.setattr(LocalStore, call, stat if call == "stat" else listing)
    waiting = sensor(here, "", patience=0)
    with pytest.raises(error, match="no answer"):
        look(waiting)


def test_a_server_that_is_away_is_waited_out_and_then_told(here, monkeypatch):
    away = {"conn_type": "sftp", "host": "127.0.0.1", "port": free_port(), "extra": {"no_host_key_check": True}}
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", json.dumps(away))
    waiting = StoreFileSensor(task_id="wait", path="sftp://partner@/x", patience=1, deferrable=False)
    assert not waiting.poke(make_context(waiting))
    with pytest.raises(ConnectionLost):
        waiting.poke(make_context(waiting))


def test_a_path_on_the_worker_is_not_deferred(here):
    here.put("a.csv")
    result = execute(waiting := sensor(here, deferrable=True), make_context(waiting))
    assert result["count"] == 1


def test_a_remote_path_is_deferred(tmp_path, sshd):
    waiting = sensor(stage("sftp", tmp_path, sshd), deferrable=True)
    with pytest.raises(TaskDeferred):
        execute(waiting, make_context(waiting))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"min_files": 0}, "min_files"),
        ({"min_files": 20_000}, "min_files"),
        ({"min_size": -1}, "min_size"),
        ({"stable_for": "soon"}, "stable_for"),
        ({"stable_for": 5, "mode": "reschedule"}, "stable_for"),
        ({"newer_than": "2026-01-01"}, "newer_than"),
        ({"newer_than": "yesterday"}, "newer_than"),
        ({"marker_file": "../x"}, "marker_file"),
        ({"pattern": "*"}, "pattern"),
        ({"path": "x"}, "path"),
        ({"path": "sftp://nobody@/x"}, "conn_id"),
    ],
)
def test_bad_input(here, options, field):
    waiting = sensor(here, **{name: value for name, value in options.items() if name != "path"})
    waiting.path = options.get("path", waiting.path)
    with pytest.raises(ConfigError) as caught:
        look(waiting)
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
