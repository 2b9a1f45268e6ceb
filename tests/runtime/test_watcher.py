"""The base of asset watchers: nothing is lost, nothing told twice but for a kill, and it never ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.module_loading import import_string

from flowrunner_provider.core.errors import ConnectionLost, Json
from flowrunner_provider.runtime.watcher import FlowRunnerWatcher, Seen


class Far:
    """A growing list, and what goes wrong when one looks at it."""

    things: list[str]
    errors: list[BaseException]
    looks: int


@pytest.fixture(autouse=True)
def far() -> type[Far]:
    Far.things, Far.errors, Far.looks = [], [], 0
    return Far


class Watcher(FlowRunnerWatcher):
    """Tells of each element of the list; the cursor is how many were told."""

    settle = 0.0

    async def poll(self, cursor: Json) -> Seen:
        Far.looks += 1
        await asyncio.sleep(0)
        if Far.errors:
            raise Far.errors.pop(0)
        done = int(str(cursor or 0))
        events = tuple({"id": thing} for thing in Far.things[done : done + 2])
        return Seen(events=events, cursor=done + len(events))


class Accessor:
    """An asset's state store with the methods of Airflow 3.3.0: no asynchronous ones."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.failing = 0

    def get(self, key: str) -> Any:
        return self.kept.get(key)

    def set(self, key: str, value: Any) -> None:
        if self.failing:
            self.failing -= 1
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))
        self.kept[key] = value


class AsyncAccessor(Accessor):
    """The same with the asynchronous methods of 3.3.2; the others would block the event loop."""

    async def aget(self, key: str) -> Any:
        return super().get(key)

    async def aset(self, key: str, value: Any) -> None:
        super().set(key, value)

    def get(self, key: str) -> Any:
        raise AssertionError("blocks the event loop")

    set = get  # type: ignore[assignment]


def watcher(store: Any = None, **how: Any) -> Watcher:
    made = Watcher(**{"poll_interval": 0.0, **how})
    made.asset_state_store = store
    return made


def told(made: Watcher, count: int, *, and_settled: bool = False) -> list[Any]:
    """The payloads of the first events. The watcher is ended while the last one is on its way, or one look later."""

    async def listen() -> list[Any]:
        events = made.run()
        payloads = [(await anext(events)).payload for _ in range(count)]
        if and_settled:
            later = asyncio.ensure_future(anext(events))
            looks = Far.looks
            while Far.looks < looks + 2:
                await asyncio.sleep(0)
            later.cancel()
            await asyncio.gather(later, return_exceptions=True)
        await events.aclose()
        return payloads

    return asyncio.run(asyncio.wait_for(listen(), 20))


@pytest.fixture(params=["sync", "async", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AIRFLOW__FLOWRUNNER__STATE_PATH", str(tmp_path))
    return {"sync": Accessor, "async": AsyncAccessor, "file": lambda: None}[request.param]()


def test_each_thing_is_told_once_and_a_restart_goes_on_behind_it(store: Any) -> None:
    Far.things = ["a", "b", "c"]
    assert told(watcher(store), 3, and_settled=True) == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    Far.things = ["a", "b", "c", "d"]
    assert told(watcher(store), 1) == [{"id": "d"}]


def test_what_was_on_its_way_when_the_triggerer_was_killed_is_told_again_with_the_same_id(store: Any) -> None:
    Far.things = ["a", "b"]
    assert told(watcher(store), 2) == [{"id": "a"}, {"id": "b"}]
    Far.things = ["x", "y", "c"]
    assert told(watcher(store), 3) == [{"id": "a"}, {"id": "b"}, {"id": "c"}]


def test_when_there_is_more_to_tell_the_next_look_comes_at_once() -> None:
    class Busy(Watcher):
        async def poll(self, cursor: Json) -> Seen:
            seen = await super().poll(cursor)
            return Seen(events=seen.events, cursor=seen.cursor, more=int(str(seen.cursor)) < len(Far.things))

    Far.things = ["a", "b", "c", "d", "e"]
    made = Busy(poll_interval=3600.0)
    made.asset_state_store = Accessor()
    assert [event["id"] for event in told(made, 5)] == Far.things


def test_another_interval_keeps_the_place_and_another_name_starts_afresh(store: Any) -> None:
    Far.things = ["a", "b"]
    told(watcher(store), 2, and_settled=True)
    Far.things = ["a", "b", "c"]
    assert told(watcher(store, poll_interval=0.001), 1) == [{"id": "c"}]
    assert told(watcher(store, name="other"), 1) == [{"id": "a"}]


def test_errors_of_any_kind_are_waited_out(capsys: pytest.CaptureFixture[str]) -> None:
    Far.things = ["a"]
    Far.errors = [ConnectionLost("the line broke"), RuntimeError("a bug"), ConnectionLost("again")]
    assert told(watcher(Accessor()), 1) == [{"id": "a"}]
    log = capsys.readouterr().out
    assert "the line broke" in log
    assert "a bug" in log


def test_nothing_is_told_before_it_is_written_down_and_nothing_new_before_it_is_settled() -> None:
    store = Accessor()
    store.failing = 2
    Far.things = ["a", "b", "c"]
    assert told(watcher(store), 3) == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    store.failing = 2
    assert told(watcher(store), 1) == [{"id": "c"}]


def test_a_shared_watcher_says_that_it_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    class Shared(Accessor):
        tries = 0

        def get(self, key: str) -> Any:
            self.tries += 1
            if self.tries == 1:
                raise ValueError("Task has 2 concrete inlets and outlets")
            return super().get(key)

    Far.things = ["a"]
    assert told(watcher(Shared()), 1) == [{"id": "a"}]
    assert "different name" in capsys.readouterr().out


def test_foreign_state_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    store = Accessor()
    Far.things = ["a"]
    told(watcher(store), 1)
    key = min(store.kept)  # the others have a suffix
    store.kept[key] = ["what is this"]

    async def watch() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watcher(store).run()), 0.2)

    asyncio.run(watch())
    assert store.kept[key] == ["what is this"]
    assert "unknown format" in capsys.readouterr().out


def test_it_is_stored_by_its_arguments() -> None:
    path, arguments = watcher(name="n", poll_interval=5.0).serialize()
    assert arguments == {"name": "n", "poll_interval": 5.0}
    assert import_string("flowrunner_provider.runtime.watcher.FlowRunnerWatcher")(**arguments).poll_interval == 5.0
    assert path.endswith("Watcher")
